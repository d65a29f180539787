"""What changed since the predecessor: the same recipe's release of the previous base or revision.

Figures of two releases come from two runs, perhaps of two engines. What is set side by side here are
therefore sizes, and figures that each release has over its own base in its own run.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bot import comparison, figures
from bot.comparison import Comparison
from bot.evidence import Evidence
from bot.review.layout import CARDS

LIKENESS = 0.6  # below it two bases share a maker, not a line


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure, of the predecessor and of this release."""

    title: str
    before: str
    now: str


def folder_before(folder: str, suffix: str, folders: Iterable[str]) -> str | None:
    """The card's folder that most likely is the predecessor's: the same repo's, else the likeliest base's.

    `suffix` is the recipe's end of the repo's name: cards with the same one were made by the same recipe.
    """
    known = sorted(folders)
    if folder in known:
        return folder
    name = _base(folder, suffix)
    rated = [
        (difflib.SequenceMatcher(None, name, _base(each, suffix)).ratio(), each)
        for each in known
        if each.endswith(f"-{suffix}")
    ]
    likeness, found = max(rated, default=(0.0, ""))
    return found if likeness >= LIKENESS else None


def _base(folder: str, suffix: str) -> str:
    return folder.removeprefix(f"{CARDS}/").removesuffix(f"-{suffix}").partition("--")[2]


def rows(before: Evidence, now: Evidence) -> list[Row]:
    """The figures that both releases have."""
    old, new = comparison.of(before), comparison.of(now)
    found = []
    for title, value, shown in FIGURES:
        one, other = value(old), value(new)
        if one is not None and other is not None:
            found.append(Row(title=title, before=shown(one), now=shown(other)))
    return found


def _first_speed(found: Comparison) -> float | None:
    return found.release.speeds[0].ratio if found.release.speeds else None


Figure = tuple[str, Callable[[Comparison], float | None], Callable[[float], str]]
FIGURES: tuple[Figure, ...] = (
    ("size", lambda each: each.release.total_bytes, figures.gib),
    ("size, share of the base's", lambda each: each.release.size_ratio, figures.percent),
    (
        "bits per weight, quantized part",
        lambda each: each.release.quantized_bits_per_weight,
        lambda value: figures.fixed(value, 2),
    ),
    ("perplexity, change from the base", lambda each: each.release.ppl_change, figures.change),
    ("KL divergence from the base, nats", lambda each: each.release.kld, figures.nats),
    ("same likeliest token as the base", lambda each: each.release.top1_agreement, figures.percent),
    ("drafts accepted", lambda each: each.release.acceptance_rate, figures.percent),
    ("tokens/s over the base's, one stream", _first_speed, lambda value: f"{figures.fixed(value, 2)}×"),
    ("gates that block", lambda each: each.gates.blocking, lambda value: f"{value:.0f}"),
)
