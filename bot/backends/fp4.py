"""FP4 rounding as NVFP4 does it, in torch: what ModelOpt 0.47.0 computes in CUDA kernels only.

A value over its block's scale becomes the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with its sign; of two equally
near the one whose code is even; beyond 6 it is 6. Weights have stored block scales, which a search or GPTQ
has to try out; activations get theirs from each block of 16 at run time. ModelOpt does both in Triton, so its
searches stop on a machine without CUDA. These functions follow those kernels
(`kernels/quantization/common/nvfp4_quant.py`, `gemm/fp4_kernel.py`, `gemm/fp4_kernel_hopper.py`), are held to
a NumPy oracle by tests/numerics, and take their place there (`patches/modelopt.py`).

Not covered: MXFP4, and activations of a width that 16 does not divide.
"""

from __future__ import annotations

import torch

BLOCK = 16
E2M1_MAX, E4M3_MAX = 6.0, 448.0


def rounded(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`x` as the nearest E2M1 multiple of `scale` (FP32, broadcast; 0 gives 0), in FP32."""
    safe = torch.where(scale == 0, 1.0, scale)
    magnitude = (x.float() / safe).abs()
    near = 0.5 * (magnitude > 0.25).float() + 0.5 * (magnitude >= 0.75) + 0.5 * (magnitude > 1.25)
    near = near + 0.5 * (magnitude >= 1.75) + (magnitude > 2.5).float() + (magnitude >= 3.5).float()
    near = (near + 2 * (magnitude > 5).float()) * safe
    return torch.where(scale == 0, 0.0, torch.where(x < 0, -near, near))


def block_scales(amax: torch.Tensor, global_amax: torch.Tensor) -> torch.Tensor:
    """The scale that a block's `amax` gets: the nearest E4M3 multiple of the tensor's scale, in FP32."""
    unit = global_amax.float() / (E2M1_MAX * E4M3_MAX)
    scale = (amax.float() / (E2M1_MAX * unit)).clamp(max=E4M3_MAX)
    return scale.to(torch.float8_e4m3fn).float() * unit


def static_blocks(x: torch.Tensor, amax: torch.Tensor, global_amax: torch.Tensor) -> torch.Tensor:
    """`x` quantized and dequantized, in its dtype, its blocks' scales from `amax` [number of blocks]."""
    blocks = x.reshape(amax.numel(), -1)
    scale = block_scales(amax.reshape(-1, 1), global_amax)
    return rounded(blocks, scale).to(x.dtype).view(x.shape)


def dynamic_blocks(x: torch.Tensor, global_amax: torch.Tensor) -> torch.Tensor:
    """`x` quantized and dequantized, in its dtype, each block of 16 by its own largest magnitude."""
    blocks = x.reshape(-1, BLOCK)
    return static_blocks(blocks, blocks.abs().amax(dim=1), global_amax).view(x.shape)
