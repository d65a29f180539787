"""That watching runs at all: when it last did is noted, and whoever looks is told when that is too long ago.

GitHub stops the schedule of a public repository after sixty days without a commit, and tells nobody; a person
may have disabled the workflow; or every tick fails, as with a token that ran out. A tick that finds nothing
writes nothing else, so the note is written over only when it is `NOTED_EVERY` old: a few commits a day on the
state branch, and a "since" that is as exact as that. The dashboard is brought up to date by watching itself,
and by what people do there: of a schedule that stopped it can tell only in the latter case, `release-bot
status` any time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from bot import log
from bot.errors import ReleaseBotError
from bot.state import TICKED, State, Ticked, load, save

NOTED_EVERY: Final = timedelta(hours=3)
LATE: Final = timedelta(hours=12)
WHAT_TO_DO: Final = (
    "GitHub stops a schedule after sixty days without a commit, or it was disabled. Enable and start it: "
    "`gh workflow enable watch.yml`, `gh workflow run watch.yml`; by hand `release-bot plan`"
)


def note(state: State, now: datetime, run_url: str) -> None:
    """Write down that watching ran. That it cannot be written hides nothing of what watching found."""
    try:
        found, version = load(state, TICKED, Ticked)
        if found is None or now - found.at >= NOTED_EVERY:
            save(state, TICKED, Ticked(at=now, run_url=run_url), version=version)
    except ReleaseBotError as e:
        log.warning(f"that watching ran is not noted: {e.what}")


def overdue(state: State, now: datetime) -> str | None:
    """One line for people where watching did not run for longer than `LATE`, or never did; else None.

    Raises InputError for a note that does not hold.
    """
    found, _ = load(state, TICKED, Ticked)
    if found is None:
        return f"watch has not run yet. {WHAT_TO_DO}"
    if now - found.at <= LATE:
        return None
    return f"watch has not run since {found.at:%Y-%m-%d %H:%M} UTC. {WHAT_TO_DO}"
