"""Quantize: run a release's backend in its environment, and record what it saw.

The checkpoint comes out in `work/quantized/`, as the tool wrote it; `repair` works on a copy. It appears
there only whole: the worker writes beside it and renames. What an interrupted run can go on from (samples,
finished layers) lies in `work/resume/`, and is dropped when the inputs are no longer the same.

A no-op when nothing that it depends on has changed: release key, recipe, device, the bytes of the base's
files, the environment. Two processes follow each other (see `bot.backends.worker`): the one that has the
network and the reading token draws the samples, the one that runs the quantizer over downloaded files has
neither.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bot import log
from bot.backends.patches.asked import asked_digest
from bot.edges import machine, process
from bot.edges.environment import Environment
from bot.errors import InfrastructureError, InputError
from bot.models import (
    BackendJob,
    BackendResult,
    FileDigest,
    QuantizeEvidence,
    Release,
    read_json,
    write_json,
)
from bot.recipe import Recipe

SPARE = 1.5  # free disk, as a share of the base's size: the output, and what the tools put aside
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
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

    `extra_env` is what drawing calibration samples needs beyond the ordinary environment: `HF_ENDPOINT`,
    `HF_HOME`, a reading token. `timeout_s` bounds each of the two processes. Raises what the backend raised
    (BackendError, InputError, RecipeError), or InfrastructureError.
    """
    device: Device = "cuda" if environment.name.endswith("cuda") else "cpu"
    base_files = digests(base_folder, "*.safetensors", "*.json", "*.jinja", "*.txt")
    inputs = inputs_digest(release, recipe, base_files, environment)
    evidence_file, output, resume = work / "evidence" / "quantize.json", work / "quantized", work / "resume"
    if standing := _standing(evidence_file, output, inputs):
        log.info(f"  unchanged since {standing.started_at}: nothing to quantize")
        return standing
    evidence_file.unlink(missing_ok=True)
    _keep_resume_for(resume, inputs)
    _refuse_full_disk(work, base_files)
    job = _job(release, recipe, base_folder, work, device)
    started_at, started = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    result = _run(job, work, environment, extra_env, timeout_s)
    evidence = QuantizeEvidence(
        inputs_digest=inputs,
        command="python -m bot.backends.worker quantize quantize-job.json",
        environment=environment.name,
        environment_digest=environment.digest,
        hardware=machine.hardware(cuda=device == "cuda", python=environment.versions.get("python", "")),
        started_at=started_at,
        wall_s=time.monotonic() - started,
        result=result,
        output_files=digests(output, "*"),
    )
    write_json(evidence_file, evidence)
    shutil.rmtree(resume, ignore_errors=True)
    return evidence


def inputs_digest(
    release: Release, recipe: Recipe, base_files: list[FileDigest], environment: Environment
) -> str:
    """sha256 over all that the output depends on; our own code counts where it is a patch of the tool."""
    parts = [release.key, release.base.revision, recipe.digest(), environment.name, environment.digest]
    parts += [each for each in [asked_digest(recipe)] if each]
    parts += [f"{each.path} {each.sha256}" for each in base_files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def digests(folder: Path, *patterns: str) -> list[FileDigest]:
    """sha256 of the files in `folder`, read in blocks."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    found = []
    for path in paths:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found.append(FileDigest(path=path.name, size_bytes=path.stat().st_size, sha256=digest))
    return found


def _standing(evidence_file: Path, output: Path, inputs: str) -> QuantizeEvidence | None:
    if not evidence_file.is_file():
        return None
    try:
        evidence = read_json(evidence_file, QuantizeEvidence)
    except InputError:
        return None
    files = [(output / each.path, each.size_bytes) for each in evidence.output_files]
    whole = all(path.is_file() and path.stat().st_size == size for path, size in files)
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
    needed = int(sum(each.size_bytes for each in base_files) * SPARE)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise InfrastructureError(
            f"{free / 2**30:.1f} GiB are free, and quantizing this base needs about {needed / 2**30:.1f} GiB",
            where=str(work),
            fix="free some space, or set RELEASE_BOT_HOME to a larger disk",
        )


def _job(release: Release, recipe: Recipe, base_folder: Path, work: Path, device: Device) -> BackendJob:
    return BackendJob(
        backend=recipe.method.backend,
        base_folder=str(base_folder.resolve()),
        base=release.base,
        output_folder=str((work / "quantized").resolve()),
        resume_folder=str((work / "resume").resolve()),
        result_file=str((work / "quantize-result.json").resolve()),
        recipe=recipe.model_dump(mode="json"),
        device=device,
        num_threads=machine.num_threads(),
    )


def _run(
    job: BackendJob,
    work: Path,
    environment: Environment,
    extra_env: Mapping[str, str],
    timeout_s: float | None,
) -> BackendResult:
    job_file, error_file = work / "quantize-job.json", Path(job.result_file + ".error")
    write_json(job_file, job)
    Path(job.result_file).unlink(missing_ok=True)
    for name, value in extra_env.items():
        if "TOKEN" in name:
            log.hide(value)
    peak = 0
    with process.importable() as path:
        env = _variables(job, path)
        for phase, more in (("calibrate", dict(extra_env)), ("quantize", OFFLINE)):
            error_file.unlink(missing_ok=True)
            with _Shown() as shown:
                child = process.run(
                    [str(environment.python), "-m", "bot.backends.worker", phase, str(job_file.resolve())],
                    env={**env, **more},
                    cwd=work,
                    log_file=work / "logs" / "quantize.log",
                    on_event=shown.event,
                    on_tick=shown.tick,
                    timeout_s=timeout_s,
                    error_file=error_file,
                )
            peak = max(peak, child.peak_memory_bytes)
    result = read_json(Path(job.result_file), BackendResult)
    return result.model_copy(update={"peak_memory_bytes": max(result.peak_memory_bytes, peak)})


def _variables(job: BackendJob, path: str) -> dict[str, str]:
    return process.inherited() | {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(job.num_threads),
        # Threads that wait by sleeping: spinning ones cost a factor of ten when the cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_HOME": str(Path(job.resume_folder) / "hf-home"),
    }


class _Shown:
    """The worker's events as a progress line a phase, redrawn while nothing comes."""

    def __init__(self) -> None:
        self._progress: log.Progress | None = None
        self._done = 0.0
        self._note = ""

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
            self.__exit__()
            self._progress = log.Progress(str(event.get("label")), total=float(event.get("total") or 0))
            self._done, self._note = 0.0, ""
        elif kind == "progress":
            self._done, self._note = float(event.get("done") or 0), str(event.get("note") or "")
        elif kind == "note":
            if self._progress:
                self._progress.__exit__()  # ends the line that is being redrawn
            log.info(f"  {event.get('text')}")
        if self._progress and kind != "note":
            self._progress.update(self._done, note=self._note)

    def tick(self) -> None:
        """Show that time passes."""
        if self._progress and self._done < self._progress.total:
            self._progress.update(self._done, note=self._note)
