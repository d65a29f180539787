"""What is kept of a house recipe beside its counterpart, and the few figures that are quoted of it.

The evidence holds both recipes' records as the lab made them, so that every table can be made again from it.
`Gain` is what a card and the README take over: a card's evidence holds it as it was when it was rendered.
"""

from __future__ import annotations

from typing import Literal

from bot.errors import InputError
from bot.lab.record import ALL, BaseFacts, Measured, Paired, Text
from bot.measurements import Interval
from bot.models import SCHEMA_VERSION, Base, Hardware, Model, Sha256


class Setting(Model):
    """A value in which a house recipe differs from its counterpart, both as YAML would show them."""

    parameter: str
    counterpart: str
    house: str


class OnBase(Model):
    """Both recipes on one base, scored on the same tokens; `against` is the house recipe beside the other.

    The calibration tokens are the most that each could see, scaled down as `overrides` of the records say.
    `counterpart_kld`: nats, the mean of the domains.
    """

    base: Base
    facts: BaseFacts
    texts: list[Text]
    engine: str
    engine_environment_digest: str
    quantizer_environment_digest: str
    quantizer_versions: dict[str, str]
    hardware: Hardware
    measured_at: str
    counterpart: Measured
    house: Measured
    counterpart_calibration_tokens: int
    house_calibration_tokens: int
    counterpart_kld: float
    against: list[Paired]


class HouseEvidence(Model):
    """`docs/house/<recipe>.json`. Digests are `Recipe.making_digest()` of the recipes as they ship.

    `num_tried` variants were looked at, on the other split, before this one was taken; `tried` says where
    they stand. `note` says what else a reader must know of that choice, such as a part of it that was made on
    the report's own texts; it is printed wherever the gain is. `patches_digest` is that of the patches which
    the recipe asks for (`bot.house.tools`); None where it asks for none, or evidence of before did not say.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    recipe: str
    recipe_digest: Sha256
    counterpart: str
    counterpart_digest: Sha256
    settings: list[Setting]
    num_tried: int
    tried: str
    note: str | None = None
    patches_digest: Sha256 | None = None
    split: Literal["report"]
    bases: list[OnBase]


class GainOnBase(Model):
    """Mean divergences in nats on one base; `change` −0.2 is a fifth less than the counterpart's."""

    base: str
    facts: BaseFacts
    counterpart_kld: float
    kld: float
    change: float
    change_interval: Interval


class Gain(Model):
    """What may be quoted of a house recipe; `best` and `worst` are changes over its bases."""

    recipe: str
    counterpart: str
    evidence: str
    num_tried: int
    tried: str
    note: str | None = None
    settings: list[Setting]
    best: float
    worst: float
    bases: list[GainOnBase]


def over_all(found: OnBase) -> Paired:
    """The row over all domains. Raises InputError where there is none, or more than one."""
    rows = [each for each in found.against if each.domain == ALL]
    if len(rows) != 1:
        raise InputError(
            f"a house recipe's evidence has {len(rows)} rows over all domains",
            where=base_name(found),
            why="the lab writes one, and it is what cards and tables quote",
            fix="make the evidence again: `python -m tests.bench.house`",
        )
    return rows[0]


def base_name(found: OnBase) -> str:
    """`qwen3.5-tiny` of `Qwen/qwen3.5-tiny`."""
    return found.base.repo_id.rpartition("/")[2]


def gain(found: HouseEvidence) -> Gain:
    """The figures to quote. Raises ValueError without a base, InputError as `over_all` does."""
    changes = [over_all(each).change for each in found.bases]
    return Gain(
        recipe=found.recipe,
        counterpart=found.counterpart,
        evidence=f"docs/house/{found.recipe}.json",
        num_tried=found.num_tried,
        tried=found.tried,
        note=found.note,
        settings=found.settings,
        best=min(changes),
        worst=max(changes),
        bases=[_on_base(each) for each in found.bases],
    )


def _on_base(found: OnBase) -> GainOnBase:
    row = over_all(found)
    return GainOnBase(
        base=base_name(found),
        facts=found.facts,
        counterpart_kld=found.counterpart_kld,
        kld=row.kld,
        change=row.change,
        change_interval=row.change_interval,
    )
