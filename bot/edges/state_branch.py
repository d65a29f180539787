"""The state on a branch of the repository: every write is a commit that GitHub makes or refuses as a whole.

Compare-and-swap is GitHub's: a file is written through the contents API against the git id of the file that
it replaces, and the branch moves from the very commit that was looked at, else the answer is 409 or 422. Two
runs that write *different* documents at once meet the same answer, because the branch is one; therefore a
conflict is looked into, and tried again unless the document itself is another one now. A write whose answer
was lost is found by reading: documents name who wrote them and when.

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
from typing import Final

from bot.edges.github import GitHub
from bot.errors import InfrastructureError, InputError, Refused
from bot.state import Document, State, check_path, lost_race

BRANCH: Final = "release-bot-state"
ATTEMPTS = 6
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
        check_path(path)
        for attempt in range(ATTEMPTS):
            try:
                self._github.put(
                    path, text.encode(), branch=self.branch, message=f"Write {path}", replaces=version
                )
                return
            except InfrastructureError:
                if self._is(path, text):  # the answer was lost, not the write
                    return
                raise
            except (Refused, InputError) as e:
                self._require_unchanged(path, version, e, is_last=attempt + 1 == ATTEMPTS)
                time.sleep(self._pause_s * (attempt + random.random()))
        raise lost_race(path)

    def delete(self, path: str, version: str) -> None:
        """Delete exactly `version`. Raises Refused when somebody was faster."""
        check_path(path)
        for attempt in range(ATTEMPTS):
            try:
                self._github.remove(path, branch=self.branch, message=f"Delete {path}", replaces=version)
                return
            except (Refused, InputError) as e:
                self._require_unchanged(path, version, e, is_last=attempt + 1 == ATTEMPTS)
                time.sleep(self._pause_s * (attempt + random.random()))
        raise lost_race(path)

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

    def _is(self, path: str, text: str) -> bool:
        found = self.read(path)
        return found is not None and found.text == text

    def _require_unchanged(self, path: str, version: str | None, error: Exception, *, is_last: bool) -> None:
        """Make the branch where it is missing. Raises Refused when the document is another one by now."""
        if self._github.head(self.branch) is None:
            self._create()
        found = self.read(path)
        if (found.version if found else None) != version:
            raise lost_race(path) from error
        if is_last:
            raise error

    def _create(self) -> None:
        try:
            files: dict[str, bytes | None] = {"README.md": _README}
            self._github.commit(self.branch, files, message="Begin the state", parent=None, on=None)
        except Refused:
            pass  # somebody else began it


class Snapshot:
    """A state read once as a whole; what is written goes to the branch at once, and is seen here too."""

    def __init__(self, state: State, documents: dict[str, str]) -> None:
        self._state, self._documents = state, documents

    def read(self, path: str) -> Document | None:
        text = self._documents.get(check_path(path))
        return None if text is None else Document(text=text, version=blob_id(text.encode()))

    def write(self, path: str, text: str, *, version: str | None) -> None:
        """Write over exactly `version`. Raises Refused when somebody was faster."""
        self._state.write(path, text, version=version)
        self._documents[path] = text

    def list(self, prefix: str) -> list[str]:
        return sorted(each for each in self._documents if _is_document(each, prefix))

    def delete(self, path: str, version: str) -> None:
        """Delete exactly `version`. Raises Refused when somebody was faster."""
        self._state.delete(path, version)
        self._documents.pop(path, None)


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
