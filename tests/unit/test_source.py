"""Where bytes come from: folders that try to lead elsewhere, and a Hub that fails in every way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import checkpoints as c
import pytest
from hubserver import SHA, Hub, serve

from bot.checkpoint import hub as hub_module
from bot.checkpoint.files import check_path, same_content
from bot.checkpoint.folder import FolderSource, first_difference
from bot.checkpoint.source import HubSource, open_source
from bot.errors import InfrastructureError, InputError
from bot.recipe import load
from bot.stages.audit import audit
from bot.stages.repair import repair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    (inside / "a.txt").write_bytes(bytes(range(200)) * 50)
    (inside / "sub" / "b.txt").write_text("b")
    return inside


# ── folders ────────────────────────────────────────────────────────────────────────────────


def test_reads_exact_ranges(folder: Path) -> None:
    source = FolderSource(folder)
    assert source.read("a.txt", 198, 4) == bytes([198, 199, 0, 1])
    assert source.read("a.txt", 10_000, 0) == b""
    assert b"".join(source.stream("a.txt", 0, 10_000)) == (folder / "a.txt").read_bytes()
    assert {path: e.size_bytes for path, e in source.files().items()} == {"a.txt": 10_000, "sub/b.txt": 1}
    assert source.bytes_read == 10_004


def test_a_short_file_is_an_input_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"a\.txt ends"):
        FolderSource(folder).read("a.txt", 9_999, 2)


def test_too_large_for_small(folder: Path) -> None:
    with pytest.raises(InputError, match="at most 10"):
        FolderSource(folder).read_small("a.txt", 10)


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "sub/../../secret", "a\\b", "C:/x", "", "a\0b", "//x"]
)
def test_paths_out_of_the_folder_are_refused(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("secret")
    with pytest.raises(InputError, match="outside"):
        check_path(path)
    with pytest.raises(InputError):
        FolderSource(folder).read(path, 0, 1)


def test_links_are_listed_and_never_followed(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "file").symlink_to(folder.parent / "secret")
    (folder / "inner").symlink_to("a.txt")
    (folder / "directory").symlink_to(folder.parent)
    source = FolderSource(folder)
    assert {path for path, e in source.files().items() if e.is_symlink} == {"file", "inner", "directory"}
    for path in ("file", "inner", "directory", "directory/secret"):
        with pytest.raises(InputError):
            source.read(path, 0, 1)


def test_a_link_put_in_after_the_listing_is_not_followed(folder: Path) -> None:
    (folder.parent / "secret").write_text("secret")
    source = FolderSource(folder)
    source.files()
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(folder.parent / "secret")
    with pytest.raises(InputError):
        source.read("a.txt", 0, 6)
    (folder / "sub" / "b.txt").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").symlink_to(folder.parent)
    (folder.parent / "b.txt").write_text("secret")
    with pytest.raises(InputError):
        source.read("sub/b.txt", 0, 1)


def test_pipes_are_never_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    source = FolderSource(folder)
    assert source.files()["pipe"].kind == "special"
    with pytest.raises(InputError, match="pipe"):
        source.read("pipe", 0, 1)


def test_a_snapshot_of_the_cache_is_read_through_its_links(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs" / "abc").write_text("blob")
    (tmp_path / "secret").write_text("secret")
    (snapshot / "a.txt").symlink_to("../../blobs/abc")
    (snapshot / "b.txt").symlink_to(tmp_path / "secret")
    source = FolderSource(snapshot)
    assert source.revision == SHA
    assert source.read("a.txt", 0, 4) == b"blob"
    assert source.files()["b.txt"].is_symlink


def test_housekeeping_is_no_part_of_a_checkpoint(folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("x")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "x.metadata").write_text("x")
    assert set(FolderSource(folder).files()) == {"a.txt", "sub/b.txt"}


@pytest.mark.parametrize(
    "text", ["/nowhere/at/all", "./nowhere", "no-slash", "a/b/c", "org/na me", "a/b@", "../x"]
)
def test_what_is_neither_folder_nor_repo_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        open_source(text)


def test_a_file_is_no_checkpoint(folder: Path) -> None:
    with pytest.raises(InputError, match="file"):
        open_source(str(folder / "a.txt"))


def test_first_difference(tmp_path: Path) -> None:
    data = bytearray(os.urandom(3 << 20))
    (tmp_path / "a").write_bytes(data)
    data[2_500_000] ^= 1
    (tmp_path / "b").write_bytes(b"xy" + data)
    source = FolderSource(tmp_path)
    assert first_difference(source, ("a", 0), source, ("b", 2), 3 << 20) == 2_500_000
    assert first_difference(source, ("a", 0), source, ("b", 2), 2_500_000) is None
    assert first_difference(source, ("a", 2_500_001), source, ("b", 2_500_003), 1000) is None


def test_first_difference_sees_data_beside_holes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(8 << 20)
    with (tmp_path / "b").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"\x01")
    source = FolderSource(tmp_path)
    assert first_difference(source, ("a", 0), source, ("b", 0), 8 << 20) == 5_000_000
    assert first_difference(source, ("a", 0), source, ("b", 0), 4 << 20) is None


# ── the Hub ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(folder) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint)
        monkeypatch.setattr(hub_module.time, "sleep", lambda _: None)
        yield served


def test_a_repo_is_listed_once_and_read_by_ranges(hub: Hub) -> None:
    source = open_source("org/name@main")
    assert isinstance(source, HubSource)
    assert source.revision == SHA
    assert source.label == f"org/name@{SHA}"
    assert source.read("a.txt", 198, 4) == bytes([198, 199, 0, 1])
    assert source.read_small("sub/b.txt", 10) == b"b"
    assert b"".join(source.stream("a.txt", 0, 10_000)) == (hub.folder / "a.txt").read_bytes()
    assert source.requests == len(hub.asked) == 4
    assert source.files()["a.txt"].sha256
    assert source.files()["sub/b.txt"].git_sha1


def test_a_redirect_is_followed_once_a_file_and_without_the_token(hub: Hub) -> None:
    hub.redirect = True
    source = HubSource("org/name", token="hf_secret")
    for start in (0, 5, 9):
        assert source.read("a.txt", start, 2) == (hub.folder / "a.txt").read_bytes()[start : start + 2]
    assert source.requests == len(hub.asked) == 1 + 2 + 2
    sent = dict(zip(hub.asked, hub.tokens, strict=True))
    assert sent["/store/a.txt"] is None
    assert sent[f"/org/name/resolve/{SHA}/a.txt"] == "Bearer hf_secret"


def test_a_server_without_ranges_still_gives_the_right_bytes(hub: Hub) -> None:
    hub.ignore_ranges = True
    assert HubSource("org/name").read("a.txt", 198, 4) == bytes([198, 199, 0, 1])


def test_passing_faults_are_tried_again(hub: Hub) -> None:
    hub.flaky = 2
    source = HubSource("org/name")
    hub.flaky = 1
    assert source.read("a.txt", 0, 1) == b"\0"
    assert source.requests == 5


@pytest.mark.parametrize("status", [500, 503, 429])
def test_faults_that_stay_are_infrastructure(hub: Hub, status: int) -> None:
    hub.status = status
    with pytest.raises(InfrastructureError, match=str(status)):
        HubSource("org/name")
    assert len(hub.asked) == hub_module.ATTEMPTS


def test_a_connection_that_breaks_is_infrastructure(hub: Hub) -> None:
    source = HubSource("org/name")
    hub.cut = 1
    with pytest.raises(InfrastructureError):
        source.read("a.txt", 1, 100)


def test_no_hub_at_all_is_infrastructure(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InfrastructureError):
        HubSource("org/name")


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "RepoNotFound", "does not exist, was removed, or is private"),
        (404, "RepoNotFound", "does not exist"),
        (403, "GatedRepo", "gated"),
        (401, "GatedRepo", "gated"),
        (404, "RevisionNotFound", "no revision"),
        (410, "", "removed"),
        (400, "", "400"),
    ],
)
def test_what_will_not_pass_is_an_input_error(hub: Hub, status: int, code: str, said: str) -> None:
    hub.status, hub.error_code = status, code
    with pytest.raises(InputError, match=said) as caught:
        HubSource("org/name", "v1")
    assert caught.value.fix
    assert len(hub.asked) == 1


@pytest.mark.parametrize("path", ["../x", "/etc/passwd"])
def test_a_listing_that_leads_outside_is_refused(hub: Hub, path: str) -> None:
    hub.listing = {"sha": SHA, "siblings": [{"rfilename": path, "size": 1, "blobId": "x"}]}
    with pytest.raises(InputError, match="outside"):
        HubSource("org/name")


@pytest.mark.parametrize("listing", [[], {"sha": SHA}, {"sha": SHA, "siblings": [{}]}, "x"])
def test_a_listing_that_is_none_is_infrastructure(hub: Hub, listing: object) -> None:
    hub.listing = listing or [1]
    with pytest.raises(InfrastructureError):
        HubSource("org/name")


def test_beyond_the_end_is_refused_before_asking(hub: Hub) -> None:
    source = HubSource("org/name")
    with pytest.raises(InputError, match="were asked for"):
        source.read("a.txt", 9_999, 2)
    assert source.requests == 1


def test_digests_save_reading(hub: Hub, folder: Path) -> None:
    here, there = FolderSource(folder), HubSource("org/name")
    assert all(same_content(here, there, path) for path in ("a.txt", "sub/b.txt"))
    assert same_content(there, there, "a.txt")
    (folder / "sub" / "b.txt").write_text("c")
    assert not same_content(FolderSource(folder), there, "sub/b.txt")
    assert there.requests == 1


# ── a checkpoint on the Hub ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shards", [2, 9])
def test_headers_cost_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int) -> None:
    base = c.make_base(tmp_path / "base")
    folder = c.write(tmp_path / "x", c.draft(base, "gptq"), base, shards=shards)
    with serve(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        report = audit(open_source("org/name"), base=open_source(str(base)), recipe=None, headers_only=True)
        assert report.requests == len(hub.asked) <= shards + 6
        assert hub.counts.most_common(1)[0][1] == 1
        assert report.failed() == []


@pytest.mark.parametrize("packing", c.PACKINGS)
def test_a_repo_is_audited_like_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    base = c.make_base(tmp_path / "base")
    folder = c.make(tmp_path / "x", base, packing)
    local = audit(open_source(str(folder)), base=open_source(str(base)), recipe=None)
    with serve(folder) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        report = audit(open_source("org/name"), base=open_source(str(base)), recipe=None)
    assert report.passed
    assert report.source_revision == SHA
    assert report.checks == local.checks
    assert report.inventory == local.inventory
    assert report.distance == local.distance


def test_a_base_on_the_hub_gives_back_just_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = c.make_base(tmp_path / "base")
    made = c.draft(base, "gptq")
    made.repack("mtp.fc", c.floats(made.tensors["mtp.fc.weight"]))
    folder = c.write(tmp_path / "x", made, base)
    with serve(base) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        report = repair(folder, base=open_source("org/name"), recipe=load("gptq-w4a16-g128"))
    assert report.changed
    assert report.base_revision == SHA
    assert c.read_all(folder)["mtp.fc.weight"] == c.read_all(base)["mtp.fc.weight"]
    kept = sum(len(t.data) for name, t in c.read_all(base).items() if not c.is_quantized(name))
    headers = 2 * (512 << 10)
    assert report.bytes_fetched <= kept + headers + (64 << 10)
    assert len(hub.asked) < 60
