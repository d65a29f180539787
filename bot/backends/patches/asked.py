"""Which patches a recipe asks for: what a run applies, and what evidence and resumed work rest on.

Not covered: patches that a machine needs and no recipe names (NVFP4's rounding on CPUs); those are held to an
oracle by tests/numerics, and each record lists them.
"""

from __future__ import annotations

from bot.backends.patches import Patch, autoround, digest, gptqmodel
from bot.recipe import Recipe
from bot.recipe_methods import AutoRoundMethod, GptqMethod


def asked(recipe: Recipe) -> list[Patch]:
    """The patches that `recipe` asks for; its backend takes the same."""
    if isinstance(recipe.method, GptqMethod):
        return gptqmodel.asked(recipe.method)
    return autoround.asked(recipe.method) if isinstance(recipe.method, AutoRoundMethod) else []


def asked_digest(recipe: Recipe) -> str | None:
    """sha256 of those patches, as they are now; None where `recipe` asks for none."""
    found = asked(recipe)
    return digest(found) if found else None
