"""GPTQ for NVFP4, as a calibration algorithm of ModelOpt 0.47.0: its scales, its export, another rounding.

Rounding to nearest makes each weight's error small. What a layer's output feels is the error times the
inputs, and errors of different columns can make up for each other. GPTQ (Frantar et al. 2022) rounds a
weight's columns one after the other and moves each one's error onto the columns not yet rounded, by the
inverse of H = XᵀX, the second moments of the layer's inputs:

    e = (w_j − q_j) / U_jj,   w_k ← w_k − e · U_jk  for every later k,   U upper, UᵀU = (H + λI)⁻¹

λ is `damp_percent` of H's mean diagonal. Columns are taken by falling H_jj, so that the errors of those that
matter most can still be spread. That costs nothing here: a block's scale is fixed before its first column is
rounded, and serving sees blocks in their own order whatever the order of rounding was.

The tool has a `gptq` of its own. Here it is done anew because that one fixes its scales by the largest
weight ("TODO: Add support for other scale setting", model_calib.py), does not give the fused pair
in_proj_qkv/in_proj_z one global scale, rounds the whole matrix for every column, and goes on with the
identity when H cannot be inverted. What comes out is written back as weights that lie on the grid of the
quantizer's scales, so the tool's export finds the same codes.

X is what the layer gets at run time: after its input quantizer. Not covered: experts' weights of three
dimensions, and weights spread over several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from modelopt.torch.opt.config import ModeloptField
from modelopt.torch.quantization import model_calib
from modelopt.torch.quantization.config import QuantizeAlgorithmConfig
from modelopt.torch.quantization.conversion import set_quantizer_by_cfg_context
from modelopt.torch.quantization.mode import BaseCalibrateModeDescriptor, CalibrateModeRegistry
from modelopt.torch.quantization.qtensor import NVFP4QTensor
from modelopt.torch.quantization.utils import is_quantized_linear

from bot.backends.fp4 import BLOCK, rounded
from bot.backends.modelopt import GPTQ
from bot.errors import BackendError

COLUMNS = 128  # compensated one by one among themselves, all at once beyond
Loop = Callable[[Any], None]
_SCALES: Mapping[str, Callable[..., None]] = {
    "max": model_calib.max_calibrate,
    "mse": model_calib.mse_calibrate,
    "local_hessian": model_calib.local_hessian_calibrate,
}


def calibrate(
    model: Any, forward_loop: Loop, *, scale_algorithm: Mapping[str, Any], damp_percent: float
) -> None:
    """Set the scales of `model`, a decoder layer, by the tool's algorithm; then its weights by GPTQ.

    Raises BackendError when a layer's second moments cannot be inverted.
    """
    options = dict(scale_algorithm)
    _SCALES[options.pop("method")](model, forward_loop, **options)
    linears = {
        name: each
        for name, each in model.named_modules()
        if is_quantized_linear(each) and each.weight_quantizer.is_enabled
    }
    weights_as_they_are = [{"quantizer_name": "*weight_quantizer", "enable": False}]
    with set_quantizer_by_cfg_context(model, weights_as_they_are), _second_moments(linears) as moments:
        forward_loop(model)
    for name, each in linears.items():
        weight = each.weight
        inverse = inverse_root(moments.pop(name), damp_percent, where=name)
        weight.data = compensated(weight.float(), _scales(each), *inverse).to(weight.dtype)


def _scales(linear: Any) -> torch.Tensor:
    """The scale [out, in / 16] of each block as the tool will export it, in FP32."""
    scale, scale_2 = NVFP4QTensor.get_weights_scaling_factor_from_quantizer(
        linear.weight_quantizer, linear.weight
    )
    return scale.float() * scale_2.float()


@contextmanager
def _second_moments(linears: Mapping[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """XᵀX [in, in] in FP32 of what each linear gets while this is open, after its input quantizer."""
    found: dict[str, torch.Tensor] = {}

    def follow(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def add(linear: Any, args: tuple[Any, ...]) -> None:
            x = linear.input_quantizer(args[0]).reshape(-1, args[0].shape[-1]).float()
            found[name] = x.T @ x if name not in found else found[name].addmm_(x.T, x)

        return add

    hooks = [each.register_forward_pre_hook(follow(name)) for name, each in linears.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def inverse_root(
    moments: torch.Tensor, damp_percent: float, *, where: str = ""
) -> tuple[torch.Tensor, torch.Tensor]:
    """The order of columns by falling second moment, and U [in, in], upper, with UᵀU the damped inverse.

    Raises BackendError when `moments` are not finite, all zero, or not positive definite once damped.
    """
    order = torch.argsort(moments.diagonal(), descending=True, stable=True)
    damped = moments[order][:, order]
    damped.diagonal().add_(damp_percent * damped.diagonal().mean())
    root, failed = torch.linalg.cholesky_ex(damped)
    if not int(failed):
        root, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(root), upper=True)
    if int(failed) or not bool(root.isfinite().all()):
        raise BackendError(
            "the second moments of a layer's inputs cannot be inverted",
            where=where,
            why="no activation reached it, one was NaN or Inf, or damp_percent is too small",
            fix="check the base and the calibration sets, or raise method.damp_percent",
        )
    return order, root


def compensated(
    weight: torch.Tensor, scale: torch.Tensor, order: torch.Tensor, root: torch.Tensor
) -> torch.Tensor:
    """`weight` [out, in] on the grid of `scale` [out, in / 16], columns rounded in `order`, in FP32."""
    w, s = weight[:, order], scale.repeat_interleave(BLOCK, dim=1)[:, order]
    for start in range(0, w.shape[1], COLUMNS):
        end = min(start + COLUMNS, w.shape[1])
        errors = torch.empty_like(w[:, start:end])
        for j in range(start, end):
            q = rounded(w[:, j], s[:, j])
            error = (w[:, j] - q) / root[j, j]
            w[:, j + 1 : end].addr_(error, root[j, j + 1 : end], alpha=-1)
            w[:, j], errors[:, j - start] = q, error
        w[:, end:].addmm_(errors, root[start:end, end:], alpha=-1)
    return w[:, order.argsort()]


class Config(QuantizeAlgorithmConfig):
    """What the tool reads under `algorithm` when its `method` is `nvfp4_gptq`."""

    method: Literal["nvfp4_gptq"] = ModeloptField(GPTQ)
    scale_algorithm: dict[str, Any] = ModeloptField(default={"method": "max"})
    damp_percent: float = ModeloptField(default=0.01, gt=0.0)


@CalibrateModeRegistry.register_mode
class Descriptor(BaseCalibrateModeDescriptor):
    """The tool's registration of the algorithm (its documented way to add one)."""

    _calib_func = calibrate

    @property
    def config_class(self) -> type[QuantizeAlgorithmConfig]:
        """The model of its configuration."""
        return Config
