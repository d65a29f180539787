"""NVFP4 weights as ModelOpt stores them: read back, dequantized, compared with the base's.

`X.weight` uint8 [out, in/2], two E2M1 values a byte, the low nibble first; `X.weight_scale` E4M3 [out,
in/16]; `X.weight_scale_2` and `X.input_scale` FP32 scalars. w = e2m1 · weight_scale · weight_scale_2.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import safe_open

from bot.errors import BackendError
from bot.models import ModuleResult

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float32)


def weight_errors(base: Path, output: Path, num_samples: int) -> list[ModuleResult]:
    """Every quantized module of `output`, with the relative Frobenius error of its weight; one at a time.

    Raises BackendError when an input scale is zero or not finite: no activation reached the module, or a NaN.
    """
    source, target = _where(base), _where(output)
    names = sorted(
        name.removesuffix(".weight_scale_2") for name in target if name.endswith(".weight_scale_2")
    )
    found, bad = [], []
    for name in names:
        scale = float(_read(target, f"{name}.input_scale"))
        if not (math.isfinite(scale) and scale > 0):
            bad.append(f"{name}: {scale}")
        want = _read(source, f"{name}.weight").float()
        parts = [_read(target, f"{name}.{part}") for part in ("weight", "weight_scale", "weight_scale_2")]
        error = float(torch.linalg.norm(dequantize(*parts) - want) / torch.linalg.norm(want))
        found.append(ModuleResult(name=name, loss=error, num_samples=num_samples, damp=None))
    if bad:
        raise BackendError(
            f"{len(bad)} modules have an input scale that is zero or not finite",
            where="; ".join(bad[:4]),
            why="no activation reached them, or one that is NaN or Inf",
            fix="check the base and the calibration sets",
        )
    return found


def dequantize(packed: torch.Tensor, scale: torch.Tensor, scale_2: torch.Tensor) -> torch.Tensor:
    """[out, in] FP32 of `packed` uint8 [out, in/2] and `scale` E4M3 [out, in/16]."""
    nibbles = torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(1)
    values = E2M1[nibbles.long()]
    blocks = values.view(values.shape[0], -1, 16) * scale.float().unsqueeze(-1) * scale_2.float()
    return blocks.flatten(1)


def _where(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _read(where: dict[str, Path], name: str) -> torch.Tensor:
    if name not in where:
        raise BackendError(f"ModelOpt did not write {name}", fix="see its log")
    with safe_open(where[name], framework="pt") as file:
        return file.get_tensor(name)
