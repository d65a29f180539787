"""How figures are shown, and which shown forms a measured value may take.

Rounding happens here and nowhere else, and never before a gate. The card's lint asks the other
way round: is a number that stands in a card a form of something that evidence holds?
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_DIGEST = re.compile(r"[0-9a-f]{16,64}")
_SHOWN = (8, 12, 16)
NUMBER = re.compile(r"(?<![\w.])[+\N{MINUS SIGN}-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?![\w])")


def gib(size_bytes: float) -> str:
    """Bytes as GiB, below a tenth of one as MiB, then KiB: `19.53 GiB`, `10.4 MiB`, `2.1 KiB`."""
    if size_bytes >= 0.1 * 2**30:
        return f"{size_bytes / 2**30:.2f} GiB"
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 0.1 * 2**20 else f"{size_bytes / 2**10:.1f} KiB"


def count(value: int) -> str:
    """`1,199`."""
    return f"{value:,}"


def percent(share: float) -> str:
    """`0.1234` → `12.3%`."""
    return f"{share * 100:.1f}%"


def change(share: float) -> str:
    """`0.0186` → `+1.86%`; a loss of a fifth, `-0.2`, → `−20.00%`."""
    sign = "+" if share >= 0 else "\N{MINUS SIGN}"
    return f"{sign}{abs(share) * 100:.2f}%"


def nats(value: float) -> str:
    """A divergence: `0.0213`, and from a thousandth down three figures, `0.000217` or `1.37e-05`."""
    return f"{value:.4f}" if abs(value) >= 0.001 or not value else f"{value:.3g}"


def short(value: float) -> str:
    """A figure of any kind in four digits, as gates show it: `0.9871`, `1.204e+04`."""
    return f"{value:.4g}"


def fixed(value: float, digits: int = 3) -> str:
    """`0.1098` → `0.110`."""
    return f"{value:.{digits}f}"


def seconds(value: float) -> str:
    """Seconds, and minutes or hours from there on: `12.3 s`, `53.4 min`, `1.7 h`."""
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def plain(value: Any) -> str:
    """A parameter as YAML would show it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "none" if value is None else str(value)


def numbers(text: str) -> list[str]:
    """The numbers that stand in `text`, thousands separators removed, in order."""
    return [match[0].replace(",", "").lstrip("+") for match in NUMBER.finditer(text)]


def forms(evidence: Any) -> set[str]:
    """Every number that a card may print from `evidence` (parsed JSON): each value in each shown form."""
    found: set[str] = set()
    for _, value in {(type(each), each) for each in _leaves(evidence)}:  # 1 and 1.0 are equal
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, str):
            found.update(numbers(value))
            if _DIGEST.fullmatch(value):  # shown by its beginning, which may be digits only
                found.update(each for length in _SHOWN for each in numbers(value[:length]))
            continue
        shown = [str(value), gib(value), percent(value), change(value), nats(value), seconds(value)]
        shown += [f"{value:g}", short(value), *(fixed(value, digits) for digits in range(5))]
        for text in shown:
            found.update(each.lstrip("-\N{MINUS SIGN}") for each in numbers(text))
    return found


def _leaves(value: Any) -> Iterator[Any]:
    """Every value, name and length; token ids are names of words, not figures."""
    if isinstance(value, dict):
        yield len(value)
        for key, each in value.items():
            yield key
            yield from [] if key == "tokens" and isinstance(each, list) else _leaves(each)
    elif isinstance(value, list):
        yield len(value)
        for each in value:
            yield from _leaves(each)
    else:
        yield value
