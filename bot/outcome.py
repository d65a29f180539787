"""How a job of a release's run ended, told to the run's last job, which alone may write it down.

A job that runs third-party code has no token for the state. It leaves its failure as an output; the last job
reads those of all others and records an attempt. What it reads is data: it came from such a job.

A metadata release may end well with nothing to change. Its build says so by the output `ended`, which counts
for no other kind of release: which kind it is, `prepare` tells, which runs nobody else's code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bot import attempts, lease, log, naming
from bot.errors import InputError, NoPublisher, ReleaseBotError
from bot.lease import Work
from bot.models import Model, read_json, write_json
from bot.state import Attempt, FailureClass, Lease, State, Unchanged, lease_path, load, save, unchanged_path

MAX_CHARS: Final = 1000
JOBS: Final = ("prepare", "build", "evaluate", "card")
NOTHING_TO_CHANGE: Final = "nothing_to_change"


class Failure(Model):
    """One line of JSON in a job's outputs."""

    stage: Annotated[str, Field(pattern=r"^[a-z-]{1,40}$")]
    failure_class: FailureClass
    what: Annotated[str, Field(max_length=MAX_CHARS)]


class Ended(Model):
    """How publishing ended, in a file among its evidence: a job of a matrix has no outputs of its own.

    `waits`: for a publisher that a person must set, which is no failure.
    """

    waits: bool
    failure: Failure | None


class JobResult(BaseModel):
    """An entry of the workflow's `needs` context."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    result: str
    outputs: dict[str, str] = {}


class Finished(Model):
    """`release-bot finish --json`."""

    key: str
    recorded: Failure | None
    given_back: bool
    nothing_to_change: bool = False


@contextmanager
def told(stage: str) -> Iterator[None]:
    """Leave what goes wrong inside as the step's output `failure`; it goes on to be raised."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as e:
        output(failure=_failure(stage, e).model_dump_json())
        raise


@contextmanager
def left(file: Path | None, stage: str) -> Iterator[None]:
    """Leave how it ended inside as `file`, if there is to be one; what goes wrong goes on to be raised."""
    found = Ended(waits=False, failure=None)
    try:
        yield
    except NoPublisher:
        found = Ended(waits=True, failure=None)
        raise
    except (Exception, KeyboardInterrupt) as e:
        found = Ended(waits=False, failure=_failure(stage, e))
        raise
    finally:
        if file is not None:
            write_json(file, found)


def _failure(stage: str, error: BaseException) -> Failure:
    what = error.what if isinstance(error, ReleaseBotError) else f"{type(error).__name__}: {error}"
    shown = log.redact(log.printable(what)).replace("\n", " ")[:MAX_CHARS]
    return Failure(stage=stage, failure_class=attempts.failure_class(error), what=shown)


def output(**values: str) -> None:
    """Set outputs of a workflow's step. Raises ValueError for a value that could begin another one."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        for name, value in values.items():
            if "\n" in value or "\r" in value:
                raise ValueError(f"output {name} has a line break")
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(f"{name}={value}\n" for name, value in values.items())


def read(text: str) -> dict[str, JobResult]:
    """The `needs` context as JSON. Raises InputError."""
    try:
        return TypeAdapter(dict[str, JobResult]).validate_json(text)
    except ValidationError as e:
        raise InputError(f"NEEDS is not the needs of a job: {e.errors()[0]['msg']}") from e


def failure_in(results: Mapping[str, JobResult]) -> Failure | None:
    """The first job's that failed or was cancelled. One that left no word lost its runner.

    A `prepare` that says that the release is not due ends as a failure where only a person can mend that;
    nothing was tried.
    """
    for name in JOBS:
        job = results.get(name)
        if job is None or job.result in ("success", "skipped") or job.outputs.get("proceed") == "false":
            continue
        try:
            return Failure.model_validate_json(job.outputs.get("failure", ""))
        except ValidationError:
            what = f"the job {name} ended as {job.result} without a word: its runner was lost, or stopped"
            return Failure(stage=name, failure_class="infrastructure", what=what)
    return None


def held_by(state: State, holder: str, run_url: str) -> Work | None:
    """What the run `holder` holds the lease on; None for nothing, as when it ended before it took one."""
    for path in state.list("leases/"):
        found, _ = load(state, path, Lease)
        if found and found.holder == holder:
            return Work(
                key=found.key,
                base=found.base,
                revision=found.revision,
                recipe=found.recipe,
                run_url=run_url,
            )
    return None


def finish(
    state: State, work: Work, results: Mapping[str, JobResult], *, holder: str, now: datetime
) -> Finished:
    """Record what failed, or that nothing was to change, and give the run's lease back, recorded or not.

    Raises what recording does, after the lease is given back: held on, it would keep the release for days.
    """
    failure = failure_in(results)
    unchanged = None if failure else _unchanged_since(results)
    try:
        if failure:
            _record(state, work, failure, holder, now)
        if unchanged:
            _record_unchanged(state, work, unchanged, now)
    finally:
        mine = _give_back(state, work.key, holder)
    return Finished(key=work.key, recorded=failure, given_back=mine, nothing_to_change=unchanged is not None)


def _give_back(state: State, key: str, holder: str) -> bool:
    """Whether there was a lease of `holder` to give back."""
    found, _ = load(state, lease_path(key), Lease)
    return found is not None and found.holder == holder and lease.release(state, found)


def _unchanged_since(results: Mapping[str, JobResult]) -> str | None:
    """The release that is public and stays, where a metadata release found nothing to change; else None."""
    prepared, built = (results.get(name) for name in ("prepare", "build"))
    if prepared is None or built is None or built.result != "success":
        return None
    key = prepared.outputs.get("predecessor", "")
    says_so = built.outputs.get("ended") == NOTHING_TO_CHANGE
    return key if says_so and prepared.outputs.get("kind") == "metadata" and naming.is_key(key) else None


def _record_unchanged(state: State, work: Work, predecessor: str, now: datetime) -> None:
    """Written over what an earlier run found, which a person's retry may have taken back."""
    document = Unchanged(
        key=work.key,
        base=work.base,
        revision=work.revision,
        recipe=work.recipe,
        predecessor=predecessor,
        at=now,
        run_url=work.run_url,
    )
    _, version = load(state, unchanged_path(work.key), Unchanged)
    save(state, unchanged_path(work.key), document, version=version)


def finish_publishing(state: State, work: Work, ended: Path, *, holder: str, now: datetime) -> Finished:
    """Record how publishing failed, if it did. A job that left no word lost its runner, or never began."""
    try:
        found = read_json(ended, Ended)
    except InputError:
        what = "the job publish ended without a word: its runner was lost, or it was stopped"
        found = Ended(
            waits=False, failure=Failure(stage="publish", failure_class="infrastructure", what=what)
        )
    if found.failure:
        _record(state, work, found.failure, holder, now)
    return Finished(key=work.key, recorded=found.failure, given_back=False)


def _record(state: State, work: Work, failure: Failure, holder: str, now: datetime) -> None:
    attempt = Attempt(
        key=work.key,
        base=work.base,
        revision=work.revision,
        recipe=work.recipe,
        stage=failure.stage,
        failure_class=failure.failure_class,
        what=failure.what,
        at=now,
        run_url=work.run_url,
        run_id=holder,
    )
    attempts.record(state, attempt)
