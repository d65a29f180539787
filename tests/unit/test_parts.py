"""Measurements are found again by what they were made from, and by nothing else."""

from __future__ import annotations

from pathlib import Path

from bot.measurements import Greedy
from bot.serving.parts import Parts

PART = Greedy(tokens=[[1, 2]], wall_s=0.5)


def test_the_same_inputs_find_a_part_again_and_others_do_not(tmp_path: Path):
    parts = Parts(folder=tmp_path, common="engine 1")
    path = parts.path("greedy", 256)
    assert parts.read(path, Greedy) is None
    parts.write(path, PART)
    assert parts.read(parts.path("greedy", 256), Greedy) == PART
    others = [
        parts.path("greedy", 255),
        parts.path("greedy_plain", 256),
        Parts(folder=tmp_path, common="engine 2").path("greedy", 256),
    ]
    assert [parts.read(each, Greedy) for each in others] == [None, None, None]


def test_inputs_do_not_run_into_each_other(tmp_path: Path):
    parts = Parts(folder=tmp_path, common="engine")
    assert parts.path("greedy", "1", "23") != parts.path("greedy", "12", "3")


def test_a_part_of_another_form_is_measured_again(tmp_path: Path, capsys):
    parts = Parts(folder=tmp_path, common="engine")
    path = parts.path("greedy")
    path.write_text('{"tokens": [[1]], "wall_s": 1.0, "unknown": 2}')
    assert parts.read(path, Greedy) is None
    assert "measured again" in capsys.readouterr().err
    path.write_text("{")
    assert parts.read(path, Greedy) is None
