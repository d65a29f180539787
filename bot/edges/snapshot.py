"""A repo's files in the Hub client's cache, each held to the digest that the Hub tells before it is read.

The client trusts what lies in its cache by its name alone. On a runner that is what an earlier job's
third-party code may have written: a blob of other bytes under the right name, a snapshot that leads to
another blob, or a file more in it (a chat template, an index). So before a job uses a base or a data set:

- the Hub is asked which files the commit has, and their digests: sha256 for LFS files, git's id for the rest;
- whatever else lies in the snapshot goes, and so does the client's own note of what the commit has;
- every blob is hashed, in blocks; one that differs is dropped and comes again, from this host's cache by
  sha256 (which is hashed too) or from the Hub;
- what was downloaded is hashed as well: the client compares sizes only.

A blob is hashed once a process. After that its inode, size and times of change are compared: no program
without the machine's clock can write a file and keep its `ctime`. That holds for what only this user may
write; other users' files get here as copies (`bot.cache`). Nothing is believed from one process to the next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import cache, log
from bot.cache import Cache
from bot.checkpoint.files import check_path
from bot.errors import InfrastructureError

if TYPE_CHECKING:
    from bot.edges.hub import Hub, RemoteFile, RepoType

Stamp = tuple[int, int, int, int, int]
Read = Callable[[int], None]
_verified: dict[tuple[str, str], Stamp] = {}


@dataclass(frozen=True, kw_only=True)
class Brought:
    """Where a snapshot's bytes came from. `dropped`: the files that were not what the Hub says."""

    folder: Path
    num_files: int
    num_reused: int
    reused_bytes: int
    downloaded_bytes: int
    dropped: tuple[str, ...]


def bring(
    hub: Hub,
    repo_id: str,
    revision: str,
    *,
    repo_type: RepoType = "model",
    allow: list[str] | None = None,
    ignore: list[str] | None = None,
    shared: Cache | None = None,
) -> Brought:
    """The repo's files that match, verified; said is how much was here and how much was downloaded.

    `shared` is this host's cache by sha256: large files come from it, and go into it. Raises InputError for a
    repo that cannot be read, InfrastructureError when the Hub fails or serves other bytes than it says.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils._paths import filter_repo_objects

    from bot.edges.hub import translated

    state = hub.state(repo_id, revision, repo_type=repo_type)
    names = set(filter_repo_objects(state.files, allow_patterns=allow, ignore_patterns=ignore))
    files = {check_path(path): file for path, file in state.files.items() if path in names}
    root = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type)
    place = _Place(root=root, revision=state.revision)
    place.tidy(state.files)
    reused, dropped = _reusable(place, files, shared)
    with translated(f"{repo_id}@{revision}"):
        folder = snapshot_download(
            repo_id,
            repo_type=repo_type,
            revision=state.revision,
            endpoint=hub.endpoint,
            token=hub.api.token,
            allow_patterns=allow,
            ignore_patterns=ignore,
        )
    for file in files.values():
        _require(place, file, f"{repo_id}@{state.revision[:12]} {file.path}")
    _share(place, files, shared)
    found = Brought(
        folder=Path(folder),
        num_files=len(files),
        num_reused=len(reused),
        reused_bytes=sum(files[path].size_bytes for path in reused),
        downloaded_bytes=sum(each.size_bytes for each in files.values() if each.path not in reused),
        dropped=tuple(dropped),
    )
    _tell(found, repo_id)
    return found


def matches(path: Path, *, sha256: str | None, blob_id: str, read: Read = lambda num_bytes: None) -> bool:
    """Whether a plain file has the digest that the Hub tells: its sha256, or git's id where it tells none."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return False
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        key = (str(path), sha256 or blob_id)
        if _verified.get(key) == stamp:
            read(found.st_size)
            return True
        held = cache.sha256_of(path, read) == sha256 if sha256 else cache.git_sha1_of(path, read) == blob_id
    except OSError:
        return False
    if held:
        _verified[key] = stamp
    return held


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One repo in the client's cache: `blobs/DIGEST`, and `snapshots/COMMIT/PATH` as links to them."""

    root: Path
    revision: str

    @property
    def snapshot(self) -> Path:
        return self.root / "snapshots" / self.revision

    def blob(self, file: RemoteFile) -> Path:
        return self.root / "blobs" / (file.sha256 or file.blob_id)

    def leads_to_blob(self, file: RemoteFile) -> bool:
        """Whether the snapshot has this file as a link to the blob that it should be."""
        pointer = self.snapshot / file.path
        return pointer.is_symlink() and Path(os.path.realpath(pointer)) == self.blob(file).resolve()

    def tidy(self, files: dict[str, RemoteFile]) -> None:
        """Remove from the snapshot all that is no link to the right blob of one of the commit's files."""
        (self.root / "trees" / f"{self.revision}.json").unlink(missing_ok=True)
        for folder in (self.root, self.root / "blobs", self.root / "snapshots", self.snapshot):
            if folder.is_symlink():
                folder.unlink()
        for at, folders, names in os.walk(self.snapshot):
            links = [each for each in folders if (Path(at) / each).is_symlink()]
            for path in (Path(at) / each for each in [*names, *links]):
                file = files.get(path.relative_to(self.snapshot).as_posix())
                if file is None or not self.leads_to_blob(file):
                    path.unlink()


def _reusable(
    place: _Place, files: dict[str, RemoteFile], shared: Cache | None
) -> tuple[set[str], list[str]]:
    """The files whose blob is here and holds, by path; and those that were dropped because it did not."""
    here = {path: file for path, file in files.items() if os.path.lexists(place.blob(file))}
    dropped = _drop_wrong(place, here)
    reused = here.keys() - set(dropped)
    for path, file in files.items():
        if path not in reused and shared and file.sha256 and shared.take(file.sha256, place.blob(file)):
            reused |= {path}
    return set(reused), dropped


def _drop_wrong(place: _Place, files: dict[str, RemoteFile]) -> list[str]:
    dropped, done = [], 0
    total = sum(place.blob(file).lstat().st_size for file in files.values())
    with log.Progress("verifying", total=total, unit="bytes") as progress:
        for path, file in files.items():

            def read(num_bytes: int, path: str = path) -> None:
                nonlocal done
                done += num_bytes
                progress.update(min(done, total), note=path)

            if not matches(place.blob(file), sha256=file.sha256, blob_id=file.blob_id, read=read):
                log.warning(f"{path} in this host's cache is not what the Hub says: it comes again")
                place.blob(file).unlink()
                dropped.append(path)
    return dropped


def _require(place: _Place, file: RemoteFile, where: str) -> None:
    """Raises InfrastructureError unless the snapshot leads to a blob that holds; a wrong one is removed."""
    found = Path(os.path.realpath(place.snapshot / file.path))
    if found.is_relative_to(place.root.resolve() / "blobs") and matches(
        found, sha256=file.sha256, blob_id=file.blob_id
    ):
        return
    (place.snapshot / file.path).unlink(missing_ok=True)
    if found.is_relative_to(place.root.resolve() / "blobs"):
        found.unlink(missing_ok=True)
    raise InfrastructureError(
        "a downloaded file is not what the Hub says",
        where=where,
        why="it was cut off, changed on its way, or another program writes to this cache",
        fix="run the same command again; if it stays, look at the repo's files",
    )


def _share(place: _Place, files: dict[str, RemoteFile], shared: Cache | None) -> None:
    """Large files are there for the host's other jobs too. That they cannot be hides nothing."""
    for file in files.values() if shared else ():
        try:
            if file.sha256 and shared:
                shared.put(place.blob(file), file.sha256)
        except OSError as e:
            log.warning(f"{file.path} was not kept for this host's other jobs: {e.strerror or e}")


def _tell(found: Brought, repo_id: str) -> None:
    again = f", {len(found.dropped)} dropped as wrong" if found.dropped else ""
    log.info(
        f"  {repo_id}: {found.num_reused} of {found.num_files} files were on this host "
        f"({_gib(found.reused_bytes)}, verified), {_gib(found.downloaded_bytes)} downloaded{again}"
    )


def _gib(num_bytes: Any) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
