"""What may stand beside each other: figures of one engine build on one machine.

Losses and divergences stay true for as long; speed does not, since a machine's clocks, heat and neighbours
change: it is measured anew after a day.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from bot.measurements import EngineFacts
from bot.models import Hardware

MAX_AGE: Final = timedelta(hours=24)
CLOCK_SKEW: Final = timedelta(minutes=5)

# Fields of EngineFacts that make another engine, and what a reader calls them.
DIFFERENCES: Final = {
    "package": "engines",
    "version": "engine versions",
    "device": "kinds of device",
    "environment": "kinds of engine environment",
    "environment_digest": "engine environments",
    "torch": "builds of torch",
    "transformers": "versions of transformers",
    "driver": "drivers",
    "compute_capability": "compute capabilities",
}


def comparable(a: EngineFacts, b: EngineFacts) -> str | None:
    """Why figures measured under `a` may not stand beside those under `b`; None when they may."""
    found = differences(a, b)
    return f"they come from {found[0]}" if found else None


def differences(a: EngineFacts, b: EngineFacts) -> list[str]:
    """Everything in which two engines, or the machines under them, differ, in a reader's words."""
    engines = [(what, getattr(a, field), getattr(b, field)) for field, what in DIFFERENCES.items()]
    machines = [
        (f"machines, whose {field} are", getattr(a.hardware, field), getattr(b.hardware, field))
        for field in Hardware.model_fields
    ]
    found = [(f"two {what}:", one, other) for what, one, other in engines if one != other]
    found += [(f"two {what}", one, other) for what, one, other in machines if one != other]
    return [f"{what} {_shown(one)} and {_shown(other)}" for what, one, other in found]


def _shown(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def fresh(started_at: str, now: datetime) -> bool:
    """Whether a speed taken at `started_at` (ISO 8601 with its zone) may be used at `now`: for a day.

    That machine, driver and environment are the same is the caller's to know (`comparable`, or the key that
    the figures are kept under). A time in the future is a clock that was wrong, and not fresh.
    """
    try:
        at = datetime.fromisoformat(started_at)
    except ValueError:
        return False
    if at.tzinfo is None:
        return False
    age = now - at.astimezone(UTC)
    return -CLOCK_SKEW <= age <= MAX_AGE
