"""The files of a release's repo: which belong to it, their digests, and what may never be sent there.

Two commits make a release: the build (weights, side files, recipe, build evidence, SHA256SUMS) and
the card (README.md, evidence.json, plots). SHA256SUMS covers the first only, since the second is
what people review and may still change.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bot import log, naming
from bot.edges.hub import Hub, RepoState, digests_of, translated
from bot.errors import InputError, Refused, UsageError
from bot.models import FileDigest, Release

CARD_FILES = ("README.md", "evidence.json")
PLOTS = "plots/"
SUMS = "SHA256SUMS"
HUB_OWN_FILES = (".gitattributes",)


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file on this host, with the digests that the Hub may tell of it."""

    path: Path
    digest: FileDigest
    git_sha1: str

    @classmethod
    def read(cls, name: str, path: Path) -> LocalFile:
        """The file at `path`, to be called `name` in the repo. Raises InputError for a symbolic link."""
        if path.is_symlink():
            raise InputError(
                f"{name} is a symbolic link", where=str(path), fix="replace it by the file itself"
            )
        sha256, git_sha1 = digests_of(path)
        digest = FileDigest(path=name, size_bytes=path.stat().st_size, sha256=sha256)
        return cls(path=path, digest=digest, git_sha1=git_sha1)


def is_card_file(path: str) -> bool:
    """Whether `path` belongs to the card's commit."""
    return path in CARD_FILES or path.startswith(PLOTS)


def refuse_rehearsal(release: Release, hub: Hub) -> None:
    """A rehearsal, scaled down or made from stand-ins, never leaves for the real Hub.

    Raises Refused.
    """
    if hub.embedded or not (release.rehearsal or release.endpoint_kind == "embedded"):
        return
    reasons = [f"--set {key}={value}" for key, value in release.overrides.items()]
    reasons += [f"{dataset} is a stand-in or unpinned" for dataset in release.repinned]
    raise Refused(
        f"release {release.key} is a rehearsal and may only go to an embedded Hub",
        where=hub.endpoint,
        why="; ".join(reasons) or "its base came from an embedded Hub",
        fix="pin the recipe (`release-bot recipes pin`) and run it without --set",
    )


def read(hub: Hub, repo_id: str, path: str, revision: str) -> bytes:
    """A small file of a repo. Raises InputError, InfrastructureError."""
    with tempfile.TemporaryDirectory() as folder, translated(f"{repo_id}@{revision} {path}"):
        return Path(hub.api.hf_hub_download(repo_id, path, revision=revision, local_dir=folder)).read_bytes()


def refuse_other_base(hub: Hub, target: str, base: str) -> None:
    """Raises Refused when `target` holds a release of another base than `base`."""
    if other := other_base(hub, target, base):
        raise Refused(
            f"{target} holds the release of {other}, not of {base}",
            where=hub.url(target),
            why="two bases of one name: neither may replace the other's weights, or lend it its side files",
            fix="leave one of them out of what is watched, or release it by hand elsewhere",
        )


def other_base(hub: Hub, target: str, base: str) -> str | None:
    """The base that `target` holds a release of, where it is not `base`: then it is not this one's to fill.

    Targets are named after their base's own name, which two authors may have given. A base that was renamed
    is the same one still: the Hub leads from its old name to the new.
    """
    if not hub.exists(target):
        return None
    state = hub.state(target)
    if "evidence.json" not in state.files:
        return None
    try:
        content = json.loads(read(hub, target, "evidence.json", state.revision))
        found = naming.parse_base(content["release"]["base"]["repo_id"])[0]
    except (ValueError, KeyError, TypeError, UsageError) as e:
        raise Refused(
            f"the evidence on {target} does not say which base it is of",
            where=hub.url(target),
            fix="look at who wrote it, and mend or remove it",
        ) from e
    return None if found == base or _now(hub, found) == base else found


def _now(hub: Hub, repo_id: str) -> str | None:
    try:
        return hub.state(repo_id).repo_id
    except InputError:
        return None


def digests(folder: Path, extra: dict[str, Path]) -> dict[str, LocalFile]:
    """Every file of the checkpoint `folder` and of `extra` by its path in the repo, hashed with progress."""
    paths = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()} | extra
    total = sum(path.stat().st_size for path in paths.values())
    found, done = {}, 0
    with log.Progress("hashing", total=total, unit="bytes") as progress:
        for name, path in sorted(paths.items()):
            found[name] = LocalFile.read(name, path)
            done += found[name].digest.size_bytes
            progress.update(done, note=name)
    return found


def sums(files: Iterable[FileDigest]) -> str:
    """SHA256SUMS as `sha256sum -c` reads it; the card's files are never in it."""
    rows = [
        f"{each.sha256}  {each.path}\n" for each in files if not is_card_file(each.path) and each.path != SUMS
    ]
    return "".join(sorted(rows, key=lambda row: row.split("  ", 1)[1]))


def differences(state: RepoState, files: dict[str, LocalFile]) -> list[str]:
    """How the repo's files differ from `files`, the card's and the Hub's own apart."""
    remote = {p: f for p, f in state.files.items() if not is_card_file(p) and p not in HUB_OWN_FILES}
    found = [f"{path} is missing on the Hub" for path in sorted(files.keys() - remote.keys())]
    found += [f"{path} is on the Hub only" for path in sorted(remote.keys() - files.keys())]
    for path in sorted(files.keys() & remote.keys()):
        if not remote[path].is_same_as(files[path].digest, files[path].git_sha1):
            found.append(f"{path} has another digest on the Hub")
    return found
