"""Checkpoints between jobs of one host: from the cache where it holds, from the Hub where it does not."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from contract.conftest import Hub
from huggingface_hub import CommitOperationAdd, snapshot_download

from bot.cache import KEEP_S, Cache
from bot.edges import hubcache
from bot.edges.hub import Hub as Edge

pytestmark = pytest.mark.contract
WEIGHTS = b"weights" * 1000


@pytest.fixture
def uploaded(embedded: Hub) -> tuple[Edge, str, str]:
    """A private repo whose pull request holds weights and a config."""
    name = embedded.name()
    embedded.api.create_repo(name, private=True)
    content = [CommitOperationAdd("model.safetensors", WEIGHTS), CommitOperationAdd("config.json", b"{}")]
    embedded.api.create_commit(name, content, commit_message="weights", create_pr=True)
    return Edge(embedded=True, endpoint=embedded.endpoint, token=embedded.token), name, "refs/pr/1"


def test_the_second_job_downloads_no_weights(uploaded: tuple[Edge, str, str], tmp_path: Path) -> None:
    edge, name, revision = uploaded
    own = Cache(tmp_path / "cache")
    first = hubcache.bring(edge, name, revision, tmp_path / "one", own)
    assert (first.num_from_cache, first.cached_bytes) == (0, 0)
    assert first.downloaded_bytes >= len(WEIGHTS)
    second = hubcache.bring(edge, name, revision, tmp_path / "two", own)
    assert (second.num_from_cache, second.cached_bytes) == (1, len(WEIGHTS))
    for folder in ("one", "two"):
        assert (tmp_path / folder / "model.safetensors").read_bytes() == WEIGHTS
        assert (tmp_path / folder / "config.json").read_bytes() == b"{}"


def test_what_the_building_job_kept_is_there_for_the_next(
    uploaded: tuple[Edge, str, str], tmp_path: Path
) -> None:
    edge, name, revision = uploaded
    own, built = Cache(tmp_path / "cache"), tmp_path / "built"
    built.mkdir()
    (built / "model.safetensors").write_bytes(WEIGHTS)
    hubcache.keep(built, {"model.safetensors": hashlib.sha256(WEIGHTS).hexdigest()}, own)
    assert hubcache.bring(edge, name, revision, tmp_path / "next", own).num_from_cache == 1


def test_a_spoilt_cache_costs_a_download_and_nothing_else(
    uploaded: tuple[Edge, str, str], tmp_path: Path
) -> None:
    edge, name, revision = uploaded
    own = Cache(tmp_path / "cache")
    hubcache.bring(edge, name, revision, tmp_path / "one", own)
    own.path(hashlib.sha256(WEIGHTS).hexdigest()).write_bytes(b"spoilt")
    third = hubcache.bring(edge, name, revision, tmp_path / "three", own)
    assert third.num_from_cache == 0
    assert (tmp_path / "three" / "model.safetensors").read_bytes() == WEIGHTS


def test_one_cap_holds_for_both_caches(
    embedded: Hub, uploaded: tuple[Edge, str, str], tmp_path: Path
) -> None:
    """The file used longest ago goes first, be it ours or the Hub client's."""
    edge, name, revision = uploaded
    own, hub_cache = Cache(tmp_path / "cache"), tmp_path / "hub"
    hubcache.bring(edge, name, revision, tmp_path / "one", own)
    snapshot_download(
        name, revision=revision, cache_dir=hub_cache, endpoint=embedded.endpoint, token=embedded.token
    )
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    aged(own.path(digest), 2 * KEEP_S)
    for blob in hub_cache.glob("*/blobs/*"):
        aged(blob, 3 * KEEP_S)
    whole = hubcache.prune(own, hub_cache, most_bytes=10**9)
    assert whole.removed == []
    assert whole.before_bytes >= 2 * len(WEIGHTS)
    tried = hubcache.prune(own, hub_cache, most_bytes=len(WEIGHTS), dry_run=True)
    assert list(hub_cache.glob("*/snapshots/*")), "a dry run removes nothing"
    done = hubcache.prune(own, hub_cache, most_bytes=len(WEIGHTS))
    assert done == tried
    assert [each.what.partition("@")[0] for each in done.removed] == [f"models/{name}"]
    assert list(hub_cache.glob("*/blobs/*")) == []
    assert own.path(digest).exists()
    last = hubcache.prune(own, hub_cache, most_bytes=0)
    assert [each.what for each in last.removed] == [digest]
    assert not own.path(digest).exists()


def test_what_is_in_use_is_said_to_be_over_the_cap(uploaded: tuple[Edge, str, str], tmp_path: Path) -> None:
    edge, name, revision = uploaded
    own = Cache(tmp_path / "cache")
    hubcache.bring(edge, name, revision, tmp_path / "one", own)
    found = hubcache.prune(own, None, most_bytes=0)
    assert (found.removed, found.over_bytes) == ([], len(WEIGHTS))


def test_measurements_go_by_checkpoint_the_oldest_first(tmp_path: Path) -> None:
    measured = tmp_path / "measured"
    for name, age in (("old", 3 * KEEP_S), ("new", 2 * KEEP_S), ("used", 0.0)):
        (measured / name / "logs").mkdir(parents=True)
        for file in ("part.json", "logs/engine.log"):
            (measured / name / file).write_bytes(bytes(500))
            aged(measured / name / file, age)
    own = Cache(tmp_path / "cache")
    found = hubcache.prune(own, None, measured=measured, most_bytes=2000)
    assert [each.what for each in found.removed] == ["measured/old"]
    assert sorted(path.name for path in measured.iterdir()) == ["new", "used"]
    found = hubcache.prune(own, None, measured=measured, most_bytes=0)
    assert ([each.what for each in found.removed], found.over_bytes) == (["measured/new"], 1000)
    assert (measured / "used" / "part.json").exists()


def aged(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))
