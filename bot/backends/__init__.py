"""The quantizer backends, one small module each, listed in one place.

This side is light: the bot imports it to know which environment a recipe needs; so are `native_inputs`,
which plans, and `patches`, which evidence is held to. The other modules import torch and their tool, so only
`bot.backends.worker` imports them, in the quantizer environment; there the bot is `bot.models`, `bot.recipe`
and `bot.errors`, and nothing else.

To add a backend: a module here that fulfils `Backend`, entries in `BACKENDS` and `PACKAGES`, a method
model in `bot/recipe_methods.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from bot.models import BackendJob, BackendResult
from bot.recipe import Recipe

if TYPE_CHECKING:
    from bot.backends.calibration import SampleSet
    from bot.backends.report import Report


class Backend(Protocol):
    """What a backend module offers."""

    def quantize(
        self, job: BackendJob, recipe: Recipe, calibration: Sequence[SampleSet], report: Report
    ) -> BackendResult:
        """Write the quantized checkpoint to `job.output_folder`; say what was seen.

        Everything but the recipe's coverage stays as the base has it. Raises BackendError when the tool
        fails or did something else than the recipe says, InputError for a base that it cannot take.
        """
        ...


# Backend → its module and the environment (runners/environments/<name>-{cpu,cuda}.txt) that it runs in.
BACKENDS: dict[str, tuple[str, str]] = {
    "gptqmodel": ("bot.backends.gptqmodel", "quantize"),
    "autoround": ("bot.backends.autoround", "quantize"),
    "modelopt": ("bot.backends.modelopt", "quantize"),
}
# Backend → the package that does its work, as requirement files name it.
PACKAGES = {"gptqmodel": "gptqmodel", "autoround": "auto-round", "modelopt": "nvidia-modelopt"}


def environment_name(backend: str, device: str) -> str:
    """The environment that `backend` needs on `device` (cpu or cuda)."""
    return f"{BACKENDS[backend][1]}-{device}"
