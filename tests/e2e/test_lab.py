"""`release-bot lab` with the real quantizer and the real engine: compared, kept, and not run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rehearsed import bot

from bot import localhub
from bot.demo import rehearsal
from bot.lab.record import LabEvidence

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
SMALL = {
    "calibration.sets.*.num_samples": "4",
    "calibration.sets.*.lengths.min_tokens": "32",
    "calibration.sets.*.lengths.max_tokens": "64",
    "evaluation.window_tokens": "64",
    "evaluation.stride_tokens": "64",
    "evaluation.divergence_tokens": "1024",
}
SEED = ["seed=gptq-foem-g32"]
FRESH = ["fresh=gptq-foem-g32", "method.patches=[fresh-group-scales]"]
Lab = Callable[..., tuple[LabEvidence, str]]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab") / "out"


@pytest.fixture(scope="module")
def lab(home: Path, out: Path) -> Iterator[Lab]:
    """`lab(variants…, split=)`: run the command; its evidence and what it said."""
    with localhub.running(out.parent / "hub") as hub:
        from bot.edges.hub import Hub

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", hub.url)
            patch.setenv("HF_TOKEN", hub.token)
            rehearsal.seed(Hub(embedded=True))

        def run(*variants: list[str], split: str = "choose") -> tuple[LabEvidence, str]:
            argv = ["lab", rehearsal.BASE, "--json", "--split", split, "--out", str(out)]
            argv += [text for key, value in SMALL.items() for text in ("--set", f"{key}={value}")]
            argv += [text for variant in variants for text in ("--variant", *variant)]
            done = bot(home, *argv, HF_ENDPOINT=hub.url, HF_TOKEN=hub.token)
            assert done.returncode == 0, done.stderr[-4000:]
            found = LabEvidence.model_validate(json.loads(done.stdout))
            assert (
                found.model_dump_json()
                == LabEvidence.model_validate_json((out / f"lab-{split}.json").read_bytes()).model_dump_json()
            )
            assert (out / f"lab-{split}-dark.svg").stat().st_size > 1000
            return found, done.stderr

        yield run


@pytest.fixture(scope="module")
def compared(lab: Lab) -> LabEvidence:
    """Two variants, by the split to choose by: two quantizations and three starts of the engine."""
    return lab(SEED, FRESH)[0]


def test_variants_are_compared_on_the_same_tokens(compared: LabEvidence):
    seed, fresh = compared.variants
    assert compared.reference == seed.label == "seed"
    assert seed.measured.failure is None
    assert seed.measured.bits_per_weight == fresh.measured.bits_per_weight
    assert "patches.fresh-group-scales" in {
        each.parameter for each in fresh.measured.parameters if each.acted
    }
    assert any(each.startswith("fresh-group-scales: ") for each in fresh.measured.patches)
    assert [each.domain for each in compared.texts] == ["prose", "code", "chat"]
    for one, other in zip(seed.measured.figures, fresh.measured.figures, strict=True):
        assert one.tokens_sha256 == other.tokens_sha256
        assert one.base_ppl == other.base_ppl
        assert 0 < one.kld != other.kld > 0
        assert one.num_windows == 16
    assert [each.domain for each in fresh.against_reference] == ["prose", "code", "chat", "all"]
    for row in fresh.against_reference:
        assert row.change_interval.low <= row.change <= row.change_interval.high


def test_what_was_measured_is_not_run_again_and_one_that_fails_stops_none(lab: Lab, compared: LabEvidence):
    broken = ["broken=gptq-foem-g32", "thresholds.max_relative_error=0.001"]
    again, said = lab(SEED, FRESH, broken)
    assert [each.measured for each in again.variants[:2]] == [each.measured for each in compared.variants]
    assert said.count("measured already") == 2
    assert "checks failed" in (again.variants[2].measured.failure or "")
    assert again.variants[2].kld is None


def test_a_record_that_is_lost_is_made_again_from_what_was_scored(lab: Lab, compared: LabEvidence, out: Path):
    """Nothing is scored then, and no time or memory of scoring is told."""
    before = compared.variants[1].measured
    (out / "variants" / f"{before.key}.json").unlink()
    again = lab(SEED, FRESH)[0].variants[1].measured
    assert (again.score_wall_s, again.score_peak_memory_bytes) == (None, None)
    assert again == before.model_copy(update={"score_wall_s": None, "score_peak_memory_bytes": None})
    assert before.score_wall_s


def test_another_split_quantizes_nothing_again(lab: Lab, compared: LabEvidence):
    reported, said = lab(SEED, split="report")
    assert "unchanged since" in said
    (chosen, _), (other,) = compared.variants, reported.variants
    assert chosen.measured.release_key == other.measured.release_key
    ours = {each.tokens_sha256 for each in other.measured.figures}
    assert not ours & {each.tokens_sha256 for each in chosen.measured.figures}
