"""The bot's state in a folder: for one machine, a rehearsal, a test. Writers exclude each other by a lock."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot.errors import InputError
from bot.models import write_atomically
from bot.state import Document, check_path, lost_race


class FolderState:
    """Documents as files under `root`; a document's version is the sha256 of its text."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> Document | None:
        file = self.root / check_path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as e:
            raise InputError(f"{path} is not text", where=str(file), fix="mend it") from e
        return Document(text=text, version=_version(text))

    def write(self, path: str, text: str, *, version: str | None) -> None:
        with self._locked():
            self._require(path, version)
            write_atomically(self.root / path, text.encode())

    def list(self, prefix: str) -> list[str]:
        files = (each for each in self.root.rglob("*.json") if not each.name.startswith("."))
        paths = (each.relative_to(self.root).as_posix() for each in files)
        return sorted(each for each in paths if each.startswith(prefix))

    def delete(self, path: str, version: str) -> None:
        with self._locked():
            self._require(path, version)
            (self.root / path).unlink()

    def _require(self, path: str, version: str | None) -> None:
        found = self.read(path)
        if (found.version if found else None) != version:
            raise lost_race(path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _version(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
