"""What the bot remembers between runs: small JSON documents on a state branch, or in a folder.

What is released is told by the Hub and by GitHub; kept here is only what neither of them tells: failed
attempts, people's decisions, what was seen of each base, who works on what. Every document is read with a
version and written against it (compare-and-swap), so that of two runs one wins and the other is told.

Paths: `attempts/<key>.json`, `decisions/<key>.json`, `leases/<key>.json`, `queued/<run>.json`,
`unchanged/<key>.json`, `seen/<owner>--<name>.json`, `watched/<author>.json`, `ticked.json`, and `PAUSED`,
whose existence stops all writing. It alone is no document of ours: a person may make it on GitHub's pages,
empty or with a word why in it.

`watched/` holds what a tick needs of every base of one author, so that a tick that finds nothing reads one
document; `seen/` holds a base's blobs, read only when that base moved.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Protocol, TypeVar

from pydantic import AwareDatetime, Field, ValidationError

from bot import naming
from bot.errors import InputError, Refused, Stopped, UsageError
from bot.models import SCHEMA_VERSION, CommitSha, Model

PAUSED: Final = "PAUSED"
TICKED: Final = "ticked.json"
FailureClass = Literal["infrastructure", "input", "audit", "gate", "refused", "backend", "internal"]
Key = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{naming.KEY_LENGTH}}}$")]
Text = Annotated[str, Field(max_length=2000)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
_PATH = re.compile(r"[A-Za-z0-9][\w.-]{0,200}(/[A-Za-z0-9][\w.-]{0,200}){0,3}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document's text, and what it must still be at when it is written again."""

    text: str
    version: str


class State(Protocol):
    """Documents by path: `FolderState` keeps them in a folder, `BranchState` on a branch."""

    def read(self, path: str) -> Document | None:
        """The document; None when there is none."""
        ...

    def write(self, path: str, text: str, *, version: str | None) -> None:
        """Write over exactly `version`; None: it must not exist. Raises Refused when somebody was faster."""
        ...

    def list(self, prefix: str) -> list[str]:
        """The paths that begin with `prefix`, sorted."""
        ...

    def delete(self, path: str, version: str) -> None:
        """Delete exactly `version`. Raises Refused when somebody was faster."""
        ...


# ── documents ──────────────────────────────────────────────────────────────────────────────


class Attempt(Model):
    """A try at a release that failed: in which stage, of which class, and where its log is."""

    key: Key
    base: Word
    revision: CommitSha
    recipe: Word
    stage: Word
    failure_class: FailureClass
    what: Text
    at: AwareDatetime
    run_url: str
    run_id: str


class Attempts(Model):
    """`attempts/<key>.json`, oldest first."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: Key
    attempts: list[Attempt]


class Decision(Model):
    """What a person decided about a release; `gates` names those that an override is for."""

    key: Key
    kind: Literal["skip", "retry", "approve", "refuse", "override"]
    who: Word
    why: Text
    at: AwareDatetime
    gates: list[Word]


class Decisions(Model):
    """`decisions/<key>.json`, oldest first; the newest of a kind counts."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: Key
    decisions: list[Decision]


class Lease(Model):
    """`leases/<key>.json`: who works on a release, and until when nobody else may.

    It says what of, so that whoever finds it run out can note which release lost its runner.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    key: Key
    base: Word
    revision: CommitSha
    recipe: Word
    holder: Word
    run_url: str
    taken_at: AwareDatetime
    expires_at: AwareDatetime


class Unchanged(Model):
    """`unchanged/<key>.json`: a metadata release that found nothing to change.

    The base's new side files are those that release `predecessor` published. A later `retry` takes it back.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    key: Key
    base: Word
    revision: CommitSha
    recipe: Word
    predecessor: Key
    at: AwareDatetime
    run_url: str


class Queued(Model):
    """`queued/<run>.json`: the keys in a run's matrix, so that the next tick does not queue them too."""

    schema_version: Literal[1] = SCHEMA_VERSION
    run_id: Word
    keys: list[Key]
    at: AwareDatetime
    expires_at: AwareDatetime


class Step(Model):
    """A commit of a base that a release can be of: new weights, or other side files over the same weights.

    `repo_id` is the base's name at that time: keys are made of names, and a rename makes nothing anew.
    """

    repo_id: Word
    revision: CommitSha
    kind: Literal["weights", "side_files"]


class Seen(Model):
    """`seen/<owner>--<name>.json`: the blobs of a base as last looked at, and its steps since its weights.

    This is the truth that `watched/` copies from: both stand in one document, so that a run that dies between
    two writes neither loses a change nor tells it twice.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    repo_id: Word
    hub_id: str
    revision: CommitSha
    files: dict[str, str]
    steps: list[Step]
    seen_at: AwareDatetime
    renamed_from: str | None


class Tracked(Model):
    """One base in `watched/<author>.json`: what planning needs of it; None is what the Hub does not tell."""

    repo_id: Word
    hub_id: str
    revision: CommitSha
    modified_at: AwareDatetime | None
    model_type: str | None
    architectures: list[str]
    num_parameters: int | None
    steps: list[Step]
    gone: str | None


class Shrunk(Model):
    """A listing that lacked most of an author's bases, and how often it was seen so: `bot.watching.shrunk`.

    `missing` are the names that it lacked at first. `confirmed_by`: the person who said that it is true.
    """

    missing: Annotated[list[Word], Field(min_length=1)]
    num_known: int
    since: AwareDatetime
    seen_at: AwareDatetime
    num_seen: Annotated[int, Field(ge=1)]
    confirmed_by: Word | None


class Roster(Model):
    """`watched/<author>.json`: every base of one author that releases may be made of.

    `shrunk` while the author's listing lacks most of them.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    author: Word
    bases: list[Tracked]
    shrunk: Shrunk | None = None


class Ticked(Model):
    """`ticked.json`: when watching last ran, told every few hours: a schedule that stops tells nobody."""

    schema_version: Literal[1] = SCHEMA_VERSION
    at: AwareDatetime
    run_url: str


class Paused(Model):
    """The kill switch as `release-bot pause` writes it: nothing is planned, built or published."""

    schema_version: Literal[1] = SCHEMA_VERSION
    who: Word
    why: Text
    at: AwareDatetime


# ── paths ──────────────────────────────────────────────────────────────────────────────────


def attempts_path(key: str) -> str:
    return f"attempts/{naming.parse_key(key)}.json"


def decisions_path(key: str) -> str:
    return f"decisions/{naming.parse_key(key)}.json"


def lease_path(key: str) -> str:
    return f"leases/{naming.parse_key(key)}.json"


def unchanged_path(key: str) -> str:
    return f"unchanged/{naming.parse_key(key)}.json"


def queued_path(run_id: str) -> str:
    return check_path(f"queued/{run_id}.json")


def seen_path(repo_id: str) -> str:
    """No name on the Hub has two hyphens in a row, so no two bases share a path."""
    naming.parse_base(repo_id)
    return check_path(f"seen/{repo_id.replace('/', '--')}.json")


def watched_path(author: str) -> str:
    return check_path(f"watched/{author}.json")


def check_path(path: str) -> str:
    """The same path; UsageError for one that could leave the state's folder."""
    if not _PATH.fullmatch(path) or ".." in path:
        raise UsageError(f"{path!r} is no path of a state document", fix="bot/state.py lists those there are")
    return path


# ── reading and writing ────────────────────────────────────────────────────────────────────

D = TypeVar("D", bound=Model)


def load(state: State, path: str, model: type[D]) -> tuple[D | None, str | None]:
    """The document at `path` and its version; two Nones when there is none.

    Raises InputError for one that does not hold: it was edited by hand, or by another version of the bot.
    """
    found = state.read(path)
    if found is None:
        return None, None
    try:
        return model.model_validate_json(found.text), found.version
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} is not a valid {model.__name__}: {field}: {first['msg']}",
            where=f"state: {path}",
            why="it was edited by hand, or written by another version of the bot",
            fix="mend or delete it on the state branch",
        ) from e


def save(state: State, path: str, document: Model, *, version: str | None) -> None:
    """Write `document` over `version`. Raises Refused when somebody was faster."""
    state.write(path, document.model_dump_json(indent=1) + "\n", version=version)


def paused(state: State) -> Paused | None:
    """The kill switch, if it is on: whatever the file holds, or cannot be read as; its text is the why."""
    try:
        found = state.read(PAUSED)
    except InputError as e:
        return Paused(who="somebody", why=e.what[:500], at=datetime.now(UTC))
    if found is None:
        return None
    try:
        return Paused.model_validate_json(found.text)
    except ValidationError:
        why = " ".join(found.text.split())[:500] or "no reason was given"
        return Paused(who="somebody", why=why, at=datetime.now(UTC))


def resume(state: State) -> bool:
    """Take the kill switch back; whether it was on. Raises Refused when somebody changes it meanwhile."""
    found = state.read(PAUSED)
    if found is not None:
        state.delete(PAUSED, found.version)
    return found is not None


def refuse_paused(state: State) -> None:
    """Raises Stopped while the kill switch is on; asked before anything is written anywhere.

    What a run took it still gives back, and how it failed it still tells: leases, queues, attempts.
    """
    if found := paused(state):
        raise Stopped(
            f"paused by {found.who}: {found.why}",
            where=f"state: {PAUSED}",
            fix="`release-bot resume`, or delete that file, to go on",
        )


def lost_race(path: str) -> Refused:
    """What a state raises when a document is no longer at the version that it is written over."""
    return Refused(
        f"{path} was changed by somebody else in between",
        where=f"state: {path}",
        fix="nothing was written; run it again, and it starts from what is there now",
    )
