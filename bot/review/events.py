"""GitHub's events as far as the bot reads them: the file that GITHUB_EVENT_PATH names.

Fields that are not read are let through, since GitHub adds some every month. What is read is data: names and
texts of whoever caused the event.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from bot.dashboard import Edit
from bot.errors import InputError, UsageError
from bot.review.commanding import Said

MAX_EVENT_BYTES = 25 * 2**20


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Account(Part):
    login: str
    type: str = "User"


class CommentBody(Part):
    body: str
    user: Account
    created_at: AwareDatetime


class Change(Part):
    from_: str = ""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=lambda name: name.rstrip("_"))


class Changes(Part):
    body: Change | None = None


class IssueBody(Part):
    number: int
    body: str | None = None
    updated_at: AwareDatetime
    pull_request: dict[str, object] | None = None


class IssueComment(Part):
    """`issue_comment`: somebody wrote under an issue or a pull request."""

    action: Literal["created", "edited", "deleted"]
    comment: CommentBody
    issue: IssueBody

    def said(self) -> Said | None:
        """The comment; None where it is not new, or not under a pull request."""
        if self.action != "created" or self.issue.pull_request is None:
            return None
        return Said(
            number=self.issue.number,
            who=self.comment.user.login,
            text=self.comment.body,
            at=self.comment.created_at,
            by_bot=self.comment.user.type == "Bot",
        )


class IssueEdited(Part):
    """`issues` with the action `edited`: who changed the text, and from what."""

    action: str
    issue: IssueBody
    changes: Changes = Changes()
    sender: Account

    def edit(self) -> Edit | None:
        """The edit of the text; None for another event."""
        if self.action != "edited" or self.changes.body is None:
            return None
        return Edit(
            number=self.issue.number,
            who=self.sender.login,
            before=self.changes.body.from_,
            after=self.issue.body or "",
            at=self.issue.updated_at,
        )


class PullBody(Part):
    number: int
    closed_at: AwareDatetime | None = None


class PullClosed(Part):
    """`pull_request` or `pull_request_target` with the action `closed`."""

    action: str
    pull_request: PullBody
    sender: Account


class RunBody(Part):
    head_sha: str
    head_branch: str | None


class RunCompleted(Part):
    """`workflow_run`: the check ended."""

    workflow_run: RunBody


class Push(Part):
    """`push`: the branch went from one commit to another."""

    before: str
    after: str


P = TypeVar("P", bound=Part)


def read(path: Path | None, model: type[P]) -> P:
    """The event in `path`, or in GITHUB_EVENT_PATH. Raises UsageError without one, InputError for another."""
    file = path or Path(os.environ.get("GITHUB_EVENT_PATH") or "-")
    if not file.is_file():
        raise UsageError("there is no event", fix="name its file with --event, or run in a workflow")
    try:
        if file.stat().st_size > MAX_EVENT_BYTES:
            raise InputError("the event is too large", where=str(file))
        return model.model_validate_json(file.read_bytes())
    except ValidationError as e:
        first = e.errors()[0]
        raise InputError(
            f"the event is no {model.__name__}: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=str(file),
            fix="this command is for another event",
        ) from e
