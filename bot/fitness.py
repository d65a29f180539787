"""Whether a machine is what its class in `runners/fleet.yaml` promises, since the plan gives it jobs by that.

Held are memory and disk, the GPU's memory, compute capability and driver, Python, and the environments that a
job expects to find. A class without a GPU promises no environments: what runs there needs none.

Disk is what is free and what the host's cache would give back on the same disk. A machine whose free part
alone is less than half of the promise fails too, since its hook then refuses every job
(`runners/hooks/job-started.sh`). `runners/setup.sh` counts the same way.
"""

from __future__ import annotations

from collections.abc import Iterator

from bot.doctor import GIB, MIN_DRIVER, Finding, Report
from bot.edges.checkup import Facts
from bot.errors import InfrastructureError
from bot.fleet import RunnerClass, numbers

ENVIRONMENTS = ("quantize-cuda", "vllm-cuda")


def hold(report: Report, facts: Facts, runner: RunnerClass) -> list[Finding]:
    """One finding for each promise of the class, `ok` or `missing`."""
    found = [each for each in report.findings if each.id in ("system", "python") and each.status == "missing"]
    found += [_memory(facts, runner), _disk(facts, runner)]
    if runner.gpu_memory_gib:
        found += [*_gpu(facts, runner), *_environments(facts)]
    return found


def require(found: list[Finding], runner: RunnerClass) -> None:
    """Raises InfrastructureError, which names each promise that the machine does not keep."""
    lacks = [each for each in found if each.status == "missing"]
    if lacks:
        raise InfrastructureError(
            f"this machine is not what class {runner.name} promises: {len(lacks)} of {len(found)} points:\n"
            + "\n".join(f"  - {each.id}: {each.what}; {each.why}" for each in lacks),
            where="runners/fleet.yaml",
            fix="; ".join(dict.fromkeys(each.next for each in lacks)),
        )


def _held(id: str, what: str, kept: bool, why: str, fix: str) -> Finding:
    if kept:
        return Finding(id=f"class.{id}", status="ok", what=what, why="", next="")
    return Finding(id=f"class.{id}", status="missing", what=what, why=why, next=fix)


def _memory(facts: Facts, runner: RunnerClass) -> Finding:
    held = facts.hardware.memory_bytes
    why = f"the class promises {runner.memory_gib:g} GiB"
    fix = "correct memory_gib of the class, or label the machine otherwise"
    return _held("memory", f"{held / GIB:.0f} GiB of main memory", held >= runner.memory_gib * GIB, why, fix)


def _disk(facts: Facts, runner: RunnerClass) -> Finding:
    free, kept, wanted = facts.free_bytes, facts.cache_bytes, runner.disk_gib * GIB
    what = f"{free / GIB:.0f} GiB free, {kept / GIB:.0f} GiB in the host's cache on that disk"
    if free + kept < wanted:
        why, fix = f"the class promises {runner.disk_gib:g} GiB", "free some space, or mount a larger disk"
        return _held("disk", what, False, why, fix)
    why = f"its hook refuses jobs below half of the class's {runner.disk_gib:g} GiB"
    return _held("disk", what, 2 * free >= wanted, why, "run `release-bot cache prune` with a smaller cap")


def _gpu(facts: Facts, runner: RunnerClass) -> Iterator[Finding]:
    if facts.gpu is None:
        why = f"the class promises a {runner.gpu}; nvidia-smi lists none"
        yield _held("gpu", "no GPU", False, why, "install the NVIDIA driver, reboot")
        return
    held = facts.gpu.memory_bytes if facts.gpu.memory_bytes is not None else facts.hardware.memory_bytes
    fix = "use another class for this machine"
    what, why = f"{held / GIB:.1f} GiB of GPU memory", f"the class promises {runner.gpu_memory_gib:g} GiB"
    yield _held("gpu_memory", what, held >= runner.gpu_memory_gib * GIB, why, fix)
    has = facts.gpu.compute_capability
    capable = has is not None and numbers(has) >= numbers(runner.compute_capability)
    why = f"the class promises {runner.compute_capability}"
    yield _held("compute_capability", f"compute capability {has or 'not told'}", capable, why, fix)
    major = facts.gpu.driver.partition(".")[0]
    recent = major.isdigit() and int(major) >= MIN_DRIVER
    why = f"the pinned torch brings CUDA 13.0, which wants {MIN_DRIVER} or newer"
    yield _held("driver", f"driver {facts.gpu.driver}", recent, why, "upgrade the driver, reboot")


def _environments(facts: Facts) -> Iterator[Finding]:
    for name in ENVIRONMENTS:
        size = facts.environments.get(name)
        what = f"{name} is not built" if size is None else f"{name} is built, {size / GIB:.1f} GiB"
        why = "each job would build it anew, or it is of other pins than this checkout's"
        fix = "run runners/setup.sh on the host again (by hand: release-bot environments build)"
        yield _held(f"environment.{name}", what, size is not None, why, fix)
