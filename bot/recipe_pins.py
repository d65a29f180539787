"""`release-bot recipes pin`: the data sets' current commits, written into the recipe files."""

from __future__ import annotations

from pathlib import Path

from bot import recipe as recipes
from bot.edges.hub import Hub
from bot.models import write_atomically
from bot.recipe import UNPINNED, Recipe


def current_revisions(recipe: Recipe, hub: Hub, *, update: bool) -> dict[str, str]:
    """Data set id → commit sha of its main branch, for those that are unpinned (`update`: for all)."""
    wanted = {each.dataset for each in recipe.sets() if update or each.revision == UNPINNED}
    return {dataset: hub.head(dataset, repo_type="dataset") for dataset in sorted(wanted)}


def pin(names: list[str], hub: Hub, *, update: bool) -> dict[str, dict[str, str]]:
    """Write revisions into each named recipe's file, comments kept; all are looked up first."""
    found = {name: current_revisions(recipes.load(name), hub, update=update) for name in names}
    for name, revisions in found.items():
        path = Path(name) if name.endswith((".yaml", ".yml")) else recipes.RECIPES_DIR / f"{name}.yaml"
        pinned = "".join(recipes.pin_text(path.read_text(encoding="utf-8"), revisions))
        recipes.parse(pinned, where=str(path), name=path.stem)
        if revisions:
            write_atomically(path, pinned.encode())
    return found


def for_embedded_hub(recipe: Recipe, hub: Hub) -> tuple[Recipe, dict[str, str]]:
    """The recipe with each revision that an embedded Hub does not hold replaced by its stand-in's.

    Returns the recipe and what was replaced; evidence and card name it, and such a release can go
    nowhere but to an embedded Hub.
    """
    replaced = {}
    for each in recipe.sets():
        pinned = each.revision != UNPINNED and hub.has_revision(
            each.dataset, each.revision, repo_type="dataset"
        )
        if not pinned:
            replaced[each.dataset] = hub.head(each.dataset, repo_type="dataset")
    return recipe.with_revisions(replaced), replaced
