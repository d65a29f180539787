"""Reconcile the watched authors with the Hub: what is new, what changed, and what no release is made of.

One listing an author tells every base's commit; only a base whose commit moved is looked at, with one
request (two where it is gated), and classed by its blobs (`bot.changes`). Nothing depends on having run
before: each tick compares what is there with what was last seen, so a month's absence is one larger
difference, and a webhook only makes a tick come sooner.

What may happen to a base, and what becomes of it:

- renamed: found again by the Hub's own id; its steps go with it, so nothing is released anew;
- deleted, made private, moved to another author: asked for once by name, then kept as gone, until it is back;
- gated: passed over until the token's account is let in;
- changed a moment ago: left alone until `settle_minutes` have passed, so that an upload can finish;
- forced back, squashed: only blobs count; without a manifest the change is unknown, taken for new weights;
- a stale listing: the base's own answer counts; one that lost most of an author's models is held until it
  stays so, or a person confirms it (`bot.watching.shrunk`).

A failure of one author or one base is told and leaves the others alone; the next tick tries again. That
watching ran is noted (`bot.watching.ticked`), so that one that stopped is seen.
"""

from __future__ import annotations

from datetime import datetime

from bot.config import Watch
from bot.edges.hub import Hub
from bot.errors import ReleaseBotError
from bot.state import State, paused
from bot.watching import ticked
from bot.watching.found import Change, Skipped, Watched
from bot.watching.tick import Tick
from bot.workflow_run import run_url

__all__ = ["Change", "Skipped", "Watched", "watch"]


def watch(settings: Watch, hub: Hub, state: State, *, now: datetime, dry_run: bool = False) -> Watched:
    """Every configured author reconciled; what was seen is recorded, unless `dry_run` or the kill switch."""
    ticks = []
    came_through = recorded = False
    for author in dict.fromkeys(settings.authors):
        recorded = not dry_run and paused(state) is None
        ticks.append(tick := Tick(author, settings, hub, state, now, recorded))
        try:
            tick.run()
            came_through = True
        except ReleaseBotError as e:
            tick.bases.clear()
            tick.fail(tick.author, e)
    if recorded and came_through:
        ticked.note(state, now, run_url())
    return Watched(
        changes=[each for tick in ticks for each in tick.changes],
        skipped=[each for tick in ticks for each in tick.skipped],
        failed=[each for tick in ticks for each in tick.failed],
        num_listed=sum(tick.num_listed for tick in ticks),
        num_calls=sum(tick.num_calls for tick in ticks),
        recorded=recorded,  # as of the last author: it was on, or nothing was set in between
        bases=[each for tick in ticks for each in tick.bases],
    )
