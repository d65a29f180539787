"""House recipes: what evidence they ship with, the bar that it is held to, and what is quoted of it."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from types import SimpleNamespace

import housed
import pytest
from cards import golden, judged

from bot import cardlint, figures, house, job
from bot import recipe as recipes
from bot.backends.patches import autoround, gptqmodel
from bot.checkpoint.folder import FolderSource
from bot.demo import rehearsal
from bot.demo.rehearsal import FIXTURE
from bot.edges import environment
from bot.errors import InputError, UsageError
from bot.evidence import Evidence
from bot.house import bar, making, page, scaling
from bot.house.model import gain, over_all
from bot.lab import variants
from bot.lab.record import facts_of, weights_digest
from bot.models import BaseFile, Release, write_json
from bot.readme import recipe_table
from bot.stages import card
from bot.stages.quantize import inputs_digest
from tests.bench import house as command

HOUSE, COUNTERPART = housed.pair()
NOTE = "beta was halved on the report's 128 × 8 base (−20.3% and −20.7%)"
FOUND = housed.evidence()


# ── what ships ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", house.names())
def test_every_house_recipe_that_ships_passes_the_bar(name: str):
    ours, theirs = housed.pair(name)
    found = house.read(name)
    assert bar.refusals(ours, theirs, found, environment.pins("quantize-cpu")) == []
    assert found is not None
    assert fixture_weights() in {each.facts.weights_sha256 for each in found.bases}


def fixture_weights() -> str:
    """The digest of the committed fixture's weights, by other means than the lab's."""
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in FIXTURE.glob("*.safetensors")
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@pytest.mark.parametrize("name", house.names())
def test_a_house_recipe_differs_in_how_it_is_made_and_in_nothing_else(name: str):
    ours, theirs = housed.pair(name)
    same = ("serve", "coverage", "evaluation", "thresholds", "applies_to")
    assert [part for part in same if getattr(ours, part) != getattr(theirs, part)] == []
    assert (ours.method.bits, ours.method.group_size) == (theirs.method.bits, theirs.method.group_size)
    assert set(ours.unpinned()) <= set(theirs.unpinned())  # those are pinned together, by `recipes pin`
    assert ours.making_digest() != theirs.making_digest()


@pytest.mark.parametrize("name", house.names())
def test_a_house_recipe_is_rehearsed_at_its_counterpart_s_scale(name: str):
    ours, theirs = housed.pair(name)
    assert rehearsal.scale(name) == rehearsal.SCALE[theirs.name]
    small = job.load_recipe(name, rehearsal.scale(name))
    assert small.calibration.max_tokens < ours.calibration.max_tokens / 10
    assert small.method.bits == ours.method.bits


def test_house_recipes_and_faithful_ones_are_all_there_are():
    assert sorted([*house.names(), *recipes.faithful()]) == recipes.names()
    assert [name for name in recipes.names() if name.startswith("house-")] == house.names()


def test_the_page_is_current():
    shown = (house.FOLDER / "README.md").read_text(encoding="utf-8")
    assert shown == page.page(house.read_all()), "run `make generated`"


# ── from labs ──────────────────────────────────────────────────────────────────────────────


def test_labs_become_evidence_with_what_the_recipes_differ_in():
    found = making.of_labs(
        HOUSE, COUNTERPART, [housed.lab(base="b"), housed.lab(base="a")], num_tried=3, tried="x"
    )
    assert [each.base.repo_id for each in found.bases] == ["Qwen/a", "Qwen/b"]
    told = {each.parameter: (each.counterpart, each.house) for each in found.settings}
    assert told["method.foem_alpha"] == ("0.25", "1.0")
    assert told["method.descent_sweeps"] == ("0", "8")
    assert "128 × allenai/c4, 256 to 2048 tokens" in told["calibration.sets"][0]
    assert "method.bits" not in told
    assert found.bases[0].house_calibration_tokens == 48 * 2048
    assert found.bases[0].counterpart_calibration_tokens == 48 * 2048
    assert found.recipe_digest == HOUSE.making_digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split": "choose"}, "it is of the split choose"),
        ({"reference": "house-g32"}, "gptq-foem-g32 is not its reference"),
        ({"variants": housed.lab().variants[:1]}, "0 variants of house-g32"),
        ({"making_digests": {"house-g32": "0" * 64}}, "house-g32 is another recipe today"),
        (
            {"variants": [housed.lab().variants[0], housed.lab().variants[1].model_copy(
                update={"measured": housed.measured("house-g32", 0.1, {}, failure="no memory")})]},
            "house-g32 failed: no memory",
        ),
    ],
)  # fmt: skip
def test_a_lab_that_shows_nothing_of_the_pair_is_refused(changes: dict[str, object], words: str):
    with pytest.raises(InputError, match=words):
        making.of_labs(HOUSE, COUNTERPART, [housed.lab(**changes)], num_tried=1, tried="x")  # type: ignore[arg-type]


def test_a_base_is_told_by_its_weights_and_shape():
    files = [BaseFile(path=f"{n}.safetensors", size_bytes=1, blob_id="b", sha256=f"{n}" * 64) for n in (1, 2)]
    other = BaseFile(path="README.md", size_bytes=1, blob_id="c", sha256=None)
    assert weights_digest(files) == weights_digest([other, *reversed(files)]) != weights_digest(files[:1])
    text = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 8}
    base = golden("nvfp4").base
    for config in (text, {"text_config": text}):
        found = facts_of(base, config)
        assert (found.hidden_size, found.intermediate_size, found.num_hidden_layers) == (128, 384, 8)
        assert found.num_parameters == base.num_parameters


# ── what is quoted ─────────────────────────────────────────────────────────────────────────


def test_the_gain_is_the_range_over_the_bases():
    quoted = gain(FOUND)
    assert (quoted.best, quoted.worst) == (-0.3, -0.15)
    assert [each.base for each in quoted.bases] == ["tiny-a", "tiny-b", "tiny-c", "tiny-d"]


def test_the_page_says_every_figure_that_is_claimed():
    shown = page.page([FOUND])
    for each in FOUND.bases:
        row = over_all(each)
        sides = f"{each.facts.hidden_size} × {each.facts.num_hidden_layers}, {each.facts.intermediate_size}"
        line = next(x for x in shown.splitlines() if x.startswith(f"| {each.base.repo_id[5:]} | {sides} |"))
        assert figures.change(row.change) in line
        assert figures.change(row.change_interval.low) in line
        assert each.facts.weights_sha256[:16] in shown
        assert f"| {each.base.repo_id[5:]} | chat |" in shown
    assert "Variants tried on the split `choose`: 23 (docs/lab.md)." in shown
    assert "Set for `gptq-foem-g32` here: `calibration.sets.*.num_samples=24`" in shown
    assert "Note:" not in shown
    assert f"Note: {NOTE}.\n" in page.page([FOUND.model_copy(update={"note": NOTE})])
    assert "gptqmodel 7.6.0" in shown
    assert page.NONE in page.page([])


def test_the_page_marks_a_time_that_is_the_last_process_s_alone():
    mark = "gone on with: the last process alone"
    assert mark not in page.page([FOUND])
    assert page.page([housed.with_base(house__resumed_layers=2)]).count(mark) == 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where evidence is looked for, empty."""
    monkeypatch.setattr(house, "FOLDER", tmp_path / "docs")
    return tmp_path / "docs"


def test_the_readme_tells_the_range_or_that_there_is_none(folder: Path):
    def row() -> str:
        return next(line for line in recipe_table().splitlines() if "(recipes/house-g32.yaml)" in line)

    assert row().endswith("| `gptq-foem-g32`: no evidence yet |")
    write_json(folder / "house-g32.json", FOUND)
    assert "`gptq-foem-g32`: −30.00% to −15.00% on [4 tiny bases](docs/house/README.md)" in row()


def test_a_card_quotes_evidence_of_the_very_recipe_only(folder: Path):
    release = golden("gptq-foem-g32").release
    made = {"recipe_name": HOUSE.name, "recipe": HOUSE.model_dump(mode="json"), "rehearsal": False}
    ours = release.model_copy(update=made)
    assert house.quoted(ours) is None
    write_json(folder / "house-g32.json", FOUND)
    assert house.quoted(ours) == gain(FOUND)
    assert house.quoted(release) is None  # no house recipe
    other = job.load_recipe(HOUSE.name, {"method.mse": "3.0"}).model_dump(mode="json")
    assert house.quoted(ours.model_copy(update={"recipe": other})) is None
    write_json(folder / "house-g32.json", FOUND.model_copy(update={"recipe_digest": "0" * 64}))
    assert house.quoted(ours) is None
    assert house.quoted(rehearsed(rehearsal.scale(HOUSE.name))) is None


def rehearsed(told: dict[str, str], **also: str) -> Release:
    """A rehearsal of the house recipe with `told` said to be set, and `also` set in it besides."""
    made = job.load_recipe(HOUSE.name, told | also).model_dump(mode="json")
    told_of = {"recipe_name": HOUSE.name, "recipe": made, "rehearsal": True, "overrides": told}
    return golden("gptq-foem-g32").release.model_copy(update=told_of)


def test_a_rehearsal_quotes_the_gain_unless_a_lever_was_changed(folder: Path):
    write_json(folder / "house-g32.json", FOUND)
    scale = rehearsal.scale(HOUSE.name)
    assert house.quoted(rehearsed(scale)) == gain(FOUND)
    assert house.quoted(rehearsed({})) == gain(FOUND)  # with other revisions only
    assert house.quoted(rehearsed(scale | {"method.mse": "3.0"})) is None
    assert house.quoted(rehearsed(scale | {"method.mse": "2.4"})) is None  # as it ships, and still no scaling
    assert house.quoted(rehearsed(scale, **{"method.mse": "3.0"})) is None  # another file of this name
    older = rehearsed(scale).model_copy(update={"overrides": {"calibration.sets.9.num_samples": "8"}})
    assert house.quoted(older) is None


def test_a_lever_that_would_scale_another_pair_silences_a_rehearsal():
    ours, theirs = housed.pair(housed.AUTOROUND)
    assert scaling.scales("method.iterations", ours, theirs)
    longer = ours.model_copy(update={"method": ours.method.model_copy(update={"iterations": 1000})})
    assert not scaling.scales("method.iterations", longer, theirs)
    assert not scaling.scales("method.group_size", ours, theirs)


def test_the_card_labels_the_gain_as_measured_elsewhere():
    plain = judged()
    assert "A house recipe" not in card.render(plain)
    assert "house" not in plain.model_dump(mode="json")
    content = plain.model_dump(mode="json") | {"house": gain(FOUND).model_dump(mode="json")}
    found = Evidence.model_validate(content)
    text = card.render(found)
    section = text.split("### Beside `gptq-foem-g32`")[1].split("\n## ")[0]
    assert "**Measured on 4 tiny trained bases, not on this one**" in section
    assert "changes by −30.00% to −15.00% against that of `gptq-foem-g32`" in section
    assert "| `method.descent_sweeps` | 0 | 8 |" in section
    assert "| tiny-b | 5,578,968 | 0.0200 | 0.0170 | −15.00% | −17.00% to −13.00% |" in section
    assert "23 variants were tried on other texts before (docs/lab.md)." in section
    assert "Note:" not in section
    known, told = card.known_figures(found), card.quoted_texts(found)
    assert cardlint.lint(text, known=known, rendered=text, quoted=told) == []


def test_the_card_prints_the_note_with_the_gain():
    quoted = gain(FOUND.model_copy(update={"note": NOTE})).model_dump(mode="json")
    found = Evidence.model_validate(judged().model_dump(mode="json") | {"house": quoted})
    text = card.render(found)
    assert f"on other texts before (docs/lab.md). Note: {NOTE}. The evidence is" in text
    known, told = card.known_figures(found), card.quoted_texts(found)
    assert cardlint.lint(text, known=known, rendered=text, quoted=told) == []


# ── the command ────────────────────────────────────────────────────────────────────────────


def asked_for(argv: list[str]) -> list[variants.Asked]:
    """What a lab makes of these arguments."""
    words, given = argv[6:], []
    common = dict(word.split("=", 1) for at, word in enumerate(words) if words[at - 1] == "--set")
    for each in " ".join(words).split("--variant ")[1:]:
        given.append([word for word in each.split(" --set")[0].split() if word])
    return list(variants.parse(given, common))


@pytest.mark.parametrize("name", house.names())
def test_the_command_alone_makes_what_is_committed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found, evidence = command.pair(name), house.read(name)
    assert evidence is not None
    scope = command.SCOPES[name]
    assert (evidence.num_tried, evidence.tried) == (scope.num_tried, scope.tried)
    bases = {rehearsal.BASE.partition("/")[2], *(each.name for each in command.SHAPES)}
    assert {each.base.repo_id.partition("/")[2] for each in evidence.bases} == bases
    for each in evidence.bases:
        monkeypatch.setenv("RELEASE_BOT_DEVICE", "cuda" if each.hardware.gpu else "cpu")
        theirs, ours = asked_for(command.lab_arguments(found, each.base.repo_id, tmp_path))
        assert (theirs.overrides, ours.overrides) == (each.counterpart.overrides, each.house.overrides)


def test_a_recipe_without_a_row_needs_to_be_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(command, "SCOPES", {})
    for told in ({}, {"samples": 48}, {"tried": ["3", "x"]}):
        with pytest.raises(UsageError, match="how house-g32 is measured"):
            command.pair("house-g32", **told)  # type: ignore[arg-type]
    scope = command.pair("house-g32", samples=48, tried=["3", "x"]).scope
    assert (scope.samples, scope.num_tried, scope.tried) == (48, 3, "x")


def test_what_is_told_goes_before_what_stands_there():
    found = command.pair("house-g32", tried=["3", "x"]).scope
    assert found == dataclasses.replace(command.SCOPES["house-g32"], num_tried=3, tried="x")
    with pytest.raises(UsageError, match="many is no number of variants"):
        command.pair("house-g32", tried=["many", "x"])


@pytest.mark.parametrize("option", [["--tried", "3", "x"], ["--note", "x"]])
def test_what_is_of_one_recipe_is_not_written_for_all(
    option: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command.main(["--render", "--out", str(tmp_path), *option]) == UsageError.exit_code
    assert "--tried and --note are of one recipe" in capsys.readouterr().err


def test_labs_of_other_patches_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert command.labs(COUNTERPART, tmp_path) == tmp_path / "gptq-foem-g32"
    before = command.labs(HOUSE, tmp_path)
    (edit, *rest) = (made := gptqmodel.descent(8)).edits
    edits = (dataclasses.replace(edit, new=f"{edit.new}\n"), *rest)
    rewritten = dataclasses.replace(made, edits=edits)
    monkeypatch.setattr(gptqmodel, "descent", lambda sweeps: rewritten)
    assert before.name.startswith("house-g32-patches-")
    assert command.labs(HOUSE, tmp_path) != before


def test_work_of_other_patches_is_not_gone_on_with(monkeypatch: pytest.MonkeyPatch):
    """A run that was interrupted resumes on its inputs' digest: a rewritten patch is another input."""
    release = SimpleNamespace(key="k", base=SimpleNamespace(revision="0" * 40))
    place = SimpleNamespace(name="e", digest="d")
    swept, plain = recipes.load(housed.AUTOROUND), recipes.load("autoround-w4a16-g128")
    before = [inputs_digest(release, each, [], place) for each in (swept, plain)]
    made = autoround.descent(8, 0.05)
    rewritten = dataclasses.replace(made, edits=(dataclasses.replace(made.edits[0], new="pass\n"),))
    monkeypatch.setattr(autoround, "descent", lambda sweeps, damp: rewritten)
    after = [inputs_digest(release, each, [], place) for each in (swept, plain)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True]


@pytest.mark.parametrize("name", house.names())
def test_both_are_scaled_by_the_same_factors_to_recipes_that_hold(name: str, tmp_path: Path):
    found = command.pair(name, samples=48)
    argv = command.lab_arguments(found, "Qwen/tiny", tmp_path)
    folder = command.labs(found.house, tmp_path) / "tiny"
    assert argv[:6] == ["lab", "Qwen/tiny", "--split", "report", "--out", str(folder)]
    asked = asked_for(argv)
    assert [each.label for each in asked] == [found.counterpart.name, name]
    theirs, ours = (each.recipe() for each in asked)
    assert theirs.calibration.num_samples == 48
    longest = max(each.lengths.max_tokens for each in theirs.calibration.sets)
    assert longest == 256
    shipped = found.house.calibration.max_tokens / found.counterpart.calibration.max_tokens
    assert ours.calibration.max_tokens / theirs.calibration.max_tokens == pytest.approx(shipped, rel=0.1)
    assert ours.evaluation == theirs.evaluation
    assert ours.calibration.seed == theirs.calibration.seed != found.house.calibration.seed
    allowed = [key for each in asked for key in each.overrides if scaling.SCALING.fullmatch(key)]
    assert len(allowed) == sum(len(each.overrides) for each in asked)


def test_labs_that_ran_are_rendered_without_running_anything(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    labs = command.labs(HOUSE, tmp_path / "out")
    for letter, change in zip("abcd", (-0.2, -0.15, -0.3, 0.05), strict=True):
        write_json(labs / letter / "lab-report.json", housed.lab(base=letter, change=change))
    argv = ["--render", "--out", str(tmp_path / "out"), "--recipe", "house-g32"]
    assert command.main([*argv, "--note", NOTE]) == 6
    assert "house-g32: does not pass:\n  on d: " in capsys.readouterr().out
    write_json(labs / "d" / "lab-report.json", housed.lab(base="d", change=-0.1))
    assert command.main([*argv, "--tried", "23", "docs/lab.md"]) == 0
    found = house.read("house-g32")
    assert found is not None
    assert (found.num_tried, len(found.bases)) == (23, 4)
    assert found.note == NOTE  # as the evidence of before has it
    assert command.main([*argv, "--note", ""]) == 0
    found = house.read("house-g32")
    assert found is not None
    assert (found.num_tried, found.note) == (command.SCOPES["house-g32"].num_tried, None)
    assert page.page([found]) == (folder / "README.md").read_text(encoding="utf-8")
    assert command.main(["--render", "--out", str(tmp_path / "none")]) == InputError.exit_code


def test_bases_are_trained_by_the_fixture_s_script_when_asked(tmp_path: Path):
    with pytest.raises(UsageError, match="is not trained"):
        command._trained(tmp_path, train=False)
    argv = command.training(command.SHAPES[0], tmp_path, Path("python"))
    assert Path(argv[1]).is_file()
    assert " ".join(argv[2:]).startswith(
        "--hidden 128 --layers 8 --intermediate 384 --seed 1 --steps 240 --out "
    )
    source = Path(argv[1]).read_text(encoding="utf-8")
    fields = {word.removeprefix("--") for word in argv if word.startswith("--")}
    shape = source.partition("class Shape:")[2].partition("# ---")[0]
    assert all(f'"--{each}"' in source or f"    {each}: int = " in shape for each in fields)
    for each in command.SHAPES:
        (tmp_path / each.name).mkdir()
        (tmp_path / each.name / "config.json").write_text("{}")
    assert command._trained(tmp_path, train=False) == [tmp_path / each.name for each in command.SHAPES]


def test_a_faithful_recipe_has_no_pair():
    with pytest.raises(UsageError, match="nvfp4 is no house recipe"):
        command.pair("nvfp4")


def test_the_fixture_is_a_folder_that_the_lab_can_bring():
    assert {"config.json", "model.safetensors.index.json"} <= FolderSource(FIXTURE).files().keys()
