"""One release, one worker: a lease, taken by compare-and-swap, renewed while the work goes on, running out.

GitHub's concurrency groups keep most doubles away; that there is never one rests on this. Taking writes
over exactly the version that was read, so of two runners one is refused. A runner that dies stops renewing:
its lease runs out, and what was lost is recorded as an attempt, so that a base which kills its runner is not
tried for ever.

The holder is the workflow run: its later jobs take over from its earlier ones. Clocks may differ by `GRACE`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from bot import attempts, log
from bot.errors import InfrastructureError, Refused, ReleaseBotError
from bot.state import Attempt, Lease, State, lease_path, load, save

TTL: Final = timedelta(minutes=45)
GRACE: Final = timedelta(minutes=2)
BEATS: Final = 6  # renewals within one TTL

Clock = Callable[[], datetime]


@dataclass(frozen=True, kw_only=True)
class Work:
    """The release that is worked on, and where its log is."""

    key: str
    base: str
    revision: str
    recipe: str
    run_url: str


def utc_now() -> datetime:
    return datetime.now(UTC)


def expired(lease: Lease, now: datetime) -> bool:
    return now > lease.expires_at + GRACE


def take(state: State, work: Work, *, holder: str, now: datetime, ttl: timedelta = TTL) -> Lease:
    """The lease on `work`, new, taken over from a dead holder, or this holder's own again.

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
            fix="wait for it; when that run is dead, the lease runs out by itself",
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


def renew(state: State, lease: Lease, *, now: datetime, ttl: timedelta = TTL) -> Lease:
    """The same lease for another `ttl`. Raises Refused when it is no longer this holder's."""
    found, version = load(state, lease_path(lease.key), Lease)
    if found is None or (found.holder, found.taken_at) != (lease.holder, lease.taken_at):
        raise Refused(
            f"the lease on release {lease.key} is lost: {found.holder if found else 'nobody'} has it",
            where=f"state: {lease_path(lease.key)}",
            why="it was not renewed in time, or a person deleted it",
            fix="stop this run; the plan starts the release again where that is due",
        )
    renewed = lease.model_copy(update={"expires_at": now + ttl})
    save(state, lease_path(lease.key), renewed, version=version)
    return renewed


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
    """The version of a lease that is still as it was read; one renewed just now is not dead.

    It is written over itself: what is read may be a snapshot's, a write meets what is there.
    """
    found, version = load(state, lease_path(lease.key), Lease)
    if found != lease or version is None:
        return None
    try:
        save(state, lease_path(lease.key), lease, version=version)
    except Refused:
        log.info(f"  the lease on {lease.key} was renewed or taken in between")
        return None
    return load(state, lease_path(lease.key), Lease)[1]


def _delete(state: State, lease: Lease, version: str) -> None:
    try:
        state.delete(lease_path(lease.key), version)
    except Refused:
        log.info(f"  the lease on {lease.key} was renewed or taken in between")


def _note_lost(state: State, lost: Lease) -> None:
    what = f"the runner of {lost.holder} stopped answering: its lease ran out at {lost.expires_at:%H:%M} UTC"
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


# ── while the work goes on ─────────────────────────────────────────────────────────────────


@dataclass(kw_only=True)
class Held:
    """A lease that a thread keeps renewing."""

    lease: Lease
    clock: Clock
    lost: ReleaseBotError | None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Asked before anything is written. Raises Refused when the lease is, or may by now be, another's."""
        if self.lost:
            raise self.lost
        if self.clock() > self.lease.expires_at:
            raise Refused(
                f"the lease on release {self.lease.key} ran out: it could not be renewed",
                where=f"state: {lease_path(self.lease.key)}",
                fix="stop this run; the plan starts the release again where that is due",
            )


@contextmanager
def holding(
    state: State, work: Work, *, holder: str, ttl: timedelta = TTL, clock: Clock = utc_now
) -> Iterator[Held]:
    """Take the lease, renew it in the background, give it back at the end, whatever that is.

    Raises Refused when another holder has it.
    """
    held = Held(lease=take(state, work, holder=holder, now=clock(), ttl=ttl), clock=clock)
    thread = threading.Thread(target=_beat, args=(state, held, ttl), name="lease", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        held.stopped.set()
        thread.join()
        try:
            release(state, held.lease)
        except (Refused, InfrastructureError) as e:
            log.warning(f"the lease on {work.key} was not given back and will run out: {e.what}")


def _beat(state: State, held: Held, ttl: timedelta) -> None:
    """Renew until told to stop; a Hub or GitHub that is away for a moment is asked again at the next beat."""
    while not held.stopped.wait(ttl.total_seconds() / BEATS):
        try:
            held.lease = renew(state, held.lease, now=held.clock(), ttl=ttl)
        except InfrastructureError as e:
            log.warning(f"the lease on {held.lease.key} was not renewed: {e.what}")
        except ReleaseBotError as e:
            held.lost = e
            return
