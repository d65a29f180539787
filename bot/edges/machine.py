"""Facts about this machine that evidence names: processor, memory, GPU; never its name."""

from __future__ import annotations

import os
import platform
import subprocess

from bot.models import Hardware


def num_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware(*, cuda: bool, python: str) -> Hardware:
    """This machine; the GPU only where one is used (`cuda`)."""
    gpu, gpu_memory = _gpu() if cuda else (None, None)
    return Hardware(
        cpu=_cpu(),
        num_cores=num_threads(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=gpu,
        gpu_memory_bytes=gpu_memory,
        platform=f"{platform.system()} {platform.machine()}",
        python=python,
    )


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpu() -> tuple[str | None, int | None]:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        name, _, mib = out.splitlines()[0].rpartition(",")
        return name.strip(), int(mib) * 2**20
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None, None
