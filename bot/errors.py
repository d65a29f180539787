"""Every error the bot raises on purpose, and the exit code of each.

An error answers four questions: *what* went wrong (the value and its limit), *where*
(file and line, tensor, repo), *why* that happens, and what to do *next*. `cli.main` is the
only place that prints one and exits; a traceback appears only with `--debug`. The class
also decides what an unattended run does: only `InfrastructureError` is retried.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

FailureKind = Literal["did_not_load", "unsupported", "weights_missing", "garbage", "dies"]


class ReleaseBotError(Exception):
    """Base of all deliberate errors; on its own it means a defect of the bot (exit 1)."""

    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "internal error"

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix
        self.problems: list[Any] = []

    def as_json(self) -> dict[str, Any]:
        """The error as `--json` prints it; `problems` names each single one where there are several."""
        return {
            "title": self.title,
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
            "problems": self.problems,
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  {label}: {text}" for label, text in self._details() if text]
        return "\n".join(lines)

    def _details(self) -> list[tuple[str, str]]:
        return [("where", self.where), ("why", self.why), ("next", self.fix)]


class BackendError(ReleaseBotError):
    """A quantizer stopped, or did something it must not do (a failed calibration forward, a NaN loss)."""

    title = "the quantizer failed"


class UsageError(ReleaseBotError):
    """The command line or the configuration cannot be acted on."""

    exit_code = 2
    title = "usage"


class RecipeError(UsageError):
    """A recipe that cannot be read, or that asks for what cannot be."""

    title = "recipe"


class InputError(ReleaseBotError):
    """A checkpoint, repo or data set that is missing, unreadable, truncated or hostile."""

    exit_code = 3
    title = "unreadable input"


class InfrastructureError(ReleaseBotError):
    """Network, disk, memory, port: the same work may succeed later. The only class that is retried."""

    exit_code = 4
    title = "infrastructure"


class AuditFailed(ReleaseBotError):
    """The checkpoint is readable, and wrong."""

    exit_code = 5
    title = "audit failed"


class GateFailed(ReleaseBotError):
    """The evidence is complete, and below a recipe's threshold."""

    exit_code = 6
    title = "gate failed"


class NotServable(GateFailed):
    """The engine is well, and does not serve this checkpoint; `kind` is one of `measurements.Failure`'s."""

    title = "the checkpoint does not serve"

    def __init__(
        self, kind: FailureKind, what: str, *, log_tail: list[str], where: str = "", fix: str = ""
    ) -> None:
        super().__init__(what, where=where, fix=fix)
        self.kind = kind
        self.log_tail = log_tail


class EngineError(InfrastructureError):
    """The engine hung, died, found no port or no memory; `kind` says which. The same work may succeed."""

    title = "the engine failed"

    def __init__(
        self,
        kind: Literal["out_of_memory", "port", "died", "hung", "refused_request"],
        what: str,
        *,
        where: str = "",
        why: str = "",
        fix: str = "",
    ) -> None:
        super().__init__(what, where=where, why=why, fix=fix)
        self.kind = kind


class Refused(ReleaseBotError):
    """Something moved or forbids it: a changed digest, a moved base, a rehearsal sent to the real Hub."""

    exit_code = 7
    title = "refused"


class Stopped(Refused):
    """The kill switch is on: nothing is wrong with the work, which may go on once that is taken back."""

    title = "paused"


class NoPublisher(Refused):
    """The Hub knows no Trusted Publisher for this job and repo: a person must set it, once a repo."""

    title = "waiting for the publisher"


class Interrupted(ReleaseBotError):
    """Stopped by the user; what was done is kept and the next run goes on from there."""

    exit_code = 130
    title = "interrupted"
