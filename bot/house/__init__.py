"""House recipes: ours, each of the same bits and serving as a faithful recipe, and closer to the base.

A faithful recipe follows a release that somebody made by hand, and stays as it is. A house recipe stands
beside the one that it names as its `counterpart`, and ships only with evidence that it is better: on at
least four trained bases both are quantized, served and scored on the same tokens by `release-bot lab`, on
texts that the settings were not chosen on. `docs/house/<recipe>.json` is that evidence;
`python -m tests.bench.house` makes it.

    model    the evidence, and the gain that cards and tables quote of it
    making   labs to evidence: pure
    bar      what evidence must show for a recipe to stand in `recipes/`: pure
    page     docs/house/README.md

The bases are tiny: a gain there is a reason to expect one on a real base, and no measurement of it. The card
of a release says so, and prints what was measured on its own base beside it.
"""

from __future__ import annotations

from pathlib import Path

from bot import recipe as recipes
from bot.house.model import Gain, HouseEvidence, gain
from bot.models import Release, read_json
from bot.recipe import Recipe

FOLDER = recipes.RECIPES_DIR.parent / "docs" / "house"


def names() -> list[str]:
    """The house recipes that ship, sorted."""
    faithful = recipes.faithful()
    return [name for name in recipes.names() if name not in faithful]


def path(name: str) -> Path:
    """Where the evidence of the recipe called `name` lies."""
    return FOLDER / f"{name}.json"


def read(name: str) -> HouseEvidence | None:
    """The evidence of the recipe called `name`; None where there is none. Raises InputError."""
    return read_json(path(name), HouseEvidence) if path(name).is_file() else None


def read_all() -> list[HouseEvidence]:
    """All evidence that there is, by recipe name; also of recipes that did not pass. Raises InputError."""
    return [read_json(each, HouseEvidence) for each in sorted(FOLDER.glob("*.json"))]


def quoted(release: Release) -> Gain | None:
    """The gain that a release's card may quote; None without evidence of the very recipe that made it.

    A rehearsal quotes what there is of the recipe as it ships: its card says what was changed.
    """
    found = read(release.recipe_name)
    if found is None:
        return None
    made_by = recipes.load(found.recipe) if release.rehearsal else Recipe.model_validate(release.recipe)
    return gain(found) if found.recipe_digest == made_by.making_digest() else None
