"""The lab's pure parts: what is asked for, what is compared, what is kept and shown."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import measured as m
import numpy as np
import pytest
from housed import facts

from bot import house, localhub
from bot import recipe as recipes
from bot.cli import _parser
from bot.commands import _pairs
from bot.config import Config
from bot.demo import rehearsal
from bot.edges.environment import Environment
from bot.edges.hub import Hub, RepoState
from bot.errors import (
    AuditFailed,
    BackendError,
    EngineError,
    InfrastructureError,
    InputError,
    NotServable,
    RecipeError,
    Refused,
    ReleaseBotError,
    UsageError,
)
from bot.job import Job
from bot.lab import compare, conditions, domains, folder, run, tables, variants
from bot.lab.conditions import Conditions
from bot.lab.kept import Records
from bot.lab.record import MIN_WINDOWS, Arrays, Figures, LabEvidence, Measured, Text, Variant, key_of
from bot.measurements import Interval
from bot.models import Base, Hardware
from bot.serving.engine import Engine
from bot.serving.examination import made_by
from tests.bench import lab as command

ROOT = Path(__file__).resolve().parents[2]
WINDOWS, TOKENS = 40, 32


def arrays(kld: float, *, seed: int = 1, spread: float = 0.3) -> Arrays:
    """Divergences around `kld`, hard windows hard for everyone; the base's losses the same for all."""
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    window = np.repeat(np.arange(WINDOWS, dtype=np.int32), TOKENS)
    hard = np.repeat(np.exp(shared.normal(size=WINDOWS)), TOKENS)
    base_nll = shared.uniform(1, 3, len(window))
    found = kld * hard * np.exp(spread * own.normal(size=len(window)))
    return {
        "kld": found,
        "nll": base_nll + 0.01,
        "base_nll": base_nll,
        "agree": np.ones(len(window), bool),
        "window": window,
    }


def by_domain(kld: float, **more: float) -> dict[str, Arrays]:
    return {name: arrays(kld, **more) for name in ("prose", "code", "chat")}  # type: ignore[arg-type]


def measured(key: str, bits: float | None = 4.5, failure: str | None = None, kld: float = 0.1) -> Measured:
    figures = [
        Figures(
            domain=name, kind="full", tokens_sha256="0" * 64, num_tokens=WINDOWS * TOKENS,
            num_windows=WINDOWS,
            kld=kld, kld_interval=Interval(low=kld / 2, high=kld * 2, num_resamples=10), kld_p99=kld * 5,
            top1_agreement=0.9, ppl=7.0, base_ppl=6.9,
        )
        for name in ("prose", "code", "chat")
    ]  # fmt: skip
    return Measured(
        key=key, release_key=key, recipe_name="gptq-foem-g32", recipe_digest="0" * 64, overrides={},
        failure=failure, bits_per_weight=bits, quantized_bits_per_weight=4.5, tensor_bytes=1,
        relative_error=0.1, parameters=[], patches=[], quantize_wall_s=12.3,
        quantize_peak_memory_bytes=2**30, quantize_peak_gpu_memory_bytes=None, score_wall_s=1.0,
        score_peak_memory_bytes=1, figures=[] if failure else figures,
    )  # fmt: skip


# ── what is asked for ──────────────────────────────────────────────────────────────────────


def test_recipes_and_variations_come_in_order_with_what_is_set():
    asked = variants.parse(
        [["gptq-foem-g32"], ["a=gptq-foem-g32", "method.mse=2.4", "method.patches=[fresh-group-scales]"]],
        {"calibration.seed": "1", "method.mse": "3.0"},
    )
    assert [each.label for each in asked] == ["gptq-foem-g32", "a"]
    first, second = (each.recipe() for each in asked)
    assert (first.calibration.seed, first.method.mse) == (1, 3.0)
    assert (second.calibration.seed, second.method.mse) == (1, 2.4)  # a variation's own value wins
    assert second.method.patches == ["fresh-group-scales"]


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "nothing to compare"),
        ([["nvfp4"], ["nvfp4"]], "two variants are called 'nvfp4'"),
        ([["nvfp4", "method.mse=1"]], "is not LABEL=RECIPE"),
        ([["a="]], "is not LABEL=RECIPE"),
        ([["../x=nvfp4"]], "is not LABEL=RECIPE"),
        ([["../x"]], "is not LABEL=RECIPE"),
        ([["./my.yaml", "method.mse=1"]], "is not LABEL=RECIPE"),
        ([["a/my.yaml"], ["b/my.yml"]], "two variants are called 'my'"),
        ([["a=nvfp4", "method.mse"]], "'method.mse' of a is not KEY=VALUE"),
        ([["a=nvfp4", "=1"]], "'=1' of a is not KEY=VALUE"),
    ],
)
def test_what_makes_no_sense_is_refused(texts: list[list[str]], words: str):
    with pytest.raises(UsageError) as caught:
        variants.parse(texts, {})
    assert words in str(caught.value)


def test_a_file_is_called_by_its_stem(tmp_path: Path):
    shutil.copy(recipes.RECIPES_DIR / "house-g32.yaml", tmp_path / "mine.yaml")
    told = _parser().parse_args(["lab", "a/b", "--recipe", f"{tmp_path}/mine.yaml"])
    (asked,) = variants.parse(told.variants, {"calibration.seed": "7"})
    assert asked.label == "mine"
    assert asked.recipe().calibration.seed == 7


def test_a_recipe_that_is_none_is_refused_when_it_is_read():
    (asked,) = variants.parse([["a=gptq-foem-g33"]], {})
    with pytest.raises(RecipeError, match="gptq-foem-g33"):
        asked.recipe()


@pytest.mark.parametrize("field", ["window_tokens", "divergence_tokens"])
def test_a_variant_of_other_windows_is_refused_by_its_label(field: str):
    smaller = {"evaluation.stride_tokens": "512", f"evaluation.{field}": "512"}
    asked = variants.parse([["a=nvfp4"], ["b=house-g32"]], {})
    odd = replace(asked[1], label="odd", overrides=smaller)
    variants.require_same_windows(asked, [each.recipe() for each in asked])
    with pytest.raises(UsageError, match=rf"odd has evaluation.{field} 512, and a has [\d,]+\n") as caught:
        variants.require_same_windows([*asked, odd], [each.recipe() for each in (*asked, odd)])
    assert "--set" in caught.value.fix


@pytest.mark.parametrize("path", ["README.md", "docs/lab.md"])
def test_the_examples_can_be_run_as_they_stand(path: str):
    """Their recipes hold with what is set, and are pinned: the real Hub refuses others."""
    text = (ROOT / path).read_text(encoding="utf-8").replace("\\\n", "")
    (line,) = re.findall(r"(?m)release-bot (lab Qwen/.+)$", text)
    told = _parser().parse_args(shlex.split(line, comments=True))
    asked = variants.parse(told.variants, _pairs(told.overrides))
    found = [each.recipe() for each in asked]
    assert len(found) == 2
    assert not any(each.unpinned() for each in found)
    variants.require_same_windows(asked, found)


def test_no_text_is_at_both_splits_and_none_is_calibrated_on():
    calibrated = {
        (each.dataset, each.split) for name in recipes.names() for each in recipes.load(name).calibration.sets
    }
    for domain in domains.DOMAINS:
        assert domain.splits["choose"] != domain.splits["report"]
        assert not {(domain.dataset, split) for split in domain.splits.values()} & calibrated


# ── what is compared ───────────────────────────────────────────────────────────────────────


def test_a_real_gain_has_an_interval_below_zero_and_pairing_narrows_it():
    one, reference = by_domain(0.08, seed=2), by_domain(0.1, seed=3)
    rows = {each.domain: each for each in compare.paired(one, reference)}
    assert list(rows) == ["prose", "code", "chat", "all"]
    assert rows["all"].change == pytest.approx(-0.2, abs=0.02)
    for row in rows.values():
        assert row.change_interval.low < row.change < row.change_interval.high < 0
        assert row.difference_interval.low < row.difference < row.difference_interval.high < 0
    alone = compare.paired(one, one)[0].kld
    width = rows["prose"].change_interval.high - rows["prose"].change_interval.low
    by_window = one["prose"]["kld"].reshape(WINDOWS, TOKENS).mean(axis=1)
    unpaired = 2 * 1.96 * by_window.std() / np.sqrt(WINDOWS) / alone
    assert width < unpaired / 4


def test_no_difference_is_none():
    found = compare.paired(by_domain(0.1), by_domain(0.1))
    assert all(
        each.change == each.difference_interval.low == each.change_interval.high == 0 for each in found
    )


def test_chance_is_not_taken_for_a_gain():
    """A hundred pairs that differ by chance alone: about five intervals leave zero out, not twenty."""
    outside = 0
    for seed in range(100):
        one, other = arrays(0.1, seed=2 * seed + 10, spread=1), arrays(0.1, seed=2 * seed + 11, spread=1)
        row = compare.paired({"prose": one}, {"prose": other})[0]
        outside += not row.difference_interval.low < 0 < row.difference_interval.high
    assert outside <= 14


def test_all_weighs_domains_alike_however_long():
    one = {"prose": arrays(0.1), "code": {name: value[:64] for name, value in arrays(0.4).items()}}
    means = [each["kld"].mean() for each in one.values()]
    assert compare.overall(one) == pytest.approx(sum(means) / 2)
    (*_, row) = compare.paired(one, one)
    assert row.kld == pytest.approx(sum(means) / 2)


@pytest.mark.parametrize("name", ["window", "base_nll"])
def test_other_tokens_or_another_base_are_not_compared(name: str):
    other = by_domain(0.1)
    other["code"][name] = other["code"][name] + 1
    with pytest.raises(InputError, match="other code tokens, or beside other scores of the base") as caught:
        compare.paired(by_domain(0.1), other)
    assert "`measured` below RELEASE_BOT_HOME" in caught.value.fix


@pytest.mark.parametrize("exact", ["everywhere", "in code", "but in one window"])
def test_beside_a_divergence_of_zero_there_is_no_change(exact: str):
    reference = by_domain(0.1, seed=3)
    for name in reference if exact != "in code" else ["code"]:
        kept = reference[name]["window"] == (0 if exact == "but in one window" else -1)
        reference[name]["kld"] = np.where(kept, reference[name]["kld"], 0.0)
    labelled = [("a", measured("a")), ("b", measured("b"))]
    made = compare.variants(labelled, {"a": reference, "b": by_domain(0.1, seed=2)})
    told = [each.domain for each in made[1].against_reference]
    assert told == (["prose", "chat", "all"] if exact == "in code" else [])
    evidence = lab(made, texts=[text_of(domain=name) for name in reference])
    assert tables.UNDEFINED in tables.text(evidence).splitlines()
    assert LabEvidence.model_validate_json(evidence.model_dump_json()) == evidence
    assert [each.title for each in tables.points(evidence)] == ["a", "b"]


def test_the_frontier_is_what_nothing_else_beats():
    found = {"a": (4.5, 0.10), "b": (4.5, 0.08), "c": (4.2, 0.09), "d": (4.3, 0.095), "e": (5.0, 0.08)}
    labelled = [(key, measured(key, bits)) for key, (bits, _) in found.items()]
    made = compare.variants(labelled, {key: by_domain(kld, spread=0.0) for key, (_, kld) in found.items()})
    assert [each.label for each in made if each.on_frontier] == ["b", "c"]
    assert made[0].against_reference == []
    assert all(each.against_reference for each in made[1:])


def test_a_variant_that_failed_stands_without_figures():
    labelled = [("a", measured("a")), ("b", measured("b", None, "its audit failed"))]
    made = compare.variants(labelled, {"a": by_domain(0.1), "b": {}})
    assert (made[1].kld, made[1].against_reference, made[1].on_frontier) == (None, [], False)
    evidence = lab(made)
    assert "b: its audit failed" in tables.text(evidence)
    assert [each.title for each in tables.points(evidence)] == ["a"]


def test_where_the_reference_failed_there_is_nothing_to_compare_with():
    labelled = [("a", measured("a", None, "no")), ("b", measured("b"))]
    made = compare.variants(labelled, {"a": {}, "b": by_domain(0.1)})
    assert made[1].kld is not None
    assert made[1].against_reference == []


# ── what is run ────────────────────────────────────────────────────────────────────────────


class Asked(Hub):
    """The embedded Hub, with what is asked of it that names no commit."""

    def __init__(self, endpoint: str, token: str) -> None:
        super().__init__(embedded=True, endpoint=endpoint, token=token)
        self.heads: list[str] = []
        self.states: list[str] = []

    def head(self, repo_id: str, revision: str = "main", **more: object) -> str:
        self.heads += [repo_id] if revision == "main" else []
        return super().head(repo_id, revision, **more)  # type: ignore[arg-type]

    def state(self, repo_id: str, revision: str | None = None, **more: object) -> RepoState:
        self.states += [repo_id] if revision is None else []
        return super().state(repo_id, revision, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with localhub.running(tmp_path_factory.mktemp("hub")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        patch.setenv("HF_TOKEN", server.token)
        found = Asked(server.url, server.token)
        rehearsal.seed(found)
        yield found


def prepare(hub: Hub, out: Path, *texts: list[str], code: str = "0" * 64) -> list[Job]:
    asked = variants.parse(texts, {})
    work = conditions.work_folder(out, code)
    return run.prepared(
        run.resolved(rehearsal.BASE, hub),
        asked,
        [each.recipe() for each in asked],
        hub,
        Config(home=out / "home"),
        work,
    )


def test_the_base_is_resolved_once_for_all_variants(hub: Asked, tmp_path: Path):
    hub.states.clear()
    made = prepare(hub, tmp_path, ["house-g32"], ["plain=house-g32", "method.mse=0.0"], ["gptq-w4a16-g128"])
    assert hub.states == [rehearsal.BASE]
    assert len({each.release.base.revision for each in made}) == 1
    assert len({each.workspace.root for each in made}) == 3


def test_the_texts_are_resolved_once_for_all_variants(hub: Asked):
    hub.heads.clear()
    found = run.texts("choose", recipes.load("house-g32").evaluation, hub)
    assert sorted(hub.heads) == sorted(each.dataset for each in domains.DOMAINS)
    assert {name: each.split for name, each in found.items()} == {
        each.name: each.splits["choose"] for each in domains.DOMAINS
    }


def test_a_variant_that_cannot_be_is_refused_before_any_is_made(hub: Asked, tmp_path: Path):
    with pytest.raises(RecipeError, match="the recipe is not for this base"):
        prepare(hub, tmp_path, ["house-g32"], ["b=house-g128", "applies_to.max_parameters=1"])
    assert not list(tmp_path.rglob("quantized"))


def test_other_code_of_the_backends_is_another_record_and_another_folder(hub: Asked, tmp_path: Path):
    folder = tmp_path / "backends"
    shutil.copytree(conditions.BACKENDS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    before = conditions.code_digest(folder)
    assert before == conditions.code_digest()
    patch = folder / "patches" / "gptqmodel.py"
    patch.write_text(patch.read_text(encoding="utf-8") + "\n# mended\n", encoding="utf-8")
    after = conditions.code_digest(folder)
    assert after != before
    (old,) = prepare(hub, tmp_path, ["house-g32"], code=before)
    (new,) = prepare(hub, tmp_path, ["house-g32"], code=after)
    assert old.release == new.release  # a release's key stays: an upgrade quantizes no release again
    assert old.workspace.root != new.workspace.root
    assert key(old, backends=before) != key(new, backends=after)


def key(made: Job, *, serve: dict[str, object] | None = None, **changes: object) -> str:
    recipe = made.recipe.model_copy(update={"serve": made.recipe.serve.model_copy(update=serve or {})})
    given: dict[str, object] = {"backends": "b", "tools": "t", "scoring": ["s"]}
    return Conditions(**given | changes).key(made.release.key, recipe, [text_of()])  # type: ignore[arg-type]


def test_a_record_s_key_follows_code_tools_engine_and_serving(hub: Asked, tmp_path: Path):
    (made,) = prepare(hub, tmp_path, ["house-g32"])
    keys = [
        key(made),
        key(made, backends="c"),
        key(made, tools="u"),
        key(made, scoring=["other"]),
        key(made, serve={"kv_cache_dtype": "fp8"}),
    ]
    assert len(set(keys)) == 5
    assert key(made) == keys[0]


def engine(tmp_path: Path, **changes: object) -> Engine:
    environment = Environment(
        name="vllm-cuda", python=tmp_path / "bin" / "python", digest="0" * 64, versions={}
    )
    return Engine(environment=environment, facts=m.engine("cuda", **changes), home=tmp_path)


def test_what_scores_is_told_with_its_code_driver_and_variables(tmp_path: Path):
    found = conditions.scoring(engine(tmp_path))
    assert {made_by("engine"), made_by("divergence")} < set(found)
    assert any(each.startswith("PYTHON") or "=" in each for each in found)
    assert found != conditions.scoring(engine(tmp_path, driver="1.2.3"))
    assert found != conditions.scoring(engine(tmp_path, environment_digest="e" * 64))


@pytest.mark.parametrize(
    "error",
    [
        AuditFailed("2 checks failed"),
        BackendError("a NaN loss"),
        InputError("too few rows"),
        NotServable("garbage", "no numbers", log_tail=[]),
        RecipeError("no such group size"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_fails_one_variant_is_shown_and_stops_no_other(
    hub: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ReleaseBotError
):
    found = failing(hub, tmp_path, monkeypatch, error)
    assert found.failure == error.what
    assert found.figures == []
    assert not list(tmp_path.glob("variants/*"))  # the next run tries it again


@pytest.mark.parametrize(
    "error", [InfrastructureError("no disk"), EngineError("hung", "the engine hung")], ids=["disk", "engine"]
)
def test_a_fault_of_the_machine_ends_the_run(
    hub: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ReleaseBotError
):
    with pytest.raises(type(error), match=error.what):
        failing(hub, tmp_path, monkeypatch, error)


def failing(hub: Hub, out: Path, monkeypatch: pytest.MonkeyPatch, error: ReleaseBotError | None) -> Measured:
    """What is measured of a variant whose stages raise `error`; the base needs no engine here."""

    def stages(*_: object, **__: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(run.pipeline, "run", stages)
    monkeypatch.setattr(run.scoring, "diverge", lambda _: None)
    asked = variants.parse([["house-g32"]], {})
    (made,) = prepare(hub, out, ["house-g32"])
    plans = run.texts("choose", made.recipe.evaluation, hub)
    held = Conditions(backends="b", tools="t", scoring=["s"])
    bench = run.Bench(engine=engine(out), records=Records(out), conditions=held, plans=plans)
    return run.measured(bench, made, asked[0])


def test_a_variant_of_figures_that_are_no_numbers_is_shown_as_failed(
    hub: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def scored(*_: object) -> tuple[Measured, dict[str, Arrays]]:
        return measured("k").model_copy(update={"relative_error": float("nan")}), by_domain(0.1)

    monkeypatch.setattr(run, "_built", lambda *_: None)
    monkeypatch.setattr(run, "_scored", scored)
    found = failing(hub, tmp_path, monkeypatch, None)
    assert "relative_error nan" in (found.failure or "")
    assert not list(tmp_path.glob("variants/*"))


def test_a_damaged_record_is_no_result_of_a_run(
    hub: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The record that the run looks for, of another recipe: its stages run, and here they fail."""
    keys = []
    monkeypatch.setattr(Records, "read", lambda _, found, domains: keys.append(found.key))
    failing(hub, tmp_path, monkeypatch, BackendError("a NaN loss"))
    monkeypatch.undo()
    Records(tmp_path).keep(borne_out(keys[0], by_domain(0.1)), by_domain(0.1))
    found = failing(hub, tmp_path, monkeypatch, BackendError("a NaN loss"))
    assert found.failure == "a NaN loss"
    assert f"the record {keys[0]} is not taken" in capsys.readouterr().err


def test_the_command_without_network_says_what_fails_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RELEASE_BOT_HOME", str(tmp_path / "home"))
    assert command.main(["--base", str(tmp_path), "--", "--recipe", "house-g32"]) == InputError.exit_code
    assert "there is no model" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_refused_and_out_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="is a file") as caught:
            run.run("a/b", [], split="choose", hub=None, config=None, out=out)  # type: ignore[arg-type]
        assert "--out" in caught.value.fix


@pytest.mark.parametrize("other", [{"repo_id": "Qwen/other"}, {"revision": "1" * 40}], ids=["base", "commit"])
@pytest.mark.parametrize("held_by", ["choose", "report"])
def test_an_out_with_another_base_s_lab_is_refused_before_anything_runs(
    hub: Asked, tmp_path: Path, other: dict[str, str], held_by: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(run, "texts", lambda *_: pytest.fail("the texts are looked for"))
    base = run.resolved(rehearsal.BASE, hub)
    held = base.model_copy(update=other)
    path = tmp_path / f"lab-{held_by}.json"
    path.write_text(lab([], base=held).model_dump_json(), encoding="utf-8")
    before = path.read_bytes()
    asked = variants.parse([["house-g32"]], {})
    with pytest.raises(Refused) as caught:
        run.run(
            rehearsal.BASE, asked, split="choose", hub=hub, config=Config(home=tmp_path / "h"), out=tmp_path
        )
    for each in (held, base):
        assert f"{each.repo_id}@{each.revision[:12]}" in caught.value.what
    assert "--out" in caught.value.fix
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_an_out_with_a_lab_of_the_same_base_is_taken_and_an_unreadable_one_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base = Base(repo_id="a/b", revision="0" * 40)
    old = json.loads(lab([]).model_dump_json()) | {"of_another_version": 1}
    (tmp_path / "lab-report.json").write_text(json.dumps(old), encoding="utf-8")
    folder.require_same_base(tmp_path, base)
    assert capsys.readouterr().err == ""
    (tmp_path / "lab-choose.json").write_text("{", encoding="utf-8")
    folder.require_same_base(tmp_path, base)
    assert "lab-choose.json" in capsys.readouterr().err


# ── what is kept and shown ─────────────────────────────────────────────────────────────────


def text_of(**more: object) -> Text:
    given = {
        "domain": "prose", "dataset": "a/b", "revision": "0" * 40, "config": "c", "split": "test",
        "column": "text", "window_tokens": 256, "max_tokens": 1024,
    }  # fmt: skip
    return Text.model_validate(given | more)


def lab(found: list[Variant], **more: object) -> LabEvidence:
    hardware = Hardware(
        cpu="c", num_cores=2, memory_bytes=1, gpu=None, gpu_memory_bytes=None, platform="p", python="3"
    )
    return LabEvidence.model_validate(
        {
            "base": Base(repo_id="a/b", revision="0" * 40), "split": "choose", "texts": [text_of()],
            "base_facts": facts("a"), "quantizer_versions": {"torch": "2"},
            "making_digests": {each.label: "0" * 64 for each in found},
            "engine": "e 1", "engine_environment_digest": "x", "quantizer_environment_digest": "y",
            "hardware": hardware, "reference": "a", "num_variants": len(found), "variants": found,
            "measured_at": "now",
        }
        | more
    )  # fmt: skip


DOMAINS = ["prose", "code", "chat"]


def borne_out(key: str, found: dict[str, Arrays]) -> Measured:
    """A record with the figures that its arrays give."""
    record = measured(key)
    figures = [
        each.model_copy(
            update={
                "kld": float(found[each.domain]["kld"].mean()),
                "top1_agreement": float(found[each.domain]["agree"].mean()),
                "ppl": compare.perplexity(found[each.domain]["nll"]),
                "base_ppl": compare.perplexity(found[each.domain]["base_nll"]),
            }
        )
        for each in record.figures
    ]
    return record.model_copy(update={"figures": figures})


def wanted(key: str) -> Measured:
    """A variant of which nothing is known yet."""
    return measured(key).model_copy(update={"figures": []})


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Records, Measured]:
    records, found = Records(tmp_path), by_domain(0.1)
    records.keep(borne_out("k", found), found)
    return records, borne_out("k", found)


def test_a_record_is_found_again_with_its_arrays(
    kept: tuple[Records, Measured], capsys: pytest.CaptureFixture[str]
):
    records, record = kept
    assert records.read(wanted("other"), DOMAINS) is None
    assert records.read(wanted("k"), DOMAINS) == record
    assert (records.arrays("k", "code")["kld"] == by_domain(0.1)["code"]["kld"]).all()
    assert capsys.readouterr().err == ""
    assert len(list(records.folder.iterdir())) == 4  # no temporary file is left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": "l"}, "its key is l, not k"),
        ({"release_key": "l"}, "its release_key is l"),
        ({"recipe_name": "nvfp4"}, "its recipe_name is nvfp4"),
        ({"recipe_digest": "1" * 64}, "its recipe_digest"),
        ({"failure": "no"}, "it is of a failure: no"),
        ({"figures": []}, "figures over nothing, not prose, code, chat"),
        ({"tensor_bytes": "many"}, "tensor_bytes"),
        ({"num_tokens": 1}, "for 1 tokens"),
        ({"kld": 0.01}, "kld over prose is 0.01, by its arrays"),
        ({"kld": None}, "figures.0.kld"),
        ({"top1_agreement": 0.5}, "top1_agreement over prose"),
        ({"ppl": 2.0}, "ppl over prose"),
        ({"base_ppl": 2.0}, "base_ppl over prose"),
        ({"domain": "verse"}, "figures over verse, code, chat, not"),
    ],
)
def test_a_record_that_does_not_hold_is_told_of_and_measured_anew(
    kept: tuple[Records, Measured], change: dict[str, object], words: str, capsys: pytest.CaptureFixture[str]
):
    records, record = kept
    content = record.model_dump(mode="json")
    part = content["figures"][0] if change.keys() <= Figures.model_fields.keys() else content
    part.update(change)
    (records.folder / "k.json").write_text(json.dumps(content), encoding="utf-8")
    assert records.read(wanted("k"), DOMAINS) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert "measured anew" in line


def damaged(path: Path, how: str) -> None:
    if how == "lost":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif how == "a byte":
        content = bytearray(path.read_bytes())
        content[len(content) // 8] ^= 0xFF
        path.write_bytes(bytes(content))
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "one array":
        with path.open("wb") as file:
            np.save(file, np.ones(4))
    elif how == "an array less":
        np.savez(path, **{name: each for name, each in arrays(0.1).items() if name != "window"})  # type: ignore[arg-type]
    else:
        np.savez(path, **{name: each[:-1] for name, each in arrays(0.1).items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how", ["lost", "cut", "a byte", "empty", "one array", "an array less", "a token less"]
)
def test_arrays_that_are_damaged_are_told_of_and_measured_anew(
    kept: tuple[Records, Measured], how: str, capsys: pytest.CaptureFixture[str]
):
    records, _ = kept
    damaged(records.folder / "k-code.npz", how)
    assert records.read(wanted("k"), DOMAINS) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "code" in line
    assert "measured anew" in line


def test_arrays_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that fills up in the middle of one leaves what was there before."""
    records, found = Records(tmp_path), by_domain(0.1)
    record = borne_out("k", found)
    records.keep(record, found)

    def full(file: object, **_: object) -> None:
        file.write(b"PK")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        records.keep(record, found)
    assert records.read(wanted("k"), DOMAINS) == record
    assert len(list(records.folder.iterdir())) == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_figures_that_json_cannot_hold_are_not_kept(tmp_path: Path, value: float):
    record = measured("k")
    odd = record.figures[1].model_copy(update={"ppl": value})
    record = record.model_copy(update={"figures": [record.figures[0], odd, record.figures[2]]})
    with pytest.raises(InputError, match=rf"figures\.1\.ppl {value}"):
        Records(tmp_path).keep(record, by_domain(0.1))
    assert not list(tmp_path.iterdir())


def test_few_windows_are_told_below_the_table():
    def shown(number: int) -> str:
        record = measured("a")
        first = record.figures[0].model_copy(update={"num_windows": number})
        record = record.model_copy(update={"figures": [first, *record.figures[1:]]})
        return tables.text(lab(compare.variants([("a", record)], {"a": by_domain(0.1)})))

    for number in (1, 2, MIN_WINDOWS - 1):
        assert f"{tables.FEW_WINDOWS} (prose: {number})." in shown(number).splitlines()
    assert tables.FEW_WINDOWS not in shown(MIN_WINDOWS)


@pytest.mark.parametrize(
    ("labels", "words"),
    [("a", "no variants beside a"), ("ab", "1 variant beside a"), ("abc", "2 variants beside a")],
)
def test_the_reference_is_not_counted_beside_itself(labels: str, words: str):
    made = compare.variants(
        [(each, measured(each)) for each in labels], {each: by_domain(0.1) for each in labels}
    )
    assert f": {words}" in tables.text(lab(made)).splitlines()[0]


def test_the_key_follows_everything_that_the_figures_depend_on():
    keys = {
        key_of("r", ["e"], [text_of()]),
        key_of("s", ["e"], [text_of()]),
        key_of("r", ["f"], [text_of()]),
        key_of("r", ["e"], [text_of(window_tokens=512)]),
        key_of("r", ["e"], [text_of(split="validation")]),
        key_of("r", ["e"], [text_of(revision="1" * 40)]),
        key_of("r", ["e"], [text_of(column="code")]),
    }
    assert len(keys) == 7
    assert key_of("r", ["e"], [text_of()]) in keys


def test_the_tables_say_what_is_better_and_how_sure_that_is():
    labelled = [("a", measured("a")), ("b", measured("b"))]
    made = compare.variants(labelled, {"a": by_domain(0.1, seed=2), "b": by_domain(0.08, seed=3)})
    shown = tables.text(lab(made))
    change = made[1].against_reference[-1]
    assert f"{change.change:+.1%}" in shown
    assert f"{change.change_interval.low:+.1%} to {change.change_interval.high:+.1%}" in shown
    assert "4.500" in shown
    assert "b *" in shown
    assert LabEvidence.model_validate_json(lab(made).model_dump_json()) == lab(made)


def test_lower_bounds_are_told_as_such():
    whole, bounded = measured("a"), measured("b")
    figures = [each.model_copy(update={"kind": "lower_bound"}) for each in bounded.figures]
    labelled = [("a", whole), ("b", bounded.model_copy(update={"figures": figures}))]
    made = compare.variants(labelled, {"a": by_domain(0.1, seed=2), "b": by_domain(0.08, seed=3)})
    shown = tables.text(lab(made))
    assert shown.count("KLD ≥") == 3  # both tables, and the line under them
    assert tables.BOUNDS in shown.splitlines()
    full = tables.text(lab(compare.variants(labelled[:1], {"a": by_domain(0.1, seed=2)})))
    assert "≥" not in full


def test_a_time_that_is_the_last_process_s_alone_is_marked():
    resumed = measured("a").model_copy(update={"resumed_layers": 2})
    (made,) = compare.variants([("a", resumed)], {"a": by_domain(0.1)})
    shown = tables.text(lab([made]))
    assert "12.3 r" in shown
    assert tables.RESUMED in shown.splitlines()
    (whole,) = compare.variants([("a", measured("a"))], {"a": by_domain(0.1)})
    assert tables.RESUMED not in tables.text(lab([whole]))


def test_records_of_before_are_read_as_whole_runs():
    """Evidence that was written before `resumed_layers` was kept."""
    content = json.loads(measured("a").model_dump_json())
    del content["resumed_layers"]
    assert Measured.model_validate(content).resumed_layers == 0
    assert all(each.house.resumed_layers == 0 for found in house.read_all() for each in found.bases)
