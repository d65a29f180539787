"""What a host keeps so as not to do it again: our files by sha256, the Hub client's own cache, measurements.

All count under one cap. The client's cache (bases, data sets) is looked through with `scan_cache_dir` and
shrunk by revision, as `hf cache` does; nothing in it is touched that the client does not list. Measurements
go by checkpoint, with the logs beside them: what a base's divergence is reckoned from is the large part.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from bot import cache, log
from bot.cache import Cache, Entry
from bot.edges.hub import Hub, translated
from bot.errors import InputError
from bot.models import SCHEMA_VERSION, Model


class Removed(Model):
    what: str
    size_bytes: int


class Pruned(Model):
    """`release-bot cache prune --json`. `over_bytes`: what is still above the cap, being in use."""

    schema_version: Literal[1] = SCHEMA_VERSION
    max_bytes: int
    before_bytes: int
    after_bytes: int
    over_bytes: int
    removed: list[Removed]


class Brought(Model):
    """Where a checkpoint's bytes came from."""

    num_files: int
    num_from_cache: int
    cached_bytes: int
    downloaded_bytes: int


def prune(
    own: Cache,
    hub_cache: Path | None,
    *,
    measured: Path | None = None,
    most_bytes: int,
    dry_run: bool = False,
) -> Pruned:
    """Shrink all to the cap, oldest use first. `hub_cache`, `measured`: None where there is none."""
    ours = {each.name: each for each in own.entries()}
    info = _scan(hub_cache)
    theirs = {each.name: each for each in _revisions(info)}
    folders = {f"measured/{path.name}": path for path in _folders(measured)}
    entries = [*ours.values(), *theirs.values(), *(_folder_entry(*each) for each in folders.items())]
    chosen = cache.removals(entries, most_bytes=most_bytes, now=time.time())
    if not dry_run:
        for each in chosen:
            if each.name in ours:
                own.remove(each.name)
            if each.name in folders:
                shutil.rmtree(folders[each.name])
        revisions = [each.name.partition("@")[2] for each in chosen if each.name in theirs]
        if info is not None and revisions:
            info.delete_revisions(*revisions).execute()
    before = sum(each.size_bytes for each in entries)
    after = before - sum(each.size_bytes for each in chosen)
    return Pruned(
        max_bytes=most_bytes,
        before_bytes=before,
        after_bytes=after,
        over_bytes=max(0, after - most_bytes),
        removed=[Removed(what=each.name, size_bytes=each.size_bytes) for each in chosen],
    )


def _folders(root: Path | None) -> list[Path]:
    """What was measured, a folder a checkpoint; `texts`, which all of them share, is one too."""
    if root is None or not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())


def _folder_entry(name: str, folder: Path) -> Entry:
    size, used = 0, 0.0
    for path in folder.rglob("*"):
        with suppress(OSError):  # a measurement that runs beside this
            found = path.lstat()
            if path.is_file():
                size, used = size + found.st_size, max(used, found.st_atime, found.st_mtime)
    return Entry(name=name, size_bytes=size, used_at=used)


def _scan(folder: Path | None) -> Any:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    if folder is None:
        return None
    try:
        info = scan_cache_dir(folder)
    except CacheNotFound:
        return None
    for warning in info.warnings:
        log.warning(f"left alone in the Hub client's cache: {warning}")
    return info


def _revisions(info: Any) -> list[Entry]:
    """Each cached revision; a file that two share is counted with the first of them."""
    found: list[Entry] = []
    seen: set[Path] = set()
    for repo in sorted(info.repos, key=lambda each: str(each.repo_id)) if info is not None else ():
        for revision in sorted(repo.revisions, key=lambda each: str(each.commit_hash)):
            files = {each.blob_path: each for each in revision.files if each.blob_path not in seen}
            seen |= files.keys()
            used = max((each.blob_last_accessed for each in revision.files), default=revision.last_modified)
            name = f"{repo.repo_type}s/{repo.repo_id}@{revision.commit_hash}"
            size = sum(each.size_on_disk for each in files.values())
            found.append(Entry(name=name, size_bytes=size, used_at=used))
    return found


def bring(hub: Hub, repo_id: str, revision: str, folder: Path, own: Cache) -> Brought:
    """Put every file of the repo at `revision` into `folder`, from the cache where it has it.

    Every file is held to the digest that the Hub tells, wherever it came from; a large file that had to be
    downloaded is kept for the next job. Raises InputError for one that does not hold.
    """
    from huggingface_hub import hf_hub_download

    state = hub.state(repo_id, revision)
    num_cached = cached = downloaded = 0
    for file in state.files.values():
        to = folder / file.path
        if file.sha256 and own.take(file.sha256, to):
            num_cached, cached = num_cached + 1, cached + file.size_bytes
            continue
        with translated(f"{repo_id}@{revision} {file.path}"):
            hf_hub_download(
                repo_id,
                file.path,
                revision=state.revision,
                local_dir=folder,
                endpoint=hub.endpoint,
                token=hub.api.token,
            )
        _require(to, file.sha256, f"{repo_id}@{state.revision} {file.path}")
        downloaded += file.size_bytes
        if file.sha256:
            own.put(to, file.sha256)
    log.info(
        f"{repo_id}: {num_cached} of {len(state.files)} files from this host's cache "
        f"({cached / 2**30:.2f} GiB), {downloaded / 2**30:.2f} GiB downloaded"
    )
    return Brought(
        num_files=len(state.files),
        num_from_cache=num_cached,
        cached_bytes=cached,
        downloaded_bytes=downloaded,
    )


def keep(folder: Path, digests: dict[str, str], own: Cache) -> None:
    """Keep files that were just uploaded: path in `folder` to sha256, as the Hub read them back."""
    for path, sha256 in digests.items():
        own.put(folder / path, sha256)


def _require(path: Path, sha256: str | None, where: str) -> None:
    if sha256 and (found := cache.sha256_of(path)) != sha256:
        raise InputError(
            f"a downloaded file is not what the Hub says: {found[:12]}, not {sha256[:12]}",
            where=where,
            fix="run the same command again; if it stays, look at the repo's files",
        )
