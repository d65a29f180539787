"""`release-bot recipes pin`: the data sets' current commits, written into the recipe files."""

from __future__ import annotations

from pathlib import Path

from bot import log
from bot import recipe as recipes
from bot.edges.hub import Hub
from bot.errors import RecipeError
from bot.models import write_atomically
from bot.recipe import Recipe
from bot.recipe_fields import UNPINNED
from bot.recipe_text import pin_text


def current_revisions(recipe: Recipe, hub: Hub, *, update: bool) -> dict[str, str]:
    """Data set id → commit sha of its main branch, for those that are unpinned (`update`: for all)."""
    wanted = {each.dataset for each in recipe.sets() if update or each.revision == UNPINNED}
    return {dataset: hub.head(dataset, repo_type="dataset") for dataset in sorted(wanted)}


def pin(names: list[str], hub: Hub, *, update: bool) -> dict[str, dict[str, str]]:
    """Write revisions into each named recipe's file, comments kept; returns what was written, by name.

    All are looked up, and all texts checked, before the first is written. Raises RecipeError when a
    text would not read back as the recipe with these revisions, and nothing else, changed.
    """
    found = {name: current_revisions(recipes.load(name), hub, update=update) for name in names}
    texts = {name: _pinned(_path(name), revisions) for name, revisions in found.items() if revisions}
    written = {name: found[name] if texts.get(name) else {} for name in found}
    for name, text in texts.items():
        if text:
            write_atomically(_path(name), text)
    if hub.embedded and any(written.values()):
        log.warning(
            "these are revisions of an embedded Hub's stand-ins: do not commit them; pin from the Hub"
        )
    return written


def _path(name: str) -> Path:
    return Path(name) if name.endswith((".yaml", ".yml")) else recipes.RECIPES_DIR / f"{name}.yaml"


def _pinned(path: Path, revisions: dict[str, str]) -> bytes:
    """The file's new content, checked; empty when it would not change."""
    text = path.read_bytes().decode("utf-8")  # no newline is translated
    pinned = pin_text(text, revisions)
    wanted = recipes.parse(text, where=str(path), name=path.stem).with_revisions(revisions)
    if recipes.parse(pinned, where=str(path), name=path.stem) != wanted:
        raise RecipeError(
            "the revisions cannot be written: the text would not read back as it should",
            where=str(path),
            why="a data set is stated in a way that the pins cannot follow",
            fix="write dataset: and revision: as plain words, each on a line",
        )
    return b"" if pinned == text else pinned.encode()


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
