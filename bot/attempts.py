"""How often a release was tried, and whether it may be tried again.

Only a passing fault of the infrastructure is retried: twice, later each time. Everything else would fail the
same way again, so it is quarantined at once and shown, until a person says `retry` or the base, the recipe or
the toolchain changes (each makes another key).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from bot import errors
from bot.errors import Refused
from bot.state import Attempt, Attempts, Decision, FailureClass, State, attempts_path, load, save

# Before the first retry, and before the second; there is no third.
BACKOFF: Final = (timedelta(minutes=15), timedelta(hours=2))
MAX_KEPT: Final = 50
MAX_RACES: Final = 8


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Whether a release may be tried now. `until` is when a waiting one may.

    `is_final`: one of the failures would come again, whatever passes.
    """

    state: Literal["clear", "waiting", "quarantined"]
    num_attempts: int
    last: Attempt | None = None
    until: datetime | None = None
    is_final: bool = False


def standing(attempts: Iterable[Attempt], decisions: Iterable[Decision], now: datetime) -> Standing:
    """What the attempts since the last `retry` say."""
    forgiven = max((each.at for each in decisions if each.kind == "retry"), default=None)
    counted = sorted(
        (each for each in attempts if forgiven is None or each.at > forgiven), key=lambda each: each.at
    )
    if not counted:
        return Standing(state="clear", num_attempts=0)
    last, num = counted[-1], len(counted)
    final = any(each.failure_class != "infrastructure" for each in counted)
    if final or num > len(BACKOFF):
        return Standing(state="quarantined", num_attempts=num, last=last, is_final=final)
    until = last.at + BACKOFF[num - 1]
    return Standing(state="waiting" if now < until else "clear", num_attempts=num, last=last, until=until)


def record(state: State, attempt: Attempt) -> Attempts:
    """Add `attempt` to its key's; one that stands there (the same run, stage and time) is not doubled.

    Raises Refused when others write the same document again and again.
    """
    path = attempts_path(attempt.key)
    for tries_left in reversed(range(MAX_RACES)):
        found, version = load(state, path, Attempts)
        before = found.attempts if found else []
        if any(_same(each, attempt) for each in before):
            return Attempts(key=attempt.key, attempts=before)
        after = Attempts(key=attempt.key, attempts=[*before, attempt][-MAX_KEPT:])
        try:
            save(state, path, after, version=version)
            return after
        except Refused:
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _same(one: Attempt, other: Attempt) -> bool:
    return (one.run_id, one.stage, one.at) == (other.run_id, other.stage, other.at)


def failure_class(error: BaseException) -> FailureClass:
    """The class that decides what an unattended run does with `error`."""
    classes: list[tuple[type[BaseException], FailureClass]] = [
        (errors.InfrastructureError, "infrastructure"),
        (errors.Interrupted, "infrastructure"),
        (KeyboardInterrupt, "infrastructure"),
        (errors.InputError, "input"),
        (errors.UsageError, "input"),
        (errors.AuditFailed, "audit"),
        (errors.GateFailed, "gate"),
        (errors.Stopped, "infrastructure"),
        (errors.Refused, "refused"),
        (errors.BackendError, "backend"),
        (OSError, "infrastructure"),
    ]
    return next((name for kind, name in classes if isinstance(error, kind)), "internal")


def class_of_exit_code(code: int) -> FailureClass:
    """The same for a process that left nothing but its status; killed by a signal (137, −9) may pass."""
    by_code: dict[int, FailureClass] = {
        2: "input", 3: "input", 4: "infrastructure", 5: "audit", 6: "gate", 7: "refused",
    }  # fmt: skip
    return "infrastructure" if code < 0 or code >= 128 else by_code.get(code, "internal")
