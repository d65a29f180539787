"""Whether the evidence of one base agrees with itself: a part of the bar.

Cards and tables quote `against` and `counterpart_kld`, which a lab derived from per-token arrays that are not
committed. Their means follow from the two records beside them, so that a figure changed by hand shows. The
ends of an interval follow from the arrays alone: of them it is only asked that they hold the figure.

A text's commit is not compared: stand-ins of a data set have commits of their own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from bot.house.model import OnBase
from bot.lab.domains import DOMAINS
from bot.lab.record import ALL, Figures, Measured, Paired, Text
from bot.measurements import Interval
from bot.recipe import Recipe

ROUNDING = 1e-6  # relative; it is also how far a lab lets two scores of the base differ, in nats
NAMES = tuple(each.name for each in DOMAINS)


def problems(found: OnBase, house: Recipe, counterpart: Recipe) -> Iterator[str]:
    """What does not agree on this base, a line each; missing rows and figures are told by the bar itself."""
    for record, recipe in ((found.counterpart, counterpart), (found.house, house)):
        yield from _record(record, recipe)
    yield from _listed("the comparison", (each.domain for each in found.against), (*NAMES, ALL))
    yield from _texts(found.texts)
    yield from _scored_alike(found)
    yield from _derived(found)


def _record(found: Measured, recipe: Recipe) -> Iterator[str]:
    if found.recipe_name != recipe.name:
        yield f"the record of {recipe.name} is of {found.recipe_name}"
    if found.failure is not None:
        yield f"{recipe.name} failed: {found.failure}"
    yield from _listed(f"the record of {recipe.name}", (each.domain for each in found.figures), NAMES)


def _listed(what: str, domains: Iterable[str], known: Iterable[str]) -> Iterator[str]:
    """A row a domain at most, and of these only."""
    counts = Counter(domains)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
        yield f"{what} has {', '.join(repeated)} more than once"
    if others := sorted(counts.keys() - set(known)):
        yield f"{what} has {', '.join(others)}, which the lab does not score"


def _texts(found: Sequence[Text]) -> Iterator[str]:
    """Those that the lab reports on, each once."""
    by_domain = {each.domain: each for each in found}
    yield from _listed("the list of texts", (each.domain for each in found), NAMES)
    for domain in DOMAINS:
        wanted = (domain.dataset, domain.config, domain.splits["report"], domain.column)
        if (text := by_domain.get(domain.name)) is None:
            yield f"no text of {domain.name} is named"
        elif (told := (text.dataset, text.config, text.split, text.column)) != wanted:
            yield f"{domain.name} was scored on {' '.join(told)}, not on {' '.join(wanted)}"


def _scored_alike(found: OnBase) -> Iterator[str]:
    ours, theirs = _by_domain(found.house), _by_domain(found.counterpart)
    for domain in (name for name in NAMES if name in ours and name in theirs):
        one, other = ours[domain], theirs[domain]
        for field in ("tokens_sha256", "num_windows", "num_tokens"):
            if (mine := getattr(one, field)) != (beside := getattr(other, field)):
                yield f"{domain}: the two were not scored alike, {field} is {mine} beside {beside}"
        if not math.isclose(one.base_ppl, other.base_ppl, rel_tol=ROUNDING):
            yield f"{domain}: the base's perplexity is {one.base_ppl} beside {other.base_ppl}"


def _by_domain(found: Measured) -> Mapping[str, Figures]:
    return {each.domain: each for each in found.figures}


# ── what was derived from the records ──────────────────────────────────────────────────────


def _derived(found: OnBase) -> Iterator[str]:
    ours, theirs = _klds(found.house), _klds(found.counterpart)
    if ALL in theirs and not _close(found.counterpart_kld, theirs[ALL]):
        yield f"counterpart_kld is {found.counterpart_kld}, and its domains' mean is {theirs[ALL]}"
    for row in found.against:
        yield from _held(row)
        if row.domain in ours and row.domain in theirs:
            yield from _follows(row, ours[row.domain], theirs[row.domain])


def _klds(found: Measured) -> Mapping[str, float]:
    """Domain → mean divergence, with the mean of these as `all` where no domain is missing."""
    klds = {name: each.kld for name, each in _by_domain(found).items() if name in NAMES}
    return klds | ({ALL: fmean(klds.values())} if len(klds) == len(NAMES) else {})


def _follows(row: Paired, ours: float, theirs: float) -> Iterator[str]:
    beside = f"while the records have {ours} beside {theirs}"
    if not _close(row.kld, ours):
        yield f"{row.domain}: the divergence is {row.kld}, {beside}"
    if not abs(row.difference - (ours - theirs)) <= ROUNDING * theirs:
        yield f"{row.domain}: the difference is {row.difference}, {beside}"
    if not abs(row.change * theirs - (ours - theirs)) <= ROUNDING * theirs:
        yield f"{row.domain}: the change is {row.change:+.4%}, {beside}"


def _held(row: Paired) -> Iterator[str]:
    """Both figures inside their intervals."""
    for name, value, interval in (
        ("change", row.change, row.change_interval),
        ("difference", row.difference, row.difference_interval),
    ):
        if not _inside(value, interval):
            yield f"{row.domain}: the {name} {value:.6g} is outside {interval.low:.6g} to {interval.high:.6g}"


def _inside(value: float, interval: Interval) -> bool:
    return interval.low <= value <= interval.high


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=ROUNDING)
