"""A vLLM plugin (entry point group `vllm.general_plugins`): the NVFP4 kernel of last resort, on CPUs too.

vLLM ships a kernel that dequantizes NVFP4 weights and computes in BF16, and lists it for GPUs only. Listed
for CPUs, an NVFP4 checkpoint loads and answers there: that shows its layout, its scales and its quality, and
nothing of an FP4 GPU's kernels or speed.
"""


def register() -> None:
    from vllm.model_executor.kernels.linear import register_linear_kernel
    from vllm.model_executor.kernels.linear.nvfp4.emulation import EmulationNvFp4LinearKernel
    from vllm.platforms import PlatformEnum

    register_linear_kernel(EmulationNvFp4LinearKernel, PlatformEnum.CPU, "nvfp4")
