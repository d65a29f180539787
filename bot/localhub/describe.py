"""Repos, files and discussions in the JSON shapes that `huggingface_hub`'s dataclasses parse.

Field names and nesting follow `hf_api.py` (ModelInfo, DatasetInfo, RepoFile, RepoFolder, GitCommitInfo) and
`community.py`. Figures that an embedded Hub cannot have, such as downloads and likes, are zero.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from functools import lru_cache
from math import prod
from typing import Any

from bot.localhub import cards
from bot.localhub.hub import Hub
from bot.localhub.objects import Entry
from bot.localhub.repos import Repo
from bot.localhub.store import MAIN, Commit, Store

MAX_CARD_BYTES = 4 << 20
MAX_HEADER_BYTES = 100_000_000
LIST_FIELDS = (
    "id",
    "_id",
    "likes",
    "private",
    "downloads",
    "tags",
    "pipeline_tag",
    "library_name",
    "createdAt",
    "trendingScore",
    "gated",
)
FULL_FIELDS = (*LIST_FIELDS, "author", "sha", "lastModified", "disabled", "siblings", "cardData")
INFO_FIELDS = (*FULL_FIELDS, "config", "safetensors", "usedStorage", "spaces", "model-index")


def author(name: str) -> dict[str, Any]:
    return {"name": name, "fullname": name, "type": "user", "avatarUrl": "", "isPro": False, "isHf": False}


def card_text(store: Store, files: dict[str, Entry]) -> str:
    """README.md as text, empty when there is none worth reading."""
    entry = files.get("README.md")
    if entry is None or entry.size > MAX_CARD_BYTES:
        return ""
    return store.blobs.read(entry.sha256).decode("utf-8", "replace")


class Description:
    """Everything there is to say about one repo at one commit, each field computed when it is asked for."""

    def __init__(self, hub: Hub, repo: Repo, commit: Commit | None, *, blobs: bool = False):
        self.hub = hub
        self.repo = repo
        self.commit = commit
        self.blobs = blobs
        self.files = hub.store.files(commit.tree_oid) if commit else {}
        self.card = cards.metadata(card_text(hub.store, self.files))

    @property
    def tags(self) -> list[str]:
        return [*cards.tags(self.card, list(self.files)), "region:us"]

    def fields(self, names: tuple[str, ...] | list[str]) -> dict[str, Any]:
        """These fields, and the id always."""
        out = {"_id": self.repo.id, "id": self.repo.full_name}
        if self.repo.type == "model":
            out["modelId"] = self.repo.full_name
        for name in names:
            value = self.field(name)
            if value is not None:
                out[name] = value
        return out

    def field(self, name: str) -> Any:
        repo = self.repo
        match name:
            case "_id":
                return repo.id
            case "id":
                return repo.full_name
            case "author":
                return repo.namespace
            case "private":
                return repo.private
            case "gated":
                return repo.gated or False
            case "disabled":
                return False
            case "sha":
                return self.commit.oid if self.commit else None
            case "lastModified":
                return repo.modified_at
            case "createdAt":
                return repo.created_at
            case "downloads" | "downloadsAllTime" | "likes" | "trendingScore" | "childrenModelCount":
                return 0
            case "tags":
                return self.tags
            case "pipeline_tag" | "library_name" | "model-index":
                return self.card.get(name) if repo.type == "model" else None
            case "cardData":
                return self.card or None
            case "siblings":
                return [self._sibling(entry) for entry in self.files.values()]
            case "usedStorage":
                sizes = {entry.sha256: entry.size for entry in self.files.values()}
                sizes |= {row["sha256"]: row["size"] for row in self.hub.store.lfs_objects(repo)}
                return sum(sizes.values())
            case "config":
                return self._config() if repo.type == "model" else None
            case "safetensors":
                return self._safetensors() if repo.type == "model" else None
            case "baseModels":
                relation, models = cards.base_models(self.card)
                return {"relation": relation, "models": [{"id": name} for name in models]} if models else None
            case "spaces":
                return [] if repo.type == "model" else None
            case "sdk":
                return repo.sdk or None
            case "description":
                return "" if repo.type == "dataset" else None
            case "mainSize":
                return sum(entry.size for entry in self.files.values())
        return None

    def _sibling(self, entry: Entry) -> dict[str, Any]:
        out: dict[str, Any] = {"rfilename": entry.path}
        if self.blobs:
            out |= {"size": entry.size, "blobId": entry.oid}
            if entry.lfs:
                out["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
        return out

    def _config(self) -> dict[str, Any] | None:
        entry = self.files.get("config.json")
        if entry is None or entry.size > MAX_CARD_BYTES:
            return None
        try:
            config = json.loads(self.hub.store.blobs.read(entry.sha256))
        except (ValueError, RecursionError):
            return None
        if not isinstance(config, dict):
            return None
        return {k: config[k] for k in ("architectures", "model_type", "quantization_config") if k in config}

    def _safetensors(self) -> dict[str, Any] | None:
        counts: Counter[str] = Counter()
        for entry in self.files.values():
            if entry.path.endswith(".safetensors"):
                counts.update(dict(_parameters(self.hub.store, entry.sha256, entry.size)))
        return {"parameters": dict(counts), "total": sum(counts.values())} if counts else None


@lru_cache(maxsize=4096)
def _parameters(store: Store, sha256: str, size: int) -> tuple[tuple[str, int], ...]:
    """Parameters by dtype, from a file's header; nothing when it is not a readable one."""
    try:
        with open(store.blobs.path(sha256), "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER_BYTES, size):
                return ()
            header = json.loads(file.read(length))
        counts: Counter[str] = Counter()
        for name, tensor in header.items():
            if name != "__metadata__":
                counts[str(tensor["dtype"])] += prod(int(n) for n in tensor["shape"])
        return tuple(counts.items())
    except (OSError, struct.error, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ()


def repo_url(base_url: str, repo: Repo) -> str:
    return base_url + repo.web_path


def discussion_url(base_url: str, repo: Repo, num: int) -> str:
    return f"{repo_url(base_url, repo)}/discussions/{num}"


def commit_url(base_url: str, repo: Repo, oid: str) -> str:
    return f"{repo_url(base_url, repo)}/commit/{oid}"


def head_commit(hub: Hub, repo: Repo) -> Commit | None:
    refs = hub.store.refs(repo)
    return hub.store.commit(repo, refs[MAIN]) if MAIN in refs else None


def tree_file(entry: Entry, last: Commit | None = None, *, expand: bool = False) -> dict[str, Any]:
    """A file as RepoFile reads it."""
    out: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size, "path": entry.path}
    if entry.lfs:
        out["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    if expand:
        out["lastCommit"] = last_commit(last)
        scan = {"status": "unscanned", "avScan": None, "pickleImportScan": None}
        out["securityFileStatus"] = scan
    return out


def tree_folder(path: str, oid: str, last: Commit | None = None, *, expand: bool = False) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    if expand:
        out["lastCommit"] = last_commit(last)
    return out


def last_commit(commit: Commit | None) -> dict[str, Any] | None:
    return {"id": commit.oid, "title": commit.title, "date": commit.created_at} if commit else None


def commit_json(commit: Commit, *, formatted: bool = False) -> dict[str, Any]:
    out: dict[str, Any] = {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author, "avatar": ""}],
        "date": commit.created_at,
    }
    if formatted:
        paragraphs = cards.render(commit.message)
        out["formatted"] = {"title": cards.render(commit.title), "message": paragraphs}
    return out
