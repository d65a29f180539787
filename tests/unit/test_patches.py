"""Patches of tools: put over the pinned source only, counted, and taken off again."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bot.backends.patches import (
    Acted,
    Edit,
    Patch,
    Target,
    applied,
    autoround,
    digest,
    gptqmodel,
    source_digest,
)
from bot.backends.patches.gptqmodel import PATCHES
from bot.backends.patches.modelopt import FP4_WITHOUT_CUDA
from bot.errors import BackendError
from bot.recipe_methods import GptqMethod

ROOT = Path(__file__).resolve().parents[2]
SOURCE = '''
LIMIT = 10


class Tool:
    @staticmethod
    def _other(x):
        return x

    def step(self, x, times=1):
        """Add one, up to a limit."""
        for _ in range(times):
            x = x + 1
        if x > LIMIT:
            raise ValueError("too far")
        return x
'''


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "sometool.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("sometool")
    del sys.modules["sometool"]


def patch(tool: ModuleType, old: str, new: str, **more: str) -> Patch:
    sha256 = more.pop("sha256", source_digest(tool.Tool.step))
    target = Target(module="sometool", function=more.pop("function", "Tool.step"), sha256=sha256)
    given = {"package": "numpy", "version": version("numpy"), "what": "", "unit": "steps"} | more
    return Patch(name=given.pop("name", "two"), edits=(Edit(target=target, old=old, new=new),), **given)


TWO = ("x = x + 1", 'x = _acted.instead("two", x + 1, x + 2)')


class Number:
    """What `Acted` needs of a tensor: `equal`."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __add__(self, more: int) -> Number:
        return Number(self.value + more)

    def __gt__(self, limit: int) -> bool:
        return self.value > limit

    def equal(self, other: Number) -> bool:
        return self.value == other.value


def test_a_patch_acts_while_it_is_on_and_counts(tool: ModuleType):
    original = tool.Tool.step
    with applied([patch(tool, *TWO)]) as acted:
        assert tool.Tool().step(Number(1), times=3).value == 7
        assert acted.counts() == {"two": 3}
    assert tool.Tool.step is original
    assert tool.Tool().step(Number(1), times=3).value == 4
    assert acted.counts() == {"two": 3}


def test_what_changes_nothing_is_not_counted(tool: ModuleType):
    with applied([patch(tool, "x = x + 1", 'x = _acted.instead("two", x + 1, x + 1)')]) as acted:
        assert tool.Tool().step(Number(1)).value == 2
        assert acted.counts() == {}


def test_two_patches_of_one_function_act_together(tool: ModuleType):
    far = patch(tool, "if x > LIMIT", "if x > LIMIT + 90", name="far")
    with applied([patch(tool, *TWO), far]):
        assert tool.Tool().step(Number(50)).value == 52


def test_the_function_keeps_its_modules_names_and_shows_its_lines(tool: ModuleType):
    with applied([patch(tool, *TWO)]), pytest.raises(ValueError, match="too far") as caught:
        tool.Tool().step(Number(9))
    assert 'raise ValueError("too far")' in "".join(traceback.format_tb(caught.value.__traceback__))


def test_nothing_wanted_touches_nothing(tool: ModuleType):
    original = tool.Tool.step
    with applied([]) as acted:
        assert tool.Tool.step is original
    assert acted.counts() == {}


def test_it_is_taken_off_when_the_run_fails(tool: ModuleType):
    original = tool.Tool.step
    with pytest.raises(RuntimeError), applied([patch(tool, *TWO)]):
        raise RuntimeError
    assert tool.Tool.step is original


def test_another_source_stops_and_changes_nothing(tool: ModuleType):
    """One character of the tool's function: nobody has looked whether the patch is still right."""
    wanted = patch(tool, *TWO)
    path = Path(str(tool.__file__))
    path.write_text(SOURCE.replace("Add one, up", "Add one; up"))
    sys.modules.pop("sometool")
    importlib.invalidate_caches()
    changed = importlib.import_module("sometool")
    original = changed.Tool.step
    with pytest.raises(BackendError, match="written for another source") as caught, applied([wanted]):
        pytest.fail("it ran")
    assert caught.value.where == "sometool.Tool.step"
    assert changed.Tool.step is original


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"version": "0.1"}, "is for numpy 0.1, and"),
        ({"package": "no-such-tool"}, "and absent is here"),
        ({"sha256": "0" * 64}, "written for another source"),
        ({"function": "Tool.gone"}, "finds nothing to mend"),
        ({"function": "Gone.step"}, "finds nothing to mend"),
    ],
)
def test_what_it_was_not_written_for_stops(tool: ModuleType, more: dict[str, str], words: str):
    original = tool.Tool.step
    with pytest.raises(BackendError, match=words), applied([patch(tool, *TWO, **more)]):
        pytest.fail("it ran")
    assert tool.Tool.step is original


@pytest.mark.parametrize("old", ["x = x + 5", "x"])
def test_a_line_stands_once(tool: ModuleType, old: str):
    with pytest.raises(BackendError, match="times, and needs it once"), applied([patch(tool, old, "")]):
        pytest.fail("it ran")


def test_counting_is_by_value():
    acted = Acted()
    one = np.zeros(1)
    with pytest.raises(AttributeError):
        acted.instead("a", one, one)  # tensors, not arrays: nothing is guessed
    assert acted.counts() == {}


def test_the_digest_is_of_the_source_as_it_stands(tool: ModuleType):
    text = inspect.getsource(tool.Tool.step)
    assert source_digest(tool.Tool.step) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", PATCHES)
def test_every_patch_of_gptqmodel_is_offered_by_its_name(name: str):
    assert PATCHES[name].name == name
    assert name in str(GptqMethod.model_json_schema()["properties"]["patches"])


def test_a_digest_tells_patches_by_what_they_do(tool: ModuleType):
    one, other = patch(tool, "x + 1", "x + 2"), replace(patch(tool, "x * 2", "x * 3"), name="another")
    known = digest([one, other])
    assert digest([other, one]) == known
    assert digest([replace(one, what="in other words", unit="lines"), other]) == known
    (edit,) = one.edits
    changed = [
        replace(one, version="9"),
        replace(one, name="renamed"),
        replace(one, edits=(replace(edit, old="x  + 1"),)),
        replace(one, edits=(replace(edit, new="x + 3"),)),
        replace(one, edits=(replace(edit, target=replace(edit.target, sha256="0" * 64)),)),
        replace(one, edits=(replace(edit, target=replace(edit.target, function="Tool.other")),)),
        replace(one, edits=(edit, edit)),
    ]
    assert len({known, *(digest([each, other]) for each in changed)}) == 1 + len(changed)


def test_a_digest_reaches_into_our_modules_that_new_lines_import(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    known = digest([FP4_WITHOUT_CUDA])
    rewritten = tmp_path / "fp4.py"
    rewritten.write_text("# other rounding\n")
    asked: list[str] = []

    def find_spec(name: str) -> ModuleSpec:
        asked.append(name)
        return ModuleSpec(name, None, origin=str(rewritten))

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert digest([FP4_WITHOUT_CUDA]) != known
    assert asked == ["bot.backends.fp4"]
    monkeypatch.undo()
    gone = replace(FP4_WITHOUT_CUDA.edits[0], new="from bot.backends.gone import x")
    with pytest.raises(BackendError, match=r"imports bot\.backends\.gone, which is not there"):
        digest([replace(FP4_WITHOUT_CUDA, edits=(gone,))])


def test_standing_in_is_counted_each_time():
    acted = Acted()
    assert [acted.stood_in("cpu", each) for each in (1, 1)] == [1, 1]
    assert acted.counts() == {"cpu": 2}


SHIPPED = [
    *PATCHES.values(),
    gptqmodel.descent(8),
    autoround.descent(8, 0.05),
    autoround.seeded_layers(42),
    FP4_WITHOUT_CUDA,
]


@pytest.mark.parametrize("made", SHIPPED, ids=lambda made: f"{made.package}-{made.name}")
def test_every_patch_is_pinned_and_described_for_its_authors(made: Patch):
    pins = (ROOT / "runners/environments/quantize-cpu.txt").read_text().lower()
    assert f"{made.package}=={made.version}" in pins
    # What stays as it was stands at one end, so that the edit reads as an insertion.
    kept = [edit for edit in made.edits if edit.old in edit.new]
    assert all(edit.new.startswith(edit.old) or edit.new.endswith(edit.old) for edit in kept)
    described = (ROOT / "docs/upstream" / f"{made.package}-{made.name}.md").read_text()
    for heading in ("## What", "## Why", "## Change", "## Test", "## Figures"):
        assert heading in described
    for edit in made.edits:
        assert edit.target.function in described
