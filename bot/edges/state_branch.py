"""The state on a branch of the repository: every write is a commit that GitHub makes or refuses as a whole.

Compare-and-swap is GitHub's: a file is written through the contents API against the git id of the file that
it replaces, and the branch moves from the very commit that was looked at, else the answer is 409 or 422. Two
runs that write *different* documents at once meet the same answer, because the branch is one; therefore a
conflict is looked into, and tried again unless the document itself is another one now. A write whose answer
was lost, or that GitHub failed over, is looked into likewise: documents name who wrote them and when. Refused
is therefore said only where somebody else changed the document; a branch that is never free is a fault of the
infrastructure.

Refs are not used for leases: a ref can be created by one only, but has no expiry and cannot be taken over
by comparing.

The branch has no common history with the code, so that it can be read, cleaned or thrown away alone.
"""

from __future__ import annotations

import hashlib
import io
import random
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from bot.edges.github import GitHub
from bot.errors import InfrastructureError, InputError, Refused
from bot.state import PAUSED, Document, State, check_path, lost_race

BRANCH: Final = "release-bot-state"
ATTEMPTS = 10
FAULTS = 3  # of GitHub's, within one write; what asks has waited for rate limits by then
MAX_DOUBLINGS = 5
MAX_SNAPSHOT_BYTES = 256 * 2**20
_README = b"What release-bot remembers between runs. Written by the bot: see bot/state.py.\n"


class BranchState:
    """Documents on one branch; each read asks GitHub, so that what it tells is what is there now."""

    def __init__(self, github: GitHub, *, branch: str = BRANCH, pause_s: float = 0.5) -> None:
        self._github, self.branch, self._pause_s = github, branch, pause_s

    def read(self, path: str) -> Document | None:
        """The document; None when there is none."""
        found = self._github.read(check_path(path), self.branch)
        return Document(text=_text(found[0], path), version=found[1]) if found else None

    def write(self, path: str, text: str, *, version: str | None) -> None:
        """Write over exactly `version`; None: it must not exist. Raises Refused when somebody was faster."""
        data = text.encode()

        def put() -> None:
            self._github.put(path, data, branch=self.branch, message=f"Write {path}", replaces=version)

        self._change(path, put, version=version, wanted=text)

    def delete(self, path: str, version: str) -> None:
        """Delete exactly `version`. Raises Refused when somebody was faster."""

        def remove() -> None:
            self._github.remove(path, branch=self.branch, message=f"Delete {path}", replaces=version)

        self._change(path, remove, version=version, wanted=None)

    def _change(
        self, path: str, call: Callable[[], None], *, version: str | None, wanted: str | None
    ) -> None:
        """`call` until the document is `wanted`, for as long as it is still at `version`.

        Raises Refused when somebody was faster, InfrastructureError when the branch is never free.
        """
        check_path(path)
        num_faults = num_denied = 0
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except (InfrastructureError, Refused, InputError) as e:
                num_faults += isinstance(e, InfrastructureError)
                num_denied += isinstance(e, InputError)
                if self._github.head(self.branch) is None:
                    self._create()
                found = self.read(path)
                if num_faults and (found.text if found else None) == wanted:
                    return None  # the answer was lost, not the change
                if (found.version if found else None) != version:
                    raise lost_race(path) from e
                if num_faults == FAULTS or num_denied == 2:  # a branch that was missing is denied once
                    raise
                last = e
            time.sleep(self._pause_s * 2 ** min(attempt, MAX_DOUBLINGS) * random.uniform(0.5, 1))
        raise InfrastructureError(
            f"{path} could not be written: others wrote to the state's branch {ATTEMPTS} times in between",
            where=f"state: {path}",
            why=last.what,
            fix="run the same command again",
        ) from last

    def list(self, prefix: str) -> list[str]:
        """The paths that begin with `prefix`, sorted; one request, however many there are."""
        head = self._github.head(self.branch)
        if head is None:
            return []
        return sorted(each for each in self._github.tree(head) if _is_document(each, prefix))

    def snapshot(self) -> Snapshot:
        """Every document as of now, in two requests: for planning and showing, which read thousands."""
        head = self._github.head(self.branch)
        return Snapshot(self, _unpacked(self._github.archive(head)) if head else {})

    def _create(self) -> None:
        try:
            files: dict[str, bytes | None] = {"README.md": _README}
            self._github.commit(self.branch, files, message="Begin the state", parent=None, on=None)
        except Refused:
            pass  # somebody else began it


class Snapshot:
    """A state read once as a whole; what is written goes to the branch at once, and is seen here too.

    The kill switch is asked for anew each time: it may have been set since.
    """

    def __init__(self, state: State, documents: dict[str, str]) -> None:
        self._state, self._documents = state, documents

    def read(self, path: str) -> Document | None:
        if path == PAUSED:
            return self._state.read(path)
        text = self._documents.get(check_path(path))
        return None if text is None else Document(text=text, version=blob_id(text.encode()))

    def write(self, path: str, text: str, *, version: str | None) -> None:
        """Write over exactly `version`. Raises Refused when somebody was faster."""
        with self._fresh_after_a_race(path):
            self._state.write(path, text, version=version)
        self._documents[path] = text

    def list(self, prefix: str) -> list[str]:
        return sorted(each for each in self._documents if _is_document(each, prefix))

    def delete(self, path: str, version: str) -> None:
        """Delete exactly `version`. Raises Refused when somebody was faster."""
        with self._fresh_after_a_race(path):
            self._state.delete(path, version)
        self._documents.pop(path, None)

    @contextmanager
    def _fresh_after_a_race(self, path: str) -> Iterator[None]:
        """Whoever lost a race reads again, and must then see who won it."""
        try:
            yield
        except Refused:
            found = self._state.read(path)
            if found is None:
                self._documents.pop(path, None)
            else:
                self._documents[path] = found.text
            raise


def blob_id(data: bytes) -> str:
    """The id that git gives to a file's bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _is_document(path: str, prefix: str) -> bool:
    return path.endswith(".json") and path.startswith(prefix)


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not text", where=f"state: {path}", fix="mend it on the branch") from e


def _unpacked(data: bytes) -> dict[str, str]:
    """The documents of an archive; nothing is written to disk. Raises InputError for one too large."""
    documents: dict[str, str] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
            for member in archive:
                path = member.name.partition("/")[2]
                total += member.size
                if total > MAX_SNAPSHOT_BYTES:
                    raise InputError(f"the state holds more than {MAX_SNAPSHOT_BYTES:,} bytes", where=path)
                file = archive.extractfile(member) if member.isreg() and _is_document(path, "") else None
                if file is not None:
                    documents[path] = _text(file.read(), path)
    except (tarfile.TarError, EOFError, OSError) as e:
        raise InfrastructureError(
            f"the state's archive did not arrive whole: {e}", fix="run the same command again"
        ) from e
    return documents
