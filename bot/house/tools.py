"""What evidence rests on beside the recipes: the quantizer's version, and the patches that a recipe asks for.

A recipe's digest tells neither: the same recipe under another version of its tool, or with a patch that was
rewritten, is made otherwise. Not covered: patches that a machine needs and no recipe names (NVFP4's rounding
on CPUs); those are held to an oracle by tests/numerics, and each record lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bot.backends import PACKAGES
from bot.backends.patches import Patch, autoround, digest, gptqmodel
from bot.house.model import HouseEvidence, OnBase, base_name
from bot.recipe import Recipe
from bot.recipe_methods import AutoRoundMethod, GptqMethod


def patches_digest(recipe: Recipe) -> str | None:
    """sha256 of the patches that `recipe` asks for, as they are now; None where it asks for none."""
    mends = _asked(recipe)
    return digest(mends) if mends else None


def _asked(recipe: Recipe) -> list[Patch]:
    if isinstance(recipe.method, GptqMethod):
        return gptqmodel.asked(recipe.method)
    return autoround.asked(recipe.method) if isinstance(recipe.method, AutoRoundMethod) else []


def changed(house: Recipe, found: HouseEvidence, pins: Mapping[str, str]) -> Iterator[str]:
    """What the evidence was made with that is another today; `pins`: package → version."""
    if found.patches_digest != patches_digest(house):
        yield "its patches have changed since, or the evidence does not state which they were"
    package = PACKAGES[house.method.backend]
    now = pins.get(package)
    for each in found.bases:
        if (then := _version(each, package)) != now:
            yield f"on {base_name(each)}: made with {package} {then}, and pinned is {now}"


def _version(found: OnBase, package: str) -> str:
    """Without the build that follows a plus: a wheel of the same release."""
    return found.quantizer_versions.get(package, "absent").partition("+")[0]
