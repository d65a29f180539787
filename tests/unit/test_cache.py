"""The host's cache: nothing wrong ever comes out of it, and a prune keeps what is in use."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import cache
from bot.cache import GIB, KEEP_S, Cache, Entry, removals
from bot.errors import UsageError


def written(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def own(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_what_was_kept_comes_back_without_a_copy(tmp_path: Path, own: Cache):
    source = tmp_path / "work" / "model.safetensors"
    digest = written(source, b"weights")
    own.put(source, digest)
    own.put(source, digest)
    to = tmp_path / "next" / "deep" / "model.safetensors"
    assert own.take(digest, to)
    assert to.read_bytes() == b"weights"
    assert to.samefile(source), "one file system: no second copy"
    assert [each.name for each in own.entries()] == [digest]


def test_a_file_that_changed_is_dropped_and_not_given(tmp_path: Path, own: Cache):
    source = tmp_path / "model.safetensors"
    digest = written(source, b"weights")
    own.put(source, digest)
    source.write_bytes(b"weightz")  # in place: the cache's name is the same file
    to = tmp_path / "out"
    assert not own.take(digest, to)
    assert not to.exists()
    assert list(own.entries()) == []
    assert not own.take(digest, to)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_what_another_user_could_still_write_is_copied(tmp_path: Path, own: Cache):
    """Hashed through a link, it could be altered afterwards through the cache's name."""
    digest = written(tmp_path / "model.safetensors", b"weights")
    (tmp_path / "model.safetensors").chmod(0o664)
    own.put(tmp_path / "model.safetensors", digest)
    assert own.path(digest).stat().st_mode & 0o777 == cache.SEALED, "nobody else may write what lies there"
    own.path(digest).chmod(0o664)
    assert own.take(digest, tmp_path / "out")
    assert not (tmp_path / "out").samefile(own.path(digest))
    own.path(digest).write_bytes(b"altered")
    assert (tmp_path / "out").read_bytes() == b"weights"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's file: not tried here")
def test_another_user_s_file_is_copied(tmp_path: Path, own: Cache):
    digest = written(tmp_path / "model.safetensors", b"weights")
    own.put(tmp_path / "model.safetensors", digest)
    os.chown(own.path(digest), 12345, 12345)
    assert own.take(digest, tmp_path / "out")
    assert not (tmp_path / "out").samefile(own.path(digest))
    assert (tmp_path / "out").stat().st_uid == os.geteuid()


def test_git_s_id_is_that_of_git(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"what is up, doc?")
    assert cache.git_sha1_of(tmp_path / "file") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # Pro Git, 10.2


def test_a_wrong_entry_replaces_nothing(tmp_path: Path, own: Cache):
    digest = written(tmp_path / "good", b"good")
    own.path(digest).parent.mkdir(parents=True)
    own.path(digest).write_bytes(b"evil")
    to = tmp_path / "out"
    to.write_bytes(b"before")
    assert not own.take(digest, to)
    assert to.read_bytes() == b"before"


def test_a_link_in_the_cache_leads_nowhere(tmp_path: Path, own: Cache):
    digest = written(tmp_path / "secret", b"secret")
    own.path(digest).parent.mkdir(parents=True)
    own.path(digest).symlink_to(tmp_path / "secret")
    assert not own.take(digest, tmp_path / "out")


@pytest.mark.parametrize("level", ["sha256", "sha256/xx"])
def test_a_folder_of_the_cache_that_is_a_link_is_not_followed(tmp_path: Path, own: Cache, level: str):
    digest = written(tmp_path / "model", b"weights")
    theirs = tmp_path / "theirs"
    (theirs / digest[:2]).mkdir(parents=True)
    (theirs / digest[:2] / "precious").write_bytes(b"x")
    at = own.root / level.replace("xx", digest[:2])
    at.parent.mkdir(parents=True)
    at.symlink_to(theirs if level == "sha256" else theirs / digest[:2])
    assert list(own.entries()) == []
    own.put(tmp_path / "model", digest)
    assert own.take(digest, tmp_path / "out")
    assert [path.name for path in (theirs / digest[:2]).iterdir()] == ["precious"]


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "/" * 64])
def test_only_a_digest_is_a_name(own: Cache, name: str):
    with pytest.raises(ValueError, match="not a sha256"):
        own.path(name)


def test_another_file_system_is_copied(tmp_path: Path, own: Cache, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    digest = written(tmp_path / "model", b"weights")
    own.put(tmp_path / "model", digest)
    assert own.take(digest, tmp_path / "out")
    assert not (tmp_path / "out").samefile(own.path(digest))


def test_what_a_crash_left_is_pruned_too(own: Cache):
    digest = "ab" * 32
    own.path(digest).parent.mkdir(parents=True)
    (own.path(digest).parent / ".abababab.x1").write_bytes(b"half")
    (entry,) = own.entries()
    own.remove(entry.name)
    assert list(own.entries()) == []


NOW = 10.0 * KEEP_S


def entry(name: str, size: int, used_at: float) -> Entry:
    return Entry(name=name, size_bytes=size, used_at=used_at)


def test_the_oldest_go_first_until_the_rest_fits():
    found = [entry("c", 5, 3), entry("a", 5, 1), entry("b", 5, 2)]
    assert [each.name for each in removals(found, most_bytes=10, now=NOW)] == ["a"]
    assert [each.name for each in removals(found, most_bytes=9, now=NOW)] == ["a", "b"]
    assert removals(found, most_bytes=15, now=NOW) == []


def test_what_is_in_use_stays_even_above_the_cap():
    found = [entry("old", 5, 1), entry("busy", 50, NOW - KEEP_S + 1)]
    assert [each.name for each in removals(found, most_bytes=0, now=NOW)] == ["old"]


@given(st.lists(st.tuples(st.integers(0, 100), st.floats(0, NOW)), max_size=20), st.integers(0, 500))
def test_a_prune_fits_the_cap_or_only_keeps_what_is_in_use(drawn: list[tuple[int, float]], most: int):
    found = [entry(str(i), size, used) for i, (size, used) in enumerate(drawn)]
    gone = removals(found, most_bytes=most, now=NOW)
    left = [each for each in found if each not in gone]
    assert all(each.used_at <= NOW - KEEP_S for each in gone)
    assert sum(each.size_bytes for each in left) <= most or all(each.used_at > NOW - KEEP_S for each in left)
    assert all(g.used_at <= kept.used_at for g in gone for kept in left)


def test_the_cap_comes_from_the_command_then_the_host(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RELEASE_BOT_CACHE_MAX_GIB", raising=False)
    assert cache.max_bytes(None) == int(cache.DEFAULT_MAX_GIB * GIB)
    monkeypatch.setenv("RELEASE_BOT_CACHE_MAX_GIB", "1.5")
    assert cache.max_bytes(None) == int(1.5 * GIB)
    assert cache.max_bytes(2) == 2 * GIB
    for wrong in ("x", "-1", "nan", "inf"):
        monkeypatch.setenv("RELEASE_BOT_CACHE_MAX_GIB", wrong)
        with pytest.raises(UsageError):
            cache.max_bytes(None)


def test_the_place_comes_from_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RELEASE_BOT_CACHE", raising=False)
    assert cache.location(tmp_path) == (tmp_path / "cache").resolve()
    monkeypatch.setenv("RELEASE_BOT_CACHE", str(tmp_path / "elsewhere"))
    assert cache.location(tmp_path) == (tmp_path / "elsewhere").resolve()
