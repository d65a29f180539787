"""What this process may hold, as Linux's control groups say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.edges import machine


def groups(folder: Path, line: str, limits: dict[str, str]) -> list[Path]:
    for path, text in limits.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / "own").write_text(line)
    return machine._memory_groups(folder / "cgroups", folder / "own")


@pytest.mark.parametrize(
    ("line", "limits", "expected"),
    [
        ("0::/a/b\n", {"cgroups/a/b/memory.max": "max\n", "cgroups/a/memory.max": "4096\n"}, [4096]),
        ("0::/a/b\n", {"cgroups/a/b/memory.max": "1024\n", "cgroups/a/memory.max": "4096\n"}, [1024, 4096]),
        ("0::/\n", {"cgroups/memory.max": "2048\n"}, [2048]),
        ("5:cpu:/x\n7:memory:/x\n", {"cgroups/memory/x/memory.limit_in_bytes": "512\n"}, [512]),
        ("0::/gone\n", {}, []),
    ],
)
def test_the_limits_of_a_group_and_its_parents(
    tmp_path: Path, line: str, limits: dict[str, str], expected: list[int]
):
    found = [limit for limit in map(machine._limit_in, groups(tmp_path, line, limits)) if limit]
    assert sorted(set(found)) == expected


def test_nothing_may_be_held_beyond_the_machine():
    assert 0 < machine.memory_limit_bytes() <= machine.memory_bytes()
