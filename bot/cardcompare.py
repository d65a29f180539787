"""A card against the one that its evidence renders to, byte for byte; each difference with what to do.

The lint says whether a card claims what evidence does not hold. This says whether it is the very card,
outside the regions that reviewers may rewrite: what the lint alone would let pass, nobody could render again.
"""

from __future__ import annotations

import difflib

from bot import figures, prose

MAX_PROBLEMS = 20
MAX_SHOWN_CHARS = 120


def compare(text: str, rendered: str) -> list[str]:
    """How `text` differs from `rendered` outside their prose regions; empty when it does not."""
    if "\r" in text:
        return ["the line endings are not LF; save it with LF, as it was rendered"]
    if marks := prose.problems(text, rendered):
        return marks
    expected = prose.splice(rendered, prose.regions(text))
    if text == expected:
        return []
    have, wanted = text.split("\n"), expected.split("\n")
    found: list[str] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, wanted, have, autojunk=False).get_opcodes():
        if kind != "equal":
            found += _hunk(wanted[i:j], have[k:m], k + 1)
    if len(found) > MAX_PROBLEMS:
        return [*found[:MAX_PROBLEMS], f"and {len(found) - MAX_PROBLEMS} more differences"]
    return found


def _hunk(wanted: list[str], have: list[str], number: int) -> list[str]:
    """One difference: lines that stand where others should, too many lines, or too few."""
    pairs = list(zip(wanted, have, strict=False))
    problems = [_changed(old, new, number + n) for n, (old, new) in enumerate(pairs)]
    problems += [
        f"line {number + n}: {_shown(line)} is not in the rendered card; words of your own belong "
        "between the marks of a prose region"
        for n, line in enumerate(have[len(pairs) :], len(pairs))
    ]
    problems += [f"line {number}: {_shown(line)} is missing before it" for line in wanted[len(pairs) :]]
    return problems


def _changed(wanted: str, have: str, number: int) -> str:
    old, new = figures.numbers(wanted), figures.numbers(have)
    what = f"line {number}: {_shown(have)} stands where the evidence renders {_shown(wanted)}"
    if old != new:
        return f"{what}; a figure changes only with its evidence"
    return f"{what}; prose is edited between the marks of a prose region only"


def _shown(line: str) -> str:
    return repr(line if len(line) <= MAX_SHOWN_CHARS else line[: MAX_SHOWN_CHARS - 1] + "…")
