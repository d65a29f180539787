"""One release, one worker: a lease on the state branch, taken by compare-and-swap, given back or running out.

GitHub's concurrency groups keep most doubles away; that there is never one rests on this. Taking writes
over exactly the version that was read, so of two runners one is refused.

The holder is the workflow run, not a machine: `prepare` takes the lease for as long as the run may last, and
the run's last job, `finish`, gives it back. Nothing renews it in between. Who could are the jobs that work
for hours, and those run other people's code: their GitHub token only reads, so that nothing of what they run
can write here (docs/identities.md). How the lease of a run that does not come through ends:

- a runner dies, or is cut off: GitHub misses it within minutes and fails its job. `finish` runs `always()`,
  on a hosted machine; it records the loss as an attempt and gives the lease back;
- a job is cancelled, or runs out of time: the same;
- the whole run is gone without its `finish` (cancelled by force, deleted, an outage): the lease runs out, the
  next tick records that and deletes it. A person who wants it sooner deletes `leases/<key>.json`.

Each loss is an attempt, so that a base which kills its runner is not tried for ever. Clocks may differ by
`GRACE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from bot import attempts, log
from bot.errors import Refused
from bot.state import Attempt, Lease, State, lease_path, load, save

GRACE: Final = timedelta(minutes=2)


@dataclass(frozen=True, kw_only=True)
class Work:
    """The release that is worked on, and where its log is."""

    key: str
    base: str
    revision: str
    recipe: str
    run_url: str


def expired(lease: Lease, now: datetime) -> bool:
    return now > lease.expires_at + GRACE


def take(state: State, work: Work, *, holder: str, now: datetime, ttl: timedelta) -> Lease:
    """The lease on `work` for `ttl`: new, taken over where another's ran out, or this holder's own again.

    Raises Refused when another holder has it, or was faster.
    """
    path = lease_path(work.key)
    found, version = load(state, path, Lease)
    mine = found is not None and found.holder == holder
    if found and not mine and not expired(found, now):
        raise Refused(
            f"release {work.key} is being worked on by {found.holder}",
            where=f"state: {path}",
            why=f"its lease holds until {found.expires_at:%Y-%m-%d %H:%M} UTC",
            fix="wait for it; its last job gives the lease back however it ends",
        )
    lease = Lease(
        key=work.key,
        base=work.base,
        revision=work.revision,
        recipe=work.recipe,
        holder=holder,
        run_url=work.run_url,
        taken_at=found.taken_at if found and mine else now,
        expires_at=now + ttl,
    )
    save(state, path, lease, version=version)
    if found and not mine:
        _note_lost(state, found)
    return lease


def release(state: State, lease: Lease) -> bool:
    """Give the lease back; False when it was no longer this holder's."""
    found, version = load(state, lease_path(lease.key), Lease)
    if found is None or version is None or (found.holder, found.taken_at) != (lease.holder, lease.taken_at):
        return False
    state.delete(lease_path(lease.key), version)
    return True


def reap(state: State, leases: list[Lease], now: datetime) -> list[Lease]:
    """Of `leases`, those that ran out: each is recorded as an attempt and deleted, at each tick's plan.

    Recorded first: a tick that dies in between leaves the lease to the next one, which records nothing twice.
    """
    dead = []
    for each in leases:
        version = _version(state, each) if expired(each, now) else None
        if version is not None:
            _note_lost(state, each)
            _delete(state, each, version)
            dead.append(each)
    return dead


def _version(state: State, lease: Lease) -> str | None:
    """The version of a lease that is still as it was read; one taken anew just now is not dead.

    It is written over itself: what is read may be a snapshot's, a write meets what is there.
    """
    found, version = load(state, lease_path(lease.key), Lease)
    if found != lease or version is None:
        return None
    try:
        save(state, lease_path(lease.key), lease, version=version)
    except Refused:
        log.info(f"  the lease on {lease.key} was taken anew in between")
        return None
    return load(state, lease_path(lease.key), Lease)[1]


def _delete(state: State, lease: Lease, version: str) -> None:
    try:
        state.delete(lease_path(lease.key), version)
    except Refused:
        log.info(f"  the lease on {lease.key} was taken anew in between")


def _note_lost(state: State, lost: Lease) -> None:
    what = f"the run {lost.holder} never ended: its lease ran out at {lost.expires_at:%Y-%m-%d %H:%M} UTC"
    attempts.record(
        state,
        Attempt(
            key=lost.key,
            base=lost.base,
            revision=lost.revision,
            recipe=lost.recipe,
            stage="lease",
            failure_class="infrastructure",
            what=what,
            at=lost.expires_at,
            run_url=lost.run_url,
            run_id=lost.holder,
        ),
    )
