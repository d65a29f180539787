"""What a delivery of a Hub webhook means for the bot: a base may have changed, or nothing that concerns it.

The relay only makes `watch` run sooner: watch reconciles against the Hub whatever a delivery says, so a lost
delivery costs an hour and a doubled or replayed one nothing but a workflow run. Even those are kept few: a
commit is passed on once, and there is a limit an hour. All of a delivery is text from outside. What leaves
here is a repo id and a commit, each of a fixed form, and no other word of it.

Only a push to `refs/heads/main` of a model counts. Pull requests also fire `repo.content`, with
`refs/pr/N`; tags with `refs/tags/…`; both change nothing that is watched.
"""

from __future__ import annotations

import hmac
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bot.errors import InputError
from bot.models import CommitSha

EVENT_TYPE: Final = "hub-update"  # `on: repository_dispatch: types:` of watch.yml
MAIN: Final = "refs/heads/main"
MAX_BODY_BYTES: Final = 256 * 1024  # a payload is some 2 kB; a long discussion comment some 64 kB
MAX_REFS: Final = 1000
REMEMBERED: Final = 4096
DISPATCHES_AN_HOUR: Final = 60
HOUR_S: Final = 3600.0

_RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
_Word = Annotated[str, Field(max_length=200)]


class _Part(BaseModel):
    """A part of a payload; the Hub may add fields, which are dropped unread."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Event(_Part):
    action: _Word
    scope: _Word


class _Repo(_Part):
    type: _Word
    name: _Word


class _Ref(_Part):
    ref: _Word
    newSha: _Word | None = None


class Payload(_Part):
    """A delivery, version 3: the fields that are read (`huggingface_hub._webhooks_payload` has them all)."""

    event: _Event
    repo: _Repo
    updatedRefs: Annotated[list[_Ref], Field(max_length=MAX_REFS)] | None = None


class Push(BaseModel):
    """A model's main branch is at another commit: all that is passed on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repo_id: _RepoId
    revision: CommitSha


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """Nothing to do, and why."""

    why: str


def is_secret(given: str | None, secret: str) -> bool:
    """Whether the delivery's secret is ours, compared in constant time."""
    return hmac.compare_digest((given or "").encode(), secret.encode()) and bool(secret)


def judge(body: bytes, authors: frozenset[str]) -> Push | Ignored:
    """The push that `body` tells of, if it is to a model of `authors`. Raises InputError for no payload."""
    try:
        payload = Payload.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        raise InputError(f"not a Hub webhook's payload: {field[:80]}: {first['type']}") from None
    if payload.event.scope != "repo.content" or payload.event.action != "update":
        return Ignored(why="not a change of content")
    if payload.repo.type != "model":
        return Ignored(why="not a model")
    if payload.repo.name.partition("/")[0].lower() not in {each.lower() for each in authors}:
        return Ignored(why="not of a watched author")
    pushed = [each.newSha for each in payload.updatedRefs or [] if each.ref == MAIN and each.newSha]
    if not pushed:
        return Ignored(why=f"{MAIN} did not move")
    try:
        return Push(repo_id=payload.repo.name, revision=pushed[-1])
    except ValidationError:
        raise InputError("not a Hub webhook's payload: the repo or commit is none") from None


class Memory:
    """Which pushes were passed on, and how many in the last hour; of this process only.

    A restart forgets: what is then passed on twice starts `watch` twice, which finds nothing the second time.
    """

    def __init__(self, clock: Callable[[], float], *, an_hour: int = DISPATCHES_AN_HOUR) -> None:
        self._clock = clock
        self._an_hour = an_hour
        self._lock = threading.Lock()
        self._known: OrderedDict[Push, None] = OrderedDict()
        self._times: deque[float] = deque()

    def claim(self, push: Push) -> Ignored | None:
        """None when this caller is the one to pass `push` on; it says `forget` if that fails."""
        now = self._clock()
        with self._lock:
            while self._times and self._times[0] <= now - HOUR_S:
                self._times.popleft()
            if push in self._known:
                return Ignored(why="passed on already")
            if len(self._times) >= self._an_hour:
                return Ignored(why=f"{self._an_hour} were passed on in an hour; the schedule will see it")
            self._times.append(now)
            self._known[push] = None
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return None

    def forget(self, push: Push) -> None:
        """Passing it on failed: the next delivery of it may try again."""
        with self._lock:
            self._known.pop(push, None)
