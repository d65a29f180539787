"""What evidence must show for a house recipe to stand in `recipes/`; a test asks it of each that does.

It is of this very recipe and counterpart, made with the quantizer and the patches of today. Both are served
alike and weigh the same. On every one of at least four bases, of at least three shapes, the divergence over
all domains is lower, with an interval that leaves zero out; and in no domain may it be higher by more than a
hundredth. Each figure is over at least 32 windows and the whole vocabulary. What is scaled down for tiny
bases is how much is looked at, never what the two recipes differ in; samples are drawn by a seed that neither
ships with. What is derived has to follow from the two records that lie beside it (`bot.house.consistency`).

Intervals are of one base and one pair; nothing is corrected for the number of variants that were tried, since
they were looked at on other texts. That number stands in the evidence, and a note where texts were the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bot.house import consistency, tools
from bot.house.model import HouseEvidence, OnBase, base_name
from bot.house.scaling import scales
from bot.lab.domains import DOMAINS
from bot.lab.record import ALL, MIN_WINDOWS, BaseFacts, Measured
from bot.recipe import Recipe

MIN_BASES = 4
MIN_SHAPES = 3
MAX_BITS_CHANGE = 0.005
MAX_DOMAIN_CHANGE = 0.01
MAX_SHARE = 1.1  # samples come in whole batches
SEED = "calibration.seed"


def refusals(
    house: Recipe, counterpart: Recipe, found: HouseEvidence | None, pins: Mapping[str, str]
) -> list[str]:
    """Every reason why `house` may not ship; empty when it may.

    `pins`: package → version, of the environment in which quantizers run now.
    """
    if found is None:
        return [f"docs/house/{house.name}.json is missing: `python -m tests.bench.house` makes it"]
    about_bases = [
        f"on {base_name(each)}: {problem}"
        for each in found.bases
        for problem in _on(each, house, counterpart)
    ]
    return [
        *_another(house, counterpart, found),
        *tools.changed(house, found, pins),
        *_unlike(house, counterpart),
        *_few(found),
        *about_bases,
    ]


def _another(house: Recipe, counterpart: Recipe, found: HouseEvidence) -> Iterator[str]:
    if (found.recipe, found.counterpart) != (house.name, counterpart.name):
        yield f"the evidence is of {found.recipe} beside {found.counterpart}"
    if found.recipe_digest != house.making_digest():
        yield f"the evidence is of another {house.name}: its making has changed since"
    if found.counterpart_digest != counterpart.making_digest():
        yield f"the evidence is beside another {counterpart.name}: its making has changed since"


def _unlike(house: Recipe, counterpart: Recipe) -> Iterator[str]:
    if house.counterpart != counterpart.name:
        yield f"{house.name} names {house.counterpart} as its counterpart, not {counterpart.name}"
    if house.serve != counterpart.serve:
        yield f"it is served otherwise than {counterpart.name}"
    if house.method.packing != counterpart.method.packing:
        yield f"it is packed as {house.method.packing}, not as {counterpart.method.packing}"


def _few(found: HouseEvidence) -> Iterator[str]:
    known = {each.facts.weights_sha256 for each in found.bases}
    if len(known) < MIN_BASES:
        yield f"{len(known)} different bases, of at least {MIN_BASES}"
    shapes = {sides for each in found.bases if None not in (sides := _sides(each.facts))}
    if len(shapes) < MIN_SHAPES:
        yield f"bases of {len(shapes)} different shapes, of at least {MIN_SHAPES}"
    if found.num_tried < 1 or not found.tried.strip():
        yield "it does not say how many variants were tried, and where they stand"


def _sides(facts: BaseFacts) -> tuple[int | None, ...]:
    return facts.hidden_size, facts.num_hidden_layers, facts.intermediate_size


# ── on one base ────────────────────────────────────────────────────────────────────────────


def _on(found: OnBase, house: Recipe, counterpart: Recipe) -> Iterator[str]:
    yield from _bits(found)
    yield from _figures(found.counterpart)
    yield from _figures(found.house)
    yield from _changes(found)
    yield from _scaling(found, house, counterpart)
    yield from _seed(found, house, counterpart)
    yield from consistency.problems(found, house, counterpart)


def _bits(found: OnBase) -> Iterator[str]:
    """Of all tensors and of the quantized ones alone: what is kept weighs more here than on a real base."""
    for name in ("bits_per_weight", "quantized_bits_per_weight"):
        ours, theirs = getattr(found.house, name), getattr(found.counterpart, name)
        if not ours or not theirs or not abs(ours / theirs - 1) <= MAX_BITS_CHANGE:
            yield f"{name} {ours}, beside {theirs}: more than {MAX_BITS_CHANGE:.1%} apart"


def _figures(found: Measured) -> Iterator[str]:
    """What the intervals rest on, of one of the two."""
    by_domain = {each.domain: each for each in found.figures}
    for domain in (each.name for each in DOMAINS):
        each = by_domain.get(domain)
        if each is None:
            yield f"{found.recipe_name} has no figures over {domain}"
        elif each.num_windows < MIN_WINDOWS:
            yield f"{found.recipe_name}, {domain}: {each.num_windows} windows, of at least {MIN_WINDOWS}"
        elif each.kind != "full":
            yield f"{found.recipe_name}, {domain}: a divergence that is only a {each.kind}"


def _changes(found: OnBase) -> Iterator[str]:
    rows = {each.domain: each for each in found.against}
    if missing := sorted({ALL, *(each.name for each in DOMAINS)} - rows.keys()):
        yield f"not compared over {', '.join(missing)}"
    for name, row in rows.items():
        high = row.change_interval.high
        if name == ALL and not high < 0:
            yield f"no gain that is told from chance: the divergence changes by at most {high:+.2%}"
        elif name != ALL and not high <= MAX_DOMAIN_CHANGE:
            yield f"{name} may be worse by {high:+.2%}, of at most {MAX_DOMAIN_CHANGE:+.0%}"


def _scaling(found: OnBase, house: Recipe, counterpart: Recipe) -> Iterator[str]:
    """What was set may take nothing away from what the two differ in, nor give one of them more to see."""
    ours, theirs = found.house.overrides, found.counterpart.overrides
    for key in sorted(ours.keys() | theirs.keys()):
        same = key.startswith("calibration.sets.") or ours.get(key) == theirs.get(key)
        if not same or not scales(key, house, counterpart):
            yield f"{key} was set, which is no mere scaling of both"
    share = found.house_calibration_tokens / found.counterpart_calibration_tokens
    shipped = house.calibration.max_tokens / counterpart.calibration.max_tokens
    if not share <= shipped * MAX_SHARE:
        yield f"it was given {share:.2f} times the calibration tokens, and ships with {shipped:.2f} times"


def _seed(found: OnBase, house: Recipe, counterpart: Recipe) -> Iterator[str]:
    """Settings were chosen with the seeds that ship: the samples here are to be others."""
    shipped = {house.calibration.seed, counterpart.calibration.seed}
    for seed in sorted({each.overrides.get(SEED, "") for each in (found.counterpart, found.house)}):
        if not seed.isdecimal() or int(seed) in shipped:
            yield f"{SEED} was set to {seed or 'nothing'}, and has to be another than those that ship"
