"""What the lab is asked to compare: recipes as they stand, and variations of one, each under a label.

    --recipe house-g32
    --recipe ./mine.yaml
    --variant plain=house-g32 method.mse=0.0 'method.patches=[]'

A variation is a word of its own and then KEY=VALUE as `--set` takes them, each an argument, so that a value
may hold commas and spaces. A recipe as it stands is labelled by its name, a file by its stem. `--set` is for
all of them. The first one is the reference of the comparison.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot import job
from bot.errors import UsageError
from bot.recipe import Recipe

LABEL = re.compile(r"[A-Za-z0-9][\w.+-]{0,47}")
FILES = {".yaml", ".yml"}  # as `bot.recipe.load` tells a file from a name


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One variant: a label, and a recipe with what is set in it."""

    label: str
    recipe_name: str
    overrides: dict[str, str]

    def recipe(self) -> Recipe:
        """The recipe as it is asked for. Raises RecipeError."""
        return job.load_recipe(self.recipe_name, self.overrides)


def parse(texts: Sequence[Sequence[str]], common: dict[str, str]) -> list[Asked]:
    """The variants of `[RECIPE]` and `[LABEL=RECIPE, KEY=VALUE, …]`, in order.

    Raises UsageError for fewer than one, a label twice or odd, and what is not KEY=VALUE.
    """
    found = [_one(each, common) for each in texts]
    if not found:
        raise UsageError("there is nothing to compare", fix="name recipes with --recipe or --variant")
    labels = [each.label for each in found]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(f"two variants are called {twice[0]!r}", fix="give each a label of its own")
    return found


def require_same_windows(asked: Sequence[Asked], recipes: Sequence[Recipe]) -> None:
    """Raises UsageError for a variant that would be scored over other windows than the first."""
    for each, recipe in zip(asked, recipes, strict=True):
        for name in ("window_tokens", "divergence_tokens"):
            own, first = getattr(recipe.evaluation, name), getattr(recipes[0].evaluation, name)
            if own != first:
                raise UsageError(
                    f"{each.label} has evaluation.{name} {own:,}, and {asked[0].label} has {first:,}",
                    why="variants are compared token by token, over the windows of the first",
                    fix=f"set evaluation.{name} by --set alone, which is for all of them",
                )


def _one(texts: Sequence[str], common: dict[str, str]) -> Asked:
    label, equals, recipe_name = texts[0].partition("=")
    recipe_name = recipe_name if equals else label
    label = label if equals or Path(label).suffix not in FILES else Path(label).stem
    pairs = [text.partition("=") for text in texts[1:]]
    if not LABEL.fullmatch(label) or not recipe_name or (pairs and not equals):
        raise UsageError(
            f"--variant {texts[0]!r} is not LABEL=RECIPE",
            fix="for example --variant mse=gptq-w4a16-g128 method.mse=2.4",
        )
    if bad := [text for text, (key, sign, _) in zip(texts[1:], pairs, strict=True) if not sign or not key]:
        raise UsageError(f"{bad[0]!r} of {label} is not KEY=VALUE", fix="for example method.mse=2.4")
    own = {key: value for key, _, value in pairs}
    return Asked(label=label, recipe_name=recipe_name, overrides=common | own)
