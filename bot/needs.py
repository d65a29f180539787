"""What a job asks of a machine, by arithmetic from the base's size and the recipe: the same as `doctor`'s.

The base is served beside the release, in BF16, since every ratio on a card is against it: that sets the GPU's
memory. Quantizers hold the base in main memory and a layer at a time on the GPU; GPTAQ's asymmetric term also
keeps a layer's inputs for all samples, in main memory where they outgrow the GPU. The disk holds the base,
the quantizer's output, the repaired checkpoint and the upload's copy in the Hub cache. A base whose
parameters the Hub does not count is taken for the largest that the recipe is for.
"""

from __future__ import annotations

from functools import cache
from typing import Final

from bot.backends import native_inputs
from bot.doctor import BYTES_A_PARAMETER, GIB, RELEASE_SHARE, USABLE_MEMORY
from bot.fleet import Needs
from bot.recipe import Recipe
from bot.serving import quirks

# Ampere: the first with bfloat16, which every base comes in.
BF16_CAPABILITY: Final = "8.0"
_CAPABILITIES: Final = ("8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0")
_ENVIRONMENTS_GIB: Final = 40
_SYSTEM_GIB: Final = 8
_MEMORY_SHARE: Final = 1.15
# Metadata releases move text files: GitHub's smallest machine will do.
OF_METADATA: Final = Needs(gpu_memory_gib=0, compute_capability_min="0.0", memory_gib=4, disk_gib=8)


def of_release(recipe: Recipe, num_parameters: int | None) -> Needs:
    """What quantizing, serving and measuring ask for."""
    parameters = num_parameters or recipe.applies_to.max_parameters
    base_gib = BYTES_A_PARAMETER * parameters / GIB
    gpu_gib = base_gib / USABLE_MEMORY
    tokens = recipe.calibration.expected_tokens if getattr(recipe.method, "foem_alpha", None) else 0
    inputs_gib = native_inputs.planned_bytes(parameters, tokens, gpu_bytes=gpu_gib * GIB) / GIB
    return Needs(
        gpu_memory_gib=round(gpu_gib, 1),
        compute_capability_min=_capability(recipe.method.packing),
        memory_gib=round(base_gib * _MEMORY_SHARE + _SYSTEM_GIB + inputs_gib, 1),
        disk_gib=round(base_gib * (1 + 3 * RELEASE_SHARE) + _ENVIRONMENTS_GIB, 1),
    )


@cache
def _capability(packing: str) -> str:
    """The least that runs `packing` natively: an emulated release's speed would not be measured."""
    native = [
        each
        for each in _CAPABILITIES
        if quirks.lacking(packing, device="cuda", compute_capability=each) is None
    ]
    return native[0] if native else _CAPABILITIES[-1]
