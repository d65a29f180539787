"""House recipes: ours, each of the same bits and serving as a faithful recipe, and closer to the base.

A faithful recipe follows a release that somebody made by hand, and stays as it is. A house recipe stands
beside the one that it names as its `counterpart`, and ships only with evidence that it is better: on at
least four trained bases both are quantized, served and scored on the same tokens by `release-bot lab`, on
texts kept apart from those that settings are chosen on; where a choice was made on them all the same, the
evidence has a note that is printed with the gain. `docs/house/<recipe>.json` is that evidence;
`python -m tests.bench.house` makes it.

    model        the evidence, and the gain that cards and tables quote of it
    making       labs to evidence: pure
    scaling      what may be set for a tiny base, or in a rehearsal
    tools        the quantizer's version and the patches that evidence rests on
    bar          what evidence must show for a recipe to stand in `recipes/`: pure
    consistency  that a base's evidence agrees with itself: pure, and a part of the bar
    page         docs/house/README.md

The bases are tiny: a gain there is a reason to expect one on a real base, and no measurement of it. The card
of a release says so, and prints what was measured on its own base beside it.
"""

from __future__ import annotations

from pathlib import Path

from bot import recipe as recipes
from bot.errors import RecipeError
from bot.house.model import Gain, HouseEvidence, gain
from bot.house.scaling import scales
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

    A rehearsal may quote it when the recipe was only scaled down, of which its card tells: not when one of
    its levers was changed.
    """
    found = read(release.recipe_name)
    if found is None:
        return None
    made_by = _scaled_from(release, found) if release.rehearsal else Recipe.model_validate(release.recipe)
    return gain(found) if made_by and found.recipe_digest == made_by.making_digest() else None


def _scaled_from(release: Release, found: HouseEvidence) -> Recipe | None:
    """The recipe as it ships, if the release's values only scale it, and give the one that was rehearsed."""
    from bot.job import load_recipe  # it reads evidence, whose model holds what is quoted here

    shipped, counterpart = recipes.load(found.recipe), recipes.load(found.counterpart)
    if not all(scales(key, shipped, counterpart) for key in release.overrides):
        return None
    try:
        again = load_recipe(found.recipe, release.overrides)
    except RecipeError:  # values for a recipe of before, which no longer fit
        return None
    rehearsed = Recipe.model_validate(release.recipe)
    return shipped if again.making_digest() == rehearsed.making_digest() else None
