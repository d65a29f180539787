"""Bases and data sets from the Hub client's cache: nothing that an earlier job wrote there is ever read."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract.conftest import Hub
from huggingface_hub import CommitOperationAdd, constants

from bot import cache
from bot.cache import Cache
from bot.edges import snapshot
from bot.edges.hub import Hub as Edge

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.contract
WEIGHTS, CONFIG = b"weights" * 100_000, b'{"model_type": "qwen3_5"}'
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client's cache, and no memory of what this process has hashed: as a new job has it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(snapshot, "_verified", {})
    monkeypatch.delenv("RELEASE_BOT_CACHE", raising=False)
    return tmp_path / "hub"


@pytest.fixture
def base(embedded: Hub) -> tuple[Edge, str, str]:
    name = embedded.name()
    embedded.api.create_repo(name)
    content = [
        CommitOperationAdd("model.safetensors", WEIGHTS),
        CommitOperationAdd("config.json", CONFIG),
        CommitOperationAdd("sub/vocab.json", b"{}"),
        CommitOperationAdd("old.bin", b"a pickle"),
    ]
    revision = embedded.api.create_commit(name, content, commit_message="base").oid
    return Edge(embedded=True, endpoint=embedded.endpoint, token=embedded.token), name, revision


def forget() -> None:
    snapshot._verified.clear()


def blob(folder: Path, name: str) -> Path:
    return (folder / name).resolve()


def test_the_second_job_reads_what_is_there_and_says_so(
    base: tuple[Edge, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    edge, name, revision = base
    first = snapshot.bring(edge, name, revision, ignore=["*.bin"])
    assert (first.num_files, first.num_reused) == (4, 0)
    assert first.downloaded_bytes > len(WEIGHTS + CONFIG)
    assert not (first.folder / "old.bin").exists()
    forget()
    second = snapshot.bring(edge, name, revision, ignore=["*.bin"])
    assert (second.num_reused, second.downloaded_bytes) == (4, 0)
    assert second.reused_bytes == first.downloaded_bytes
    assert (
        "4 of 4 files were on this host (0.00 GiB, verified), 0.00 GiB downloaded" in capsys.readouterr().err
    )
    assert edge.download(name, revision) == second.folder


@pytest.mark.parametrize(("path", "whole"), [("model.safetensors", WEIGHTS), ("config.json", CONFIG)])
def test_a_blob_that_an_earlier_job_altered_comes_again(
    base: tuple[Edge, str, str], capsys: pytest.CaptureFixture[str], path: str, whole: bytes
) -> None:
    edge, name, revision = base
    folder = edge.download(name, revision)
    forged = blob(folder, path)
    forged.write_bytes(whole[:-1] + b"X")
    os.utime(forged, (1, 1))
    forget()
    assert (edge.download(name, revision) / path).read_bytes() == whole
    said = capsys.readouterr().err
    assert f"{path} in this host's cache is not what the Hub says" in said
    assert "1 dropped as wrong" in said


def test_within_one_process_an_altered_blob_is_seen_without_hashing_again(
    base: tuple[Edge, str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its times cannot all be put back: the skip looks at `ctime`."""
    edge, name, revision = base
    folder = edge.download(name, revision)
    forged = blob(folder, "model.safetensors")
    before = forged.stat()
    hashed: list[Path] = []
    real = cache.sha256_of
    monkeypatch.setattr(cache, "sha256_of", lambda path, read: hashed.append(path) or real(path, read))
    edge.download(name, revision)
    assert hashed == []
    forged.write_bytes(WEIGHTS[:-1] + b"X")
    os.utime(forged, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (edge.download(name, revision) / "model.safetensors").read_bytes() == WEIGHTS
    assert forged in hashed


def test_a_snapshot_leads_only_to_the_right_blobs(base: tuple[Edge, str, str], tmp_path: Path) -> None:
    edge, name, revision = base
    folder = edge.download(name, revision)
    (tmp_path / "evil").write_bytes(b"evil")
    (folder / "chat_template.jinja").write_bytes(b"a template that the base does not have")
    (folder / "more").symlink_to(tmp_path)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "evil")
    (folder / "sub/vocab.json").unlink()
    (folder / "sub/vocab.json").symlink_to(blob(folder, "model.safetensors"))
    found = edge.download(name, revision)
    names = {path.relative_to(found).as_posix() for path in found.rglob("*") if not path.is_dir()}
    assert names == {".gitattributes", "model.safetensors", "config.json", "sub/vocab.json"}
    assert (found / "config.json").read_bytes() == CONFIG
    assert (found / "sub/vocab.json").read_bytes() == b"{}"
    assert (tmp_path / "evil").read_bytes() == b"evil", "a link is removed, not what it leads to"


def test_a_note_of_the_commit_s_files_is_not_believed(base: tuple[Edge, str, str], hub_cache: Path) -> None:
    edge, name, revision = base
    edge.download(name, revision)
    (note,) = hub_cache.glob("*/trees/*.json")
    note.write_text("{}")
    (hub_cache / f"models--{name.replace('/', '--')}/snapshots/{revision}/config.json").unlink()
    assert (edge.download(name, revision) / "config.json").read_bytes() == CONFIG


def test_a_blob_that_is_a_link_is_dropped(base: tuple[Edge, str, str], tmp_path: Path) -> None:
    edge, name, revision = base
    place = blob(edge.download(name, revision), "model.safetensors")
    place.rename(tmp_path / "theirs")
    place.symlink_to(tmp_path / "theirs")
    found = edge.download(name, revision)
    assert not blob(found, "model.safetensors").samefile(tmp_path / "theirs")


def test_jobs_with_caches_of_their_own_share_bases_by_sha256(
    base: tuple[Edge, str, str], hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a runner: each GPU's job has an empty client's cache, and the host's cache beside it."""
    edge, name, revision = base
    monkeypatch.setenv("RELEASE_BOT_CACHE", str(tmp_path / "shared"))
    shared = Cache(tmp_path / "shared")
    edge.download(name, revision)
    assert shared.path(SHA256).samefile(blob(edge.download(name, revision), "model.safetensors"))
    hub_cache.rename(tmp_path / "of-the-job-before")
    forget()
    second = snapshot.bring(edge, name, revision, ignore=["*.bin"], shared=shared)
    assert (second.num_reused, second.reused_bytes) == (1, len(WEIGHTS))
    shared.path(SHA256).write_bytes(b"spoilt")
    hub_cache.rename(tmp_path / "of-another-job")
    forget()
    third = snapshot.bring(edge, name, revision, ignore=["*.bin"], shared=shared)
    assert third.num_reused == 0
    assert (third.folder / "model.safetensors").read_bytes() == WEIGHTS


FORGE = """
import sys
from pathlib import Path
from bot.backends import rows
from bot.recipe import load
spec = load("nvfp4").calibration.sets[0].model_copy(update={"dataset": sys.argv[1], "revision": sys.argv[2]})
for path in sys.argv[3:]:
    place = Path(rows._download(spec, path))
    whole = place.read_bytes()
    place.resolve().write_bytes(b"forged")
    assert Path(rows._download(spec, path)).read_bytes() == whole, path
    print("again:", path)
try:
    rows._download(spec, "absent.jsonl")
except rows.InputError as e:
    print(e.what)
"""


def test_a_calibration_file_that_was_altered_comes_again(embedded: Hub, tmp_path: Path) -> None:
    """In a process of its own, as the quantizer's: the client reads its endpoint at import."""
    name, paths = embedded.name(), ("sparse/media/shard_0.tar", "README.md")
    embedded.api.create_repo(name, repo_type="dataset")
    readme = b"---\nlicense: mit\n---\n# set"
    content = [CommitOperationAdd(path, data) for path, data in zip(paths, (b"images", readme), strict=True)]
    revision = embedded.api.create_commit(name, content, commit_message="set", repo_type="dataset").oid
    done = subprocess.run(
        [sys.executable, "-c", FORGE, name, revision, *paths],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": embedded.endpoint,
            "HF_TOKEN": embedded.token,
            "HF_HOME": str(tmp_path / "hf"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        *(f"again: {path}" for path in paths),
        f"{name} has no file absent.jsonl",
    ], done.stderr
