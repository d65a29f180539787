"""Facts about this machine that evidence names: processor, memory, GPU; never its name."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bot.models import Hardware


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first GPU that the driver lists.

    `memory_bytes` is None where GPU and CPU share theirs (GB10), `compute_capability` (as in `9.0`) where the
    driver is too old to tell.
    """

    name: str
    memory_bytes: int | None
    driver: str
    compute_capability: str | None


def num_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware(*, cuda: bool, python: str) -> Hardware:
    """This machine; the GPU only where one is used (`cuda`)."""
    found = gpu() if cuda else None
    return Hardware(
        cpu=_cpu(),
        num_cores=num_threads(),
        memory_bytes=memory_bytes(),
        gpu=found.name if found else None,
        gpu_memory_bytes=found.memory_bytes if found else None,
        platform=f"{platform.system()} {platform.machine()}",
        python=python,
    )


def _cpu() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith(field))
    except (OSError, StopIteration):
        return ""


def memory_bytes() -> int:
    """The machine's main memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit_bytes() -> int:
    """What processes started here may hold: the machine's memory, or less where a container says so.

    Linux's control groups, version 2 (`memory.max`) and 1 (`memory.limit_in_bytes`); a limit of a parent
    group holds for its children.
    """
    limits = [limit for limit in map(_limit_in, _memory_groups()) if limit]
    return min([memory_bytes(), *limits])


def _memory_groups(
    cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[Path]:
    """The folders of this process's memory groups and of all groups above them."""
    found = []
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = cgroups / controllers
            group = root / path.lstrip("/")
            found += [each for each in (group, *group.parents) if each.is_relative_to(root)]
    return found


def _limit_in(group: Path) -> int | None:
    """The limit that a group states, in bytes; None when it states none."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            text = (group / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in Linux's names (as `avx512_bf16`); empty where that is not told."""
    return frozenset(_cpuinfo("flags").split())


def gpu() -> Gpu | None:
    """The first GPU, from the driver's own program; None without one."""
    fields = "name,memory.total,driver_version,compute_cap"
    found = _nvidia_smi(fields) or _nvidia_smi(fields.removesuffix(",compute_cap"))
    return parse_gpu(found) if found else None


def parse_gpu(line: str) -> Gpu | None:
    """The GPU in a line of `nvidia-smi`: name, MiB, driver, compute capability; None where it says less."""
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < 3:
        return None
    capability = cells[3] if len(cells) > 3 and cells[3].replace(".", "").isdigit() else None
    return Gpu(
        name=cells[0],
        memory_bytes=int(cells[1]) * 2**20 if cells[1].isdigit() else None,
        driver=cells[2],
        compute_capability=capability,
    )


def _nvidia_smi(fields: str) -> str | None:
    """The first GPU's line; None when there is no driver or it does not know a field."""
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(out.splitlines()), None)
