"""A listing that lacks most of an author's bases: held at first, believed once it stays or a person says so.

The Hub's listings come from an index that may be stale or cut short for a while, and a token that lost its
rights sees less. So one such listing changes nothing: the author's tick ends there, and what it lacked is
noted in `watched/<author>.json`. It is believed

- when it was seen so at least `SIGHTINGS` times, `WAIT` or more after the first, at every tick in between:
  what it lacked at first must be missing each time (an author who goes on deleting adds to that), and one
  tick at which a base of those is back begins anew; or
- when a person confirms it: a box on the dashboard, or `release-bot watch --confirm AUTHOR`.

Even then nothing is deleted on a listing's word. Each base that is missing is asked for by its name, some a
tick, and only what the Hub itself no longer has is kept as *gone*, with its steps, until it is back.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from bot.edges.listing import Listing
from bot.errors import Refused
from bot.state import Roster, Shrunk, State, Tracked, load, save, watched_path

SIGHTINGS: Final = 3
WAIT: Final = timedelta(hours=6)
# How many bases must be missing from a listing, and which share of them, before it is held.
MANY_MISSING: Final = 5
MISSING_SHARE: Final = 0.5
MAX_RACES: Final = 8


def noted(before: Shrunk | None, known: dict[str, Tracked], found: Listing, now: datetime) -> Shrunk | None:
    """What to remember of this listing: None for one that lacks no more than is usual."""
    ids = {each.hub_id for each in found.models.values()}
    missing = [e for e in known.values() if e.repo_id not in found.models and e.hub_id not in ids]
    there = [each for each in known.values() if each.gone is None]
    lost = sum(each.gone is None for each in missing)
    if lost < MANY_MISSING or lost <= MISSING_SHARE * len(there):
        return None
    names = sorted(each.repo_id for each in missing)
    if before is None or not set(before.missing) <= set(names):
        return Shrunk(
            missing=names, num_known=len(known), since=now, seen_at=now, num_seen=1, confirmed_by=None
        )
    return before.model_copy(update={"seen_at": now, "num_seen": before.num_seen + 1})


def is_believed(found: Shrunk) -> bool:
    """Whether it stayed so for long enough, or a person said that it is true."""
    lasted = found.num_seen >= SIGHTINGS and found.seen_at - found.since >= WAIT
    return lasted or found.confirmed_by is not None


def told(author: str, found: Shrunk) -> str:
    """One line for people: what is missing, and what is waited for."""
    lacks = f"the listing of {author} shrank: {len(found.missing)} of {found.num_known} bases are missing"
    since = f"since {found.since:%Y-%m-%d %H:%M} UTC, seen {found.num_seen}×"
    if is_believed(found):
        return f"{lacks} {since}: believed, and each is asked for by its name"
    wait = f"believed when seen {SIGHTINGS}× over {WAIT / timedelta(hours=1):.0f} hours"
    return f"{lacks} {since}: waiting for confirmation ({wait})"


def confirm(state: State, author: str, *, who: str) -> bool:
    """A person says that the author's listing is true; False when that was said, or nothing is held.

    Raises Refused when others write the roster again and again.
    """
    path = watched_path(author)
    for races_left in reversed(range(MAX_RACES)):
        roster, version = load(state, path, Roster)
        if roster is None or roster.shrunk is None or is_believed(roster.shrunk):
            return False
        sure = roster.shrunk.model_copy(update={"confirmed_by": who})
        try:
            save(state, path, roster.model_copy(update={"shrunk": sure}), version=version)
            return True
        except Refused:
            if not races_left:
                raise
    raise AssertionError("unreachable")
