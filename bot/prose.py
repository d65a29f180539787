"""Prose regions of a card: text between two marks, which reviewers may rewrite and a new render leaves alone.

    <!-- prose:summary -->
    The recipe's own words, or a reviewer's.
    <!-- /prose:summary -->

Everything outside the marks is what the evidence renders to, byte for byte. Inside, a line may hold no figure
that does not stand in the same region as rendered, and no link, image, HTML or code fence that does not.
Marks in a fenced block are text: a log line must not be able to open a region.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_REGION_CHARS = 8_000
_MARK = re.compile(r"<!-- (?P<end>/?)prose:(?P<name>[a-z][a-z-]{0,30}) -->")


@dataclass(frozen=True, kw_only=True)
class Region:
    """Lines `first` to `last` of a text, counted from 0, without the marks; `last` is one behind the end."""

    name: str
    first: int
    last: int


def find(text: str) -> tuple[list[Region], list[str]]:
    """The regions of `text`, and what is wrong with its marks; no region where anything is."""
    found: list[Region] = []
    problems: list[str] = []
    name, first = "", 0
    for number, line, mark in _marks(text):
        if mark is None:
            problems.append(f"line {number + 1}: {line.strip()!r} is no mark of a prose region")
        elif not mark["end"]:
            if name:
                problems.append(f"line {number + 1}: prose:{mark['name']} begins inside prose:{name}")
            name, first = mark["name"], number + 1
        elif mark["name"] != name:
            problems.append(f"line {number + 1}: prose:{mark['name']} ends and has not begun")
        else:
            found.append(Region(name=name, first=first, last=number))
            name = ""
    if name:
        problems.append(f"line {first}: prose:{name} has no end")
    names = [each.name for each in found]
    problems += [
        f"prose:{each} stands {names.count(each)} times"
        for each in dict.fromkeys(names)
        if names.count(each) > 1
    ]
    return ([] if problems else found), problems


def _marks(text: str) -> list[tuple[int, str, re.Match[str] | None]]:
    """Number and text of each line that is a mark, or looks like one, outside fenced blocks."""
    rows, inside = [], False
    for number, line in enumerate(text.split("\n")):
        if line.startswith("```"):
            inside = not inside
        elif not inside and "prose:" in line and line.lstrip().startswith("<!--"):
            rows.append((number, line, _MARK.fullmatch(line)))
    return rows


def regions(text: str) -> dict[str, str]:
    """The text of each region by its name, without a line break at its end."""
    lines = text.split("\n")
    return {each.name: "\n".join(lines[each.first : each.last]) for each in find(text)[0]}


def splice(rendered: str, kept: Mapping[str, str]) -> str:
    """`rendered` with the regions of `kept` in place of its own; names that it lacks are left out."""
    lines = rendered.split("\n")
    for each in reversed(find(rendered)[0]):
        if each.name in kept:
            lines[each.first : each.last] = kept[each.name].split("\n") if kept[each.name] else []
    return "\n".join(lines)


def blank(text: str) -> str:
    """`text` with its regions' lines emptied; the others keep their numbers."""
    lines = text.split("\n")
    for each in find(text)[0]:
        lines[each.first : each.last] = [""] * (each.last - each.first)
    return "\n".join(lines)


def problems(text: str, rendered: str) -> list[str]:
    """What is wrong with the marks of `text`, and with the size of its regions."""
    found, wrong = find(text)
    if wrong:
        return wrong
    expected, have = [each.name for each in find(rendered)[0]], [each.name for each in found]
    wrong += [f"the marks of prose:{name} are missing" for name in expected if name not in have]
    wrong += [f"prose:{name} is no region of this card" for name in have if name not in expected]
    long = [name for name, each in regions(text).items() if len(each) > MAX_REGION_CHARS]
    return wrong + [f"prose:{name} has more than {MAX_REGION_CHARS:,} characters" for name in long]
