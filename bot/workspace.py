"""The folder of one release, `work/<key>/`: job.json, quantized, checkpoint, evidence, card, logs."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bot import log
from bot.errors import InputError, Refused, UsageError
from bot.models import M, Release, read_json, write_json


class Workspace:
    """Paths of a release's folder, and its lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.job = root / "job.json"
        self.quantized = root / "quantized"
        self.checkpoint = root / "checkpoint"
        self.card = root / "card"
        self.logs = root / "logs"
        self.extra = root / "extra"

    def evidence(self, stage: str) -> Path:
        return self.root / "evidence" / f"{stage}.json"

    def read(self, stage: str, model: type[M]) -> M:
        """The evidence of `stage`; InputError when that stage has not run."""
        path = self.evidence(stage)
        if not path.is_file():
            raise InputError(
                f"stage {stage} has no evidence yet",
                where=str(self.root),
                fix=f"run it first: `release-bot run … --until {stage}`",
            )
        return read_json(path, model)

    def existing(self, stage: str, model: type[M]) -> M | None:
        """The evidence of `stage`; None when it has not run, or when another version of the bot wrote it."""
        if not self.evidence(stage).is_file():
            return None
        try:
            return read_json(self.evidence(stage), model)
        except InputError as e:
            log.warning(f"{e.what}: the stage runs again")
            return None

    def release(self) -> Release:
        if not self.job.is_file():
            raise InputError(
                "there is no such release here",
                where=str(self.root),
                fix="`release-bot run BASE --recipe NAME` makes one",
            )
        return read_json(self.job, Release)

    def claim(self, release: Release) -> None:
        """Write `job.json`, or find the same release there. Raises Refused when the folder is another's.

        What does not shape the artifact (the card's prose, how to serve) may differ and is taken over.
        """
        if self.job.exists() and (before := read_json(self.job, Release)) != release:
            moved = [f for f in ("target_repo", "endpoint_kind") if getattr(before, f) != getattr(release, f)]
            if moved:
                raise Refused(
                    f"the folder holds this release for another {' and '.join(moved)}: "
                    + ", ".join(str(getattr(before, field)) for field in moved),
                    where=str(self.job),
                    fix="use another --work folder, or remove this one",
                )
        elif self.job.exists():
            return
        self._refuse_file()
        write_json(self.job, release)

    def _refuse_file(self) -> None:
        """Raises UsageError when the work folder cannot be one."""
        for folder in (self.root, *self.root.parents):
            if folder.exists() and not folder.is_dir():
                raise UsageError(f"{folder} is a file, not a work folder", fix="name a folder with --work")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: two runs of one release would mix their files. Raises Refused when it is held."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise Refused(
                    "this release is being worked on by another process",
                    where=str(self.root),
                    fix="wait for it, or stop it",
                ) from e
            yield


def fingerprint(folder: Path) -> str:
    """sha256 over path, size and modification time of every file: whether a stage has to look again."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()
