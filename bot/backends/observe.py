"""What is checked of every quantizer from outside: modules, losses, samples, memory.

The tools log what goes wrong and go on: a calibration forward that failed, a loss that is NaN, a module
that was passed over. Here each is an error. What is expected comes from the base's safetensors headers and
the recipe's coverage, never from the tool.
"""

from __future__ import annotations

import math
import re
import resource
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from bot.errors import BackendError, InputError
from bot.models import CalibrationUse, ModuleResult
from bot.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bot.backends.calibration import SampleSet

LAYER = re.compile(r"^(model\.language_model\.layers\.(\d+))\.(.+)\.weight$")
MTP_PREFIX = "mtp."


def tensor_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of every tensor of the base, from the headers of its safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                shapes[name] = tuple(file.get_slice(name).get_shape())
    if not shapes:
        raise InputError("the base holds no safetensors files", where=str(base), fix="download it again")
    return shapes


def mtp_tensors(base: Path) -> dict[str, torch.Tensor]:
    """The base's MTP head, which the modelling code of transformers does not know and would drop."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys() if name.startswith(MTP_PREFIX)}  # noqa: SIM118
    return found


def expected_modules(shapes: Iterable[str], recipe: Recipe) -> list[str]:
    """The modules that the recipe's coverage says are to be quantized, sorted."""
    covered = set(recipe.coverage.quantize)
    matches = [match for name in shapes if (match := LAYER.match(name))]
    found = sorted(f"{match[1]}.{match[3]}" for match in matches if match[3] in covered)
    if not found:
        raise InputError(
            "none of the base's tensors falls under the recipe's coverage.quantize",
            why="the base is of another architecture",
            fix="check applies_to and coverage in the recipe",
        )
    return found


def num_layers(modules: Iterable[str]) -> int:
    """How many decoder layers `modules` lie in."""
    return len({match[2] for name in modules if (match := LAYER.match(f"{name}.weight"))})


def require_divisible(shapes: dict[str, tuple[int, ...]], modules: Sequence[str], group_size: int) -> None:
    """Raise InputError when the input width of a module is not a multiple of the group size."""
    odd = [name for name in modules if shapes[f"{name}.weight"][1] % group_size]
    if odd:
        width = shapes[f"{odd[0]}.weight"][1]
        raise InputError(
            f"group_size {group_size} does not divide the input width {width}",
            where=odd[0] + (f" and {len(odd) - 1} more" if len(odd) > 1 else ""),
            fix="use a recipe with a smaller group_size for this base",
        )


def require_modules(expected: Sequence[str], quantized: Iterable[str]) -> None:
    """Raise BackendError unless exactly the expected modules were quantized."""
    got = set(quantized)
    missing, extra = sorted(set(expected) - got), sorted(got - set(expected))
    if missing or extra:
        shown = [f"not quantized: {_some(missing)}"] * bool(missing) + [f"not wanted: {_some(extra)}"] * bool(
            extra
        )
        raise BackendError(
            f"the tool quantized {len(got)} modules, and the recipe covers {len(expected)}",
            where="; ".join(shown),
            why="the tool passes over modules whose shape or name it does not take, and only logs it",
            fix="compare the recipe's coverage with the tool's log",
        )


def require_finite(modules: Iterable[ModuleResult]) -> None:
    """Raise BackendError when a loss is NaN or infinite."""
    bad = sorted(each.name for each in modules if not math.isfinite(each.loss))
    if bad:
        raise BackendError(
            f"the loss of {len(bad)} modules is not finite",
            where=_some(bad),
            why="NaN or Inf in weights or activations, or too little damping",
            fix="check the base's tensors with `release-bot audit`; a larger damp_percent may help GPTQ",
        )


def require_samples(sets: Sequence[SampleSet], seen: Sequence[int]) -> list[CalibrationUse]:
    """The sets with what the tool saw of each; BackendError when that is not every sample once."""
    for each, count in zip(sets, seen, strict=True):
        if count != len(each):
            raise BackendError(
                f"the tool saw {count} of the {len(each)} calibration samples of {each.use.dataset}",
                why="the tool dropped, repeated or merged samples (by length, or by its batch size)",
                fix="see the tool's log; nothing is released from such a run",
            )
    return [each.seen(count) for each, count in zip(sets, seen, strict=True)]


def _some(names: Sequence[str], limit: int = 4) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def peak_memory_bytes() -> int:
    """The largest resident size of this process and of its ended children so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(each).ru_maxrss for each in who) * unit


def peak_gpu_memory_bytes() -> int | None:
    """The most GPU memory that tensors held at once; None on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return None
    devices = range(torch.cuda.device_count())
    return sum(int(torch.cuda.max_memory_allocated(index)) for index in devices)


def versions(*packages: str) -> dict[str, str]:
    """Versions of what took part."""
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "datasets", "tokenizers", "safetensors", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found
