"""From labs to evidence: each lab holds a house recipe and its counterpart on one base, split `report`.

A lab is taken only when it is of the recipes as they are now: what it was made by is told by a digest, and
made again here from the recipes' files with the values that the lab had set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bot import job
from bot.backends.patches.asked import asked_digest
from bot.errors import InputError
from bot.figures import plain
from bot.house.model import HouseEvidence, OnBase, Setting
from bot.lab.record import LabEvidence, Measured, Variant
from bot.recipe import Recipe
from bot.recipe_calibration import CalibrationSet


def of_labs(
    house: Recipe,
    counterpart: Recipe,
    labs: Sequence[LabEvidence],
    *,
    num_tried: int,
    tried: str,
    note: str | None = None,
) -> HouseEvidence:
    """The evidence of `house` from its labs, by the bases' names.

    A lab does not state the patches' text: `labs` are to be of the patches as they are now.

    Raises InputError for a lab of another split, of other recipes or of a variant that failed.
    """
    bases = sorted((_on_base(house, counterpart, each) for each in labs), key=lambda each: each.base.repo_id)
    return HouseEvidence(
        recipe=house.name,
        recipe_digest=house.making_digest(),
        counterpart=counterpart.name,
        counterpart_digest=counterpart.making_digest(),
        settings=settings(house, counterpart),
        num_tried=num_tried,
        tried=tried,
        note=note,
        patches_digest=asked_digest(house),
        split="report",
        bases=bases,
    )


def _on_base(house: Recipe, counterpart: Recipe, lab: LabEvidence) -> OnBase:
    if lab.split != "report":
        raise _unusable(lab, f"it is of the split {lab.split}", "run it with --split report")
    one, other = _variant(lab, house.name), _variant(lab, counterpart.name)
    if other.label != lab.reference or other.kld is None or not one.against_reference:
        raise _unusable(lab, f"{counterpart.name} is not its reference", "name the counterpart first")
    return OnBase(
        base=lab.base,
        facts=lab.base_facts,
        texts=lab.texts,
        engine=lab.engine,
        engine_environment_digest=lab.engine_environment_digest,
        quantizer_environment_digest=lab.quantizer_environment_digest,
        quantizer_versions=lab.quantizer_versions,
        hardware=lab.hardware,
        measured_at=lab.measured_at,
        counterpart=other.measured,
        house=one.measured,
        counterpart_calibration_tokens=_tokens(other.measured),
        house_calibration_tokens=_tokens(one.measured),
        counterpart_kld=other.kld,
        against=one.against_reference,
    )


def _variant(lab: LabEvidence, name: str) -> Variant:
    """The lab's variant of this recipe. Raises InputError when there is none, it failed, or it is another."""
    found = [each for each in lab.variants if each.measured.recipe_name == name]
    if len(found) != 1:
        raise _unusable(lab, f"it has {len(found)} variants of {name}", "one lab compares one pair")
    (one,) = found
    if one.measured.failure is not None:
        raise _unusable(lab, f"{name} failed: {one.measured.failure}", "see the logs in its work folder")
    now = job.load_recipe(name, one.measured.overrides).making_digest()
    if lab.making_digests.get(one.label) != now:
        raise _unusable(lab, f"{name} is another recipe today", "run the lab again; what is kept stays")
    return one


def _unusable(lab: LabEvidence, what: str, fix: str) -> InputError:
    return InputError(f"this lab shows nothing of the pair: {what}", where=lab.base.repo_id, fix=fix)


def _tokens(found: Measured) -> int:
    return job.load_recipe(found.recipe_name, found.overrides).calibration.max_tokens


# ── what the two differ in ─────────────────────────────────────────────────────────────────


def settings(house: Recipe, counterpart: Recipe) -> list[Setting]:
    """Every value of method, coverage and calibration that differs; calibration sets as one line."""
    ours, theirs = dict(_values(house)), dict(_values(counterpart))
    return [
        Setting(parameter=name, counterpart=theirs.get(name, "none"), house=ours.get(name, "none"))
        for name in dict.fromkeys([*theirs, *ours])
        if ours.get(name) != theirs.get(name)
    ]


def _values(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for name, value in recipe.method.model_dump(mode="json").items():
        yield f"method.{name}", _shown(value)
    for name, value in recipe.coverage.model_dump(mode="json").items():
        yield f"coverage.{name}", _shown(value)
    yield "calibration.seed", str(recipe.calibration.seed)
    yield "calibration.sets", "; ".join(map(_set, recipe.calibration.sets))


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else plain(value)


def _set(each: CalibrationSet) -> str:
    lengths = each.lengths
    span = f"{lengths.min_tokens} to {lengths.max_tokens}" if lengths.mode != "exact" else lengths.max_tokens
    return f"{each.num_samples} × {each.dataset}, {span} tokens"
