"""Which patches and code of ours a recipe asks for: what evidence and resumed work rest on."""

from __future__ import annotations

from bot.backends.patches import Patch, autoround, digest, gptqmodel, modelopt
from bot.recipe import Recipe
from bot.recipe_methods import AutoRoundMethod, GptqMethod, NvFp4Method


def asked(recipe: Recipe) -> list[Patch]:
    """The patches that `recipe` asks for; its backend takes those of them that the machine needs."""
    method = recipe.method
    if isinstance(method, GptqMethod):
        return gptqmodel.asked(method)
    return autoround.asked(method) if isinstance(method, AutoRoundMethod) else modelopt.asked(method)


def asked_digest(recipe: Recipe) -> str | None:
    """sha256 of those patches and of the algorithm that we register with the tool, as they are now.

    None where `recipe` asks for neither.
    """
    found = asked(recipe)
    gptq = isinstance(recipe.method, NvFp4Method) and recipe.method.rounding == "gptq"
    ours = ("bot.backends.modelopt_gptq",) if gptq else ()
    return digest(found, ours) if found or ours else None
