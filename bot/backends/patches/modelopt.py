"""ModelOpt 0.47.0's FP4 fake quantization on a machine without CUDA, where its kernels cannot run.

Max calibration reads the largest magnitudes and never rounds anything. A search of scales tries each
candidate, and GPTQ looks at inputs as they are at run time: both quantize and dequantize, which the tool
does in Triton kernels only. On a CPU tensor `fp4-without-cuda` calls `bot.backends.fp4` there instead; on a
GPU's it changes nothing. It counts the tensors that it quantized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.backends.patches import Edit, Patch, Target

if TYPE_CHECKING:
    from bot.recipe_methods import NvFp4Method

PACKAGE, VERSION = "nvidia-modelopt", "0.47.0"
_MODULE = "modelopt.torch.quantization.tensor_quant"
_START = '        """Forward method."""\n'

STATIC = Target(
    module=_MODULE,
    function="StaticBlockwiseFP4FakeQuantFunction.forward",
    sha256="463bddf0f5fc5b43df13ab1a4ac7ab1a1879be2bac42009bbd7b56dbd00498ac",
)
DYNAMIC = Target(
    module=_MODULE,
    function="DynamicBlockQuantizationFunction.forward",
    sha256="5c0f1a1b56f60d01a0465a2635f4034de67c45c822ca3170c5721ec60c2ee01e",
)

FP4_WITHOUT_CUDA = Patch(
    name="fp4-without-cuda",
    package=PACKAGE,
    version=VERSION,
    what="FP4 rounding of CPU tensors in torch, where the tool has kernels for CUDA only",
    unit="tensors",
    edits=(
        Edit(
            target=STATIC,
            old=_START,
            new=(
                f"{_START}"
                "        if not x.is_cuda and quantize_block_scales and fp8_max_for_normalization == 448:\n"
                "            from bot.backends.fp4 import static_blocks\n"
                "            y = static_blocks(x, amax, global_amax)\n"
                '            return _acted.stood_in("fp4-without-cuda", y)\n'
            ),
        ),
        Edit(
            target=DYNAMIC,
            old=_START,
            new=(
                f"{_START}"
                "        nvfp4 = (block_size, num_bits, scale_bits) == (16, (2, 1), (4, 3))\n"
                "        if nvfp4 and not inputs.is_cuda:\n"
                "            from bot.backends.fp4 import dynamic_blocks\n"
                "            y = dynamic_blocks(inputs, amax)\n"
                '            return _acted.stood_in("fp4-without-cuda", y)\n'
            ),
        ),
    ),
)


def asked(method: NvFp4Method) -> list[Patch]:
    """The patches that `method` asks for: none where it only looks for the largest weights."""
    return [FP4_WITHOUT_CUDA] if method.algorithm != "max" or method.rounding != "nearest" else []
