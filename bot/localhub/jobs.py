"""Jobs: a command with its environment, its log and its end, as the real Hub's Jobs API tells them.

The image and the flavor are recorded and otherwise ignored: nothing is isolated here. So a job runs, as a
process of this machine in a folder of its own, only where the server was started with `run_jobs`; elsewhere
it ends as an error that says so. Secrets reach the process's environment and are never told again: a job is
described with their names only. A restart of the server forgets its jobs and ends their processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bot.localhub.errors import HubError
from bot.localhub.repos import new_id, now

Stage = Literal["SCHEDULING", "RUNNING", "COMPLETED", "CANCELED", "ERROR"]
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "TMPDIR")
MAX_LINES = 100_000
WAIT_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What was asked for."""

    namespace: str
    owner: str
    command: tuple[str, ...]
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    image: str
    flavor: str
    labels: dict[str, str]
    timeout_s: int


@dataclass(kw_only=True)
class Job:
    """One job as it goes; `changed` guards all of it and wakes those who follow its log."""

    id: str
    spec: Spec
    created_at: str
    stage: Stage = "SCHEDULING"
    message: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    lines: list[tuple[str, str]] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def is_over(self) -> bool:
        return self.finished_at is not None

    def say(self, text: str) -> None:
        with self.changed:
            if len(self.lines) < MAX_LINES:
                self.lines.append((now(), text))
            self.changed.notify_all()

    def end(self, stage: Stage, message: str | None = None) -> None:
        """Enter a last stage; the first one to say so decides which."""
        with self.changed:
            if not self.is_over:
                self.stage, self.message, self.finished_at = stage, message, now()
            self.changed.notify_all()

    def follow(self) -> Iterator[tuple[str, str]]:
        """The log from its beginning, each line with its time, until the job is over."""
        told = 0
        while True:
            with self.changed:
                if told == len(self.lines) and not self.is_over:
                    self.changed.wait(WAIT_S)
                new, over = self.lines[told:], self.is_over
            yield from new
            told += len(new)
            if over and not new:
                return


class Jobs:
    """The jobs of one embedded Hub."""

    def __init__(self, folder: Path, *, runs: bool):
        self._folder = folder
        self._runs = runs
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}

    def submit(self, spec: Spec) -> Job:
        job = Job(id=new_id(), spec=spec, created_at=now())
        with self._lock:
            self._jobs[job.id] = job
        if self._runs:
            threading.Thread(target=self._run, args=(job,), name=f"job {job.id}", daemon=True).start()
        else:
            job.end("ERROR", "this embedded Hub was not started to run jobs (--run-jobs)")
        return job

    def get(self, namespace: str, job_id: str) -> Job:
        with self._lock:
            job = self._jobs.get(job_id)
        if job is None or job.spec.namespace != namespace:
            raise HubError("Job not found", status=404)
        return job

    def of(self, namespace: str) -> list[Job]:
        """Newest first."""
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if job.spec.namespace == namespace]

    def cancel(self, job: Job) -> None:
        job.end("CANCELED")
        _kill(job)

    def stop(self) -> None:
        """End every process; the server is going."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            self.cancel(job)

    def _run(self, job: Job) -> None:
        folder = self._folder / job.id
        folder.mkdir(parents=True)
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        environment = {**kept, "HOME": str(folder), **job.spec.environment, **job.spec.secrets}
        try:
            process = subprocess.Popen(
                job.spec.command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            job.end("ERROR", f"the command did not start: {error}")
            return
        with job.changed:
            job.process, job.started_at = process, now()
            job.stage = job.stage if job.is_over else "RUNNING"
        if job.is_over:
            _kill(job)
        overdue = threading.Timer(job.spec.timeout_s, self._overdue, (job,))
        overdue.daemon = True
        overdue.start()
        job.say("===== Job started =====")
        assert process.stdout is not None
        for line in process.stdout:
            job.say(line.decode("utf-8", "replace").rstrip("\n"))
        status = process.wait()
        overdue.cancel()
        job.end("COMPLETED" if status == 0 else "ERROR", None if status == 0 else f"exit code {status}")

    def _overdue(self, job: Job) -> None:
        job.end("ERROR", f"Job timeout: it ran longer than {job.spec.timeout_s} s")
        _kill(job)


def _kill(job: Job) -> None:
    """End the job's whole process group, if it still runs."""
    process = job.process
    if process is not None and process.poll() is None:
        with suppress(ProcessLookupError):  # it ended in between
            os.killpg(process.pid, signal.SIGKILL)
