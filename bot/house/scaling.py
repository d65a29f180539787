"""What may be set for a tiny base, or in a rehearsal, without making another recipe of it.

How much is read and how fast; never a value of the method in which the two recipes of a pair differ.
"""

from __future__ import annotations

import re

from bot.recipe import Recipe

SCALING = re.compile(
    r"evaluation\..+|calibration\.seed|calibration\.sets\.(\*|\d+)\.(num_samples|lengths\.(min|max)_tokens)"
    r"|method\.(batch_size|iterations|low_gpu_mem_usage|torch_compile)"
)


def scales(key: str, house: Recipe, counterpart: Recipe) -> bool:
    """Whether setting `key` only scales the two: no release is told by it."""
    part, _, field = key.partition(".")
    values = [getattr(each.method, field, None) for each in (house, counterpart)]
    return bool(SCALING.fullmatch(key)) and (part != "method" or values[0] == values[1])
