"""Quantize: run a release's backend in its environment, and record what it saw.

The checkpoint comes out in `work/quantized/`, as the tool wrote it; `repair` works on a copy. It appears
there only whole: the worker writes beside it and renames. What an interrupted run can go on from (samples,
finished layers) lies in `work/resume/`, and is dropped when the inputs are no longer the same.

A no-op when nothing that it depends on has changed: release key, device, the bytes of the base's files, the
environment. Two processes follow each other (see `bot.backends.worker`): the one that has the network and the
reading token draws the samples, the one that runs the quantizer over downloaded files has neither.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bot import log
from bot.edges import process
from bot.edges.environment import Environment
from bot.errors import InfrastructureError, InputError
from bot.models import (
    BackendJob,
    BackendResult,
    FileDigest,
    Hardware,
    QuantizeEvidence,
    Release,
    read_json,
    write_json,
)
from bot.recipe import Recipe

WEIGHT_SPARE = 1.5  # free disk, as a share of the base's size: the output, and what the tools put aside
Device = Literal["cpu", "cuda"]


def quantize(
    release: Release,
    recipe: Recipe,
    *,
    base_folder: Path,
    work: Path,
    environment: Environment,
    extra_env: Mapping[str, str],
    timeout_s: float | None = None,
) -> QuantizeEvidence:
    """Make `work/quantized/` and `work/evidence/quantize.json` from the base in `base_folder`.

    `extra_env` is what the drawing of calibration samples needs beyond the ordinary environment:
    `HF_ENDPOINT`, `HF_HOME`, a reading token. Raises BackendError, InputError, InfrastructureError.
    """
    device: Device = "cuda" if environment.name.endswith("cuda") else "cpu"
    base_files = _digests(base_folder, "*.safetensors") + _digests(base_folder, "*.json", "*.jinja", "*.txt")
    inputs = inputs_digest(release, base_files, environment, device)
    evidence_file, output, resume = work / "evidence" / "quantize.json", work / "quantized", work / "resume"
    if standing := _standing(evidence_file, output, inputs):
        log.info(f"  unchanged since {standing.started_at}: nothing to quantize")
        return standing
    evidence_file.unlink(missing_ok=True)
    _keep_resume_for(resume, inputs)
    _refuse_full_disk(work, base_files)
    job = BackendJob(
        backend=recipe.method.backend,
        base_folder=str(base_folder.resolve()),
        base=release.base,
        output_folder=str(output.resolve()),
        resume_folder=str(resume.resolve()),
        result_file=str((work / "quantize-result.json").resolve()),
        recipe=recipe.model_dump(mode="json"),
        device=device,
        num_threads=num_threads(),
    )
    job_file = work / "quantize-job.json"
    write_json(job_file, job)
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    argv = [str(environment.python), "-m", "bot.backends.worker"]
    log_file = work / "logs" / "quantize.log"
    with _importable() as path:
        env = _environment_variables(work, path, job.num_threads)
        online = {**env, **extra_env}
        offline = env | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        error_file = Path(job.result_file + ".error")
        for phase, variables in (("calibrate", online), ("quantize", offline)):
            with _Shown() as shown:
                child = process.run(
                    [*argv, phase, str(job_file.resolve())],
                    env=variables,
                    cwd=work,
                    log_file=log_file,
                    on_event=shown.event,
                    timeout_s=timeout_s,
                    error_file=error_file,
                )
    result = read_json(Path(job.result_file), BackendResult)
    result = result.model_copy(
        update={"peak_memory_bytes": max(result.peak_memory_bytes, child.peak_memory_bytes)}
    )
    evidence = QuantizeEvidence(
        inputs_digest=inputs,
        command="python -m bot.backends.worker quantize quantize-job.json",
        environment=environment.name,
        environment_digest=environment.digest,
        hardware=hardware(environment),
        started_at=started_at,
        wall_s=time.monotonic() - started,
        result=result,
        output_files=_digests(output, "*"),
    )
    write_json(evidence_file, evidence)
    shutil.rmtree(resume, ignore_errors=True)
    return evidence


def inputs_digest(
    release: Release, base_files: list[FileDigest], environment: Environment, device: str
) -> str:
    """sha256 over all that the output depends on."""
    parts = [release.key, release.base.revision, release.recipe_digest, environment.digest, device]
    parts += [f"{each.path} {each.sha256}" for each in base_files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def num_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _standing(evidence_file: Path, output: Path, inputs: str) -> QuantizeEvidence | None:
    if not evidence_file.is_file():
        return None
    try:
        evidence = read_json(evidence_file, QuantizeEvidence)
    except InputError:
        return None
    whole = all(
        (output / each.path).is_file() and (output / each.path).stat().st_size == each.size_bytes
        for each in evidence.output_files
    )
    return evidence if whole and evidence.inputs_digest == inputs else None


def _keep_resume_for(resume: Path, inputs: str) -> None:
    """Drop what an earlier run left, unless it had the same inputs."""
    mark = resume / "inputs"
    if resume.exists() and (not mark.is_file() or mark.read_text(encoding="ascii") != inputs):
        shutil.rmtree(resume)
    if mark.is_file():
        log.info("  an earlier run was interrupted: going on from what it left")
    resume.mkdir(parents=True, exist_ok=True)
    mark.write_text(inputs, encoding="ascii")


def _refuse_full_disk(work: Path, base_files: list[FileDigest]) -> None:
    needed = int(sum(each.size_bytes for each in base_files) * WEIGHT_SPARE)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise InfrastructureError(
            f"{free / 2**30:.1f} GiB are free, and quantizing this base needs about {needed / 2**30:.1f} GiB",
            where=str(work),
            fix="free some space, or set RELEASE_BOT_HOME to a larger disk",
        )


@contextmanager
def _importable() -> Iterator[str]:
    """A folder that holds the package `bot` and nothing else, for PYTHONPATH.

    The folder that the bot was imported from may be a site-packages, whose other packages would hide those of
    the quantizer environment.
    """
    with tempfile.TemporaryDirectory(prefix="release-bot-") as folder:
        (Path(folder) / "bot").symlink_to(Path(__file__).resolve().parents[1])
        yield folder


def _environment_variables(work: Path, path: str, threads: int) -> dict[str, str]:
    return process.inherited() | {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait by sleeping: spinning ones cost a factor of ten when the cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HOME": str((work / "resume" / "hf-home").resolve()),
    }


class _Shown:
    """The worker's events as a progress line a phase."""

    def __init__(self) -> None:
        self._progress: log.Progress | None = None

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress:
            self._progress.__exit__(*exc)
            self._progress = None

    def event(self, event: process.Event) -> None:
        """Show one event."""
        kind = event.get("event")
        if kind == "phase":
            self.__exit__(None, None, None)
            self._progress = log.Progress(str(event.get("label")), total=float(event.get("total") or 0))
        elif kind == "progress" and self._progress:
            self._progress.update(float(event.get("done") or 0), note=str(event.get("note") or ""))
        elif kind == "note":
            log.info(f"  {event.get('text')}")


def _digests(folder: Path, *patterns: str) -> list[FileDigest]:
    """sha256 of the files in `folder`, read in blocks."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    found = []
    for path in paths:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(FileDigest(path=path.name, size_bytes=path.stat().st_size, sha256=digest))
    return found


def hardware(environment: Environment) -> Hardware:
    """This machine, without its name."""
    gpu, gpu_memory = _gpu() if environment.name.endswith("cuda") else (None, None)
    return Hardware(
        cpu=_cpu(),
        num_cores=num_threads(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpu=gpu,
        gpu_memory_bytes=gpu_memory,
        platform=f"{platform.system()} {platform.machine()}",
        python=environment.versions.get("python", ""),
    )


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _gpu() -> tuple[str | None, int | None]:
    import subprocess

    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        name, _, mib = out.splitlines()[0].rpartition(",")
        return name.strip(), int(mib) * 2**20
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None, None
