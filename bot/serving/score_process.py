"""The scoring process seen from the bot: started, watched, ended, and its failures told apart.

It is watched as the server is: by its memory, by what the kernel killed, and by how long it says nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bot import log
from bot.edges import failures, machine, process
from bot.models import write_json
from bot.serving import symptoms
from bot.serving.engine import Engine, variables
from bot.serving.score_job import ScoreJob
from bot.serving.server import KEPT_LINES, MEMORY_SHARE, START_TIMEOUT_S

# The engine in the very process: no second one to hand every log-probability over.
_IN_PROCESS: Final = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
# vLLM binds its own worker processes' threads to cores; in this process nobody does, and threads that wait by
# sleeping are woken on the core that wakes them: two of them shared one core of two, at half the speed.
_BOUND: Final = {"OMP_PLACES": "cores", "OMP_PROC_BIND": "spread"}
QUIET_TIMEOUT_S: Final = START_TIMEOUT_S  # neither a line nor progress for so long: it hangs


def run(
    jobs: Sequence[ScoreJob], engine: Engine, logs: Path, *, quiet_timeout_s: float = QUIET_TIMEOUT_S
) -> int:
    """Run the worker to its end, one start for all `jobs`; returns the most memory that its tree held.

    Raises what the worker left as its error; NotServable or EngineError for an engine that failed.
    """
    error_file = Path(jobs[0].result_file + ".error")
    job_files = [logs / f"score-job{f'-{i}' if i else ''}.json" for i in range(len(jobs))]
    for path, job in zip(job_files, jobs, strict=True):
        write_json(path, job)
    error_file.unlink(missing_ok=True)
    program = [str(engine.environment.python), "-m", "bot.serving.score_worker"]
    watch, oom_kills = _Watch(), process.oom_kills()
    log_file, limit = logs / "scoring.log", int(machine.memory_limit_bytes() * MEMORY_SHARE)
    with (
        process.importable() as bot,
        watch,
        process.running(
            [*program, *(str(each.resolve()) for each in job_files)],
            env=_variables(engine, bot),
            log_file=log_file,
            on_line=watch.line,
            on_event=watch.event,
        ) as handle,
    ):
        child = handle.child
        while handle.poll():
            watch.tick()
            if child.peak_memory_bytes > limit:
                held = child.peak_memory_bytes
                raise symptoms.too_much_memory(
                    list(watch.lines), held_bytes=held, limit_bytes=limit, where=str(log_file)
                )
            if watch.quiet_s > quiet_timeout_s:
                raise symptoms.hung(list(watch.lines), timeout_s=quiet_timeout_s, where=str(log_file))
    if child.returncode == 0:
        return child.peak_memory_bytes
    if error_file.is_file():
        raise failures.read_error(error_file)
    now = process.oom_kills()
    raise symptoms.of_end(
        list(watch.lines),
        status=child.returncode,
        serving=watch.started,
        killed_for_memory=None if now is None or oom_kills is None else now > oom_kills,
        where=str(log_file),
    )


def _variables(engine: Engine, bot: str) -> dict[str, str]:
    env = {**variables(engine), **_IN_PROCESS, **(_BOUND if engine.facts.device == "cpu" else {})}
    path = ":".join(filter(None, [bot, env.get("PYTHONPATH", "")]))
    return {**env, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false"}


class _Watch:
    """The worker's lines and progress: shown, and remembered for the error that may come."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.started = False  # the engine has answered, so the checkpoint did load
        self._progress: log.Progress | None = None
        self._done = 0.0
        self._last = time.monotonic()

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress:
            self._progress.__exit__(*exc)
            self._progress = None

    @property
    def quiet_s(self) -> float:
        """How long nothing has come."""
        return time.monotonic() - self._last

    def line(self, line: str) -> None:
        self._last = time.monotonic()
        self.lines.append(line)

    def event(self, event: process.Event) -> None:
        self._last = time.monotonic()
        if event.get("event") == "phase":
            self.__exit__()
            self.started = self._done > 0 or self.started
            self._progress, self._done = log.Progress(str(event["label"]), total=float(event["total"])), 0.0
        elif event.get("event") == "progress" and self._progress:
            self._done = float(event["done"])
            self._progress.update(self._done)

    def tick(self) -> None:
        """Show that time passes."""
        if self._progress and self._done < self._progress.total:
            self._progress.update(self._done)
