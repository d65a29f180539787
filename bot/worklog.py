"""Work on a release under its lease, and a record of how it failed: what every job on a runner is wrapped in.

Whatever ends the work, the state tells it: the lease is given back, and a failure is an attempt with its
class, which decides what the plan does next. Two ends are no attempts: being turned away by another's lease,
and stopping because one's own was lost; the release is somebody else's then. A runner that dies records
nothing itself; its lease runs out and tells.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from bot import attempts, lease, log
from bot.errors import InfrastructureError, InputError, Refused, ReleaseBotError
from bot.lease import TTL, Clock, Held, Work
from bot.state import Attempt, State, refuse_paused

MAX_TOLD = 1000


@contextmanager
def recorded(
    state: State,
    work: Work,
    *,
    holder: str,
    stage: Callable[[], str],
    ttl: timedelta = TTL,
    clock: Clock = lease.utc_now,
) -> Iterator[Held]:
    """Hold `work`'s lease, and record what fails; `stage` says where the work is when it does.

    Raises Refused while writing is paused, or while another holder has the lease.
    """
    refuse_paused(state)
    with lease.holding(state, work, holder=holder, ttl=ttl, clock=clock) as held:
        try:
            yield held
        except (Exception, KeyboardInterrupt) as e:
            if not (isinstance(e, Refused) and held.lost):
                _record(state, work, holder, stage(), e, clock)
            raise


def _record(state: State, work: Work, holder: str, stage: str, error: BaseException, clock: Clock) -> None:
    """Note the failure. That it cannot be noted must not hide it."""
    what = error.what if isinstance(error, ReleaseBotError) else f"{type(error).__name__}: {error}"
    try:
        attempts.record(
            state,
            Attempt(
                key=work.key,
                base=work.base,
                revision=work.revision,
                recipe=work.recipe,
                stage=stage,
                failure_class=attempts.failure_class(error),
                what=log.redact(log.printable(what))[:MAX_TOLD],
                at=clock(),
                run_url=work.run_url,
                run_id=holder,
            ),
        )
    except (InputError, InfrastructureError, Refused) as e:
        log.warning(f"the failure of {work.key} could not be recorded: {e.what}")


def run_id() -> str:
    """The workflow run that this is a job of; by hand, this process."""
    return os.environ.get("GITHUB_RUN_ID") or f"by-hand-{os.getpid()}"


def run_url() -> str:
    """Where the run's log is; empty by hand."""
    server, repository = os.environ.get("GITHUB_SERVER_URL", ""), os.environ.get("GITHUB_REPOSITORY", "")
    number = os.environ.get("GITHUB_RUN_ID", "")
    return f"{server}/{repository}/actions/runs/{number}" if server and repository and number else ""
