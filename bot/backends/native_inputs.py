"""Where the inputs lie that FOEM's alpha keeps of a layer: on the GPU where they fit, else in main memory.

GPTAQ's asymmetric term compares what a layer's modules get behind quantized layers with what they get in the
base, so the base's inputs of all samples are kept while a layer is quantized. GPTQModel 7.6.0 stores them
module by module (`looper/native_processor.py`): on the device that they are on modules of one input share it,
moved to main memory each has a copy of its own. Beside them the GPU holds all samples' hidden states, up to
three times (`looper/forward_executor.py`: of the native pass, of the quantized one, and what comes out).

Light: the planner reads it on hosted runners, which have no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

# Of the GPU's free memory; the rest is a layer's weights, its second moments, and what rounding works with.
SHARE: Final = 0.5
HIDDEN_STATES: Final = 3
_BF16_BYTES: Final = 2
_EMBEDDINGS: Final = "model.language_model.embed_tokens.weight"
# Modules whose input is no other's in their block.
_LAST: Final = ("o_proj", "out_proj", "down_proj")
# A 27B's widest layer: hidden size, attention's output, the MLP's. Widths are taken to grow as a size's root.
_HIDDEN, _ATTENTION, _MLP, _PARAMETERS = 5120, 6144, 17408, 27e9


def device(
    shapes: Mapping[str, Sequence[int]], expected: Sequence[str], *, num_tokens: int, free_bytes: int
) -> str:
    """FOEM's `device` for the modules `expected` of a base: `auto`, the accelerator, or `cpu`."""
    widths: dict[str, dict[str, int]] = {}
    for name in expected:
        layer, module = ".".join(name.split(".", 4)[:4]), name.split(".", 4)[4]
        block, _, leaf = module.rpartition(".")
        widths.setdefault(layer, {})[module if leaf in _LAST else block] = shapes[f"{name}.weight"][1]
    widest = max(sum(each.values()) for each in widths.values())
    held = _BF16_BYTES * num_tokens * (widest + HIDDEN_STATES * shapes[_EMBEDDINGS][1])
    return "auto" if held <= free_bytes * SHARE else "cpu"


def planned_bytes(num_parameters: int, num_tokens: int, *, gpu_bytes: float) -> float:
    """Main memory that a base of so many parameters asks for; 0 where a GPU of that size can hold them."""
    a_token = _BF16_BYTES * num_tokens * (num_parameters / _PARAMETERS) ** 0.5
    on_gpu = a_token * ((2 + HIDDEN_STATES) * _HIDDEN + _ATTENTION + _MLP)
    return 0.0 if on_gpu <= gpu_bytes * SHARE else a_token * (5 * _HIDDEN + _ATTENTION + _MLP)
