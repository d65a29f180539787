"""What GitHub tells of pull requests, comments, issues and files, as plain values.

Taken from the answers that listings give: nothing here asks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from github.IssueComment import IssueComment
    from github.PullRequest import PullRequest as RawPull


@dataclass(frozen=True, kw_only=True)
class Pull:
    """A pull request as a listing tells it.

    `same_repo`: its branch lies in this repository, in no fork. `closed_at` is None while it is open.
    """

    number: int
    title: str
    body: str
    state: Literal["open", "merged", "closed"]
    author: str
    branch: str
    head_sha: str
    merge_sha: str | None
    base: str
    same_repo: bool
    labels: tuple[str, ...]
    url: str
    closed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Comment:
    """A comment; `by_bot` where GitHub says that no person wrote it."""

    id: int
    author: str
    body: str
    by_bot: bool


@dataclass(frozen=True, kw_only=True)
class Issue:
    number: int
    title: str
    body: str
    url: str


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """A file of a commit's tree; `mode` tells a symbolic link (120000) from a file."""

    path: str
    sha: str
    size_bytes: int
    mode: str


def pull_of(raw: RawPull) -> Pull:
    head_repo = raw.head.repo
    return Pull(
        number=raw.number,
        title=raw.title or "",
        body=raw.body or "",
        state="merged" if raw.merged_at else "open" if raw.state == "open" else "closed",
        author=raw.user.login,
        branch=raw.head.ref,
        head_sha=raw.head.sha,
        merge_sha=raw.merge_commit_sha if raw.merged_at else None,
        base=raw.base.ref,
        same_repo=head_repo is not None and head_repo.full_name == raw.base.repo.full_name,
        labels=tuple(each.name for each in raw.labels),
        url=raw.html_url,
        closed_at=_with_zone(raw.closed_at),
    )


def _with_zone(at: datetime | None) -> datetime | None:
    """GitHub's times are UTC, which its clients do not always say."""
    return at.replace(tzinfo=UTC) if at and at.tzinfo is None else at


def issue_of(raw: Any) -> Issue:
    return Issue(number=raw.number, title=raw.title or "", body=raw.body or "", url=raw.html_url)


def comment_of(raw: IssueComment) -> Comment:
    return Comment(id=raw.id, author=raw.user.login, body=raw.body or "", by_bot=raw.user.type == "Bot")
