"""Files through the client: committed, listed, downloaded, and checked against git's and LFS's own ids."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from pathlib import Path

import pytest
from contract.conftest import Hub, ask
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfFileSystem,
    hf_hub_url,
)
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils.sha import git_hash

pytestmark = pytest.mark.contract
WEIGHTS = os.urandom(200_000)


def put(hub: Hub, repo: str, files: dict[str, bytes], **more: object) -> str:
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return str(hub.api.create_commit(repo, operations, commit_message="put", **more).oid)


def test_ids_are_those_of_git_and_lfs(hub: Hub, repo: str) -> None:
    sha = put(hub, repo, {"config.json": b"{}\n", "sub/model.safetensors": WEIGHTS, "empty.txt": b""})
    info = hub.api.model_info(repo, files_metadata=True)
    assert info.sha == sha
    files = {file.rfilename: file for file in info.siblings or ()}
    assert files["config.json"].blob_id == git_hash(b"{}\n")
    assert files["config.json"].lfs is None
    assert (files["empty.txt"].size, files["empty.txt"].blob_id) == (0, git_hash(b""))
    weights = files["sub/model.safetensors"]
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    pointer = (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(WEIGHTS)}\n".encode()
    )
    assert weights.lfs is not None
    assert (weights.size, weights.lfs.sha256, weights.lfs.size) == (len(WEIGHTS), digest, len(WEIGHTS))
    assert weights.lfs.pointer_size == len(pointer)
    assert weights.blob_id == git_hash(pointer)


def test_download_and_verify(hub: Hub, repo: str, tmp_path: Path) -> None:
    sha = put(
        hub, repo, {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "docs/ü b#c%.txt": b"odd"}
    )
    folder = Path(hub.api.snapshot_download(repo, cache_dir=tmp_path, revision=sha))
    assert folder.name == sha
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "docs/ü b#c%.txt").read_bytes() == b"odd"
    checked = hub.api.verify_repo_checksums(repo, cache_dir=tmp_path, revision=sha)
    assert (checked.checked_count, checked.mismatches, checked.missing_paths) == (4, [], [])
    blob = (folder / "config.json").resolve()
    blob.write_bytes(b"changed!")
    assert [
        bad["path"]
        for bad in hub.api.verify_repo_checksums(repo, cache_dir=tmp_path, revision=sha).mismatches
    ] == ["config.json"]


def test_download_of_a_pull_request_ref(hub: Hub, repo: str, tmp_path: Path) -> None:
    commit = hub.api.create_commit(
        repo,
        [CommitOperationAdd("model.safetensors", WEIGHTS)],
        commit_message="by pull request",
        create_pr=True,
    )
    path = hub.api.hf_hub_download(repo, "model.safetensors", revision=commit.pr_revision, cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS
    with pytest.raises(EntryNotFoundError):
        hub.api.hf_hub_download(repo, "model.safetensors", cache_dir=tmp_path)


def test_an_interrupted_download_goes_on_where_it_stopped(hub: Hub, repo: str) -> None:
    put(hub, repo, {"model.safetensors": WEIGHTS})
    url = hf_hub_url(repo, "model.safetensors", endpoint=hub.endpoint)
    file = io.BytesIO()
    file.write(b"?" * 150_000)
    headers = {"Authorization": f"Bearer {hub.token}"}
    http_get(url, file, resume_size=150_000, headers=headers, expected_size=len(WEIGHTS))
    assert file.getvalue() == b"?" * 150_000 + WEIGHTS[150_000:], "only the rest was sent"


def test_resolve_headers_and_ranges(embedded: Hub) -> None:
    embedded.api.create_repo("Files/ranged", exist_ok=True)
    sha = put(embedded, "Files/ranged", {"model.safetensors": WEIGHTS, "a.json": b"[1]"})
    path = "/Files/ranged/resolve/main/model.safetensors"
    head = ask(embedded.endpoint, "HEAD", path)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert (head.status, head.body) == (200, b"")
    assert head.headers["x-repo-commit"] == sha
    assert head.headers["x-linked-etag"] == head.headers["etag"] == f'"{digest}"'
    assert head.headers["x-linked-size"] == head.headers["content-length"] == str(len(WEIGHTS))
    small = ask(embedded.endpoint, "HEAD", "/Files/ranged/resolve/main/a.json")
    assert small.headers["etag"] == f'"{git_hash(b"[1]")}"'
    assert "x-linked-etag" not in small.headers
    for given, start, end in (
        ("0-7", 0, 8),
        ("100-", 100, len(WEIGHTS)),
        ("-5", len(WEIGHTS) - 5, len(WEIGHTS)),
    ):
        part = ask(embedded.endpoint, "GET", path, Range=f"bytes={given}")
        assert part.status == 206
        assert part.body == WEIGHTS[start:end]
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(WEIGHTS)}"
        assert part.headers["content-length"] == str(end - start)
    beyond = ask(embedded.endpoint, "GET", path, Range=f"bytes={len(WEIGHTS)}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(WEIGHTS)}")


def test_what_is_missing_says_what(hub: Hub, repo: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteEntryNotFoundError) as missing:
        hub.api.hf_hub_download(repo, "nothing.txt", cache_dir=tmp_path)
    assert missing.value.response.headers["X-Repo-Commit"] == hub.api.model_info(repo).sha
    with pytest.raises(RevisionNotFoundError):
        hub.api.hf_hub_download(repo, ".gitattributes", revision="nowhere", cache_dir=tmp_path)
    assert not hub.api.file_exists(repo, "nothing.txt")
    assert hub.api.file_exists(repo, ".gitattributes")
    with pytest.raises(EntryNotFoundError):
        list(hub.api.list_repo_tree(repo, "no/folder"))


def test_tree_and_paths(hub: Hub, repo: str) -> None:
    first = put(hub, repo, {"a/b/one.txt": b"1", "a/two.txt": b"22", "model.safetensors": WEIGHTS})
    second = put(hub, repo, {"a/two.txt": b"222"})
    top = {item.path: item for item in hub.api.list_repo_tree(repo)}
    assert set(top) == {".gitattributes", "a", "model.safetensors"}
    assert {item.path for item in hub.api.list_repo_tree(repo, "a")} == {"a/b", "a/two.txt"}
    everything = {item.path: item for item in hub.api.list_repo_tree(repo, recursive=True, expand=True)}
    assert set(everything) == {".gitattributes", "a", "a/b", "a/b/one.txt", "a/two.txt", "model.safetensors"}
    assert everything["a/b/one.txt"].last_commit.oid == first
    assert everything["a/two.txt"].last_commit.oid == everything["a"].last_commit.oid == second
    one, folder = hub.api.get_paths_info(repo, ["a/two.txt", "a/b", "not/there"])
    assert (one.size, one.blob_id) == (3, git_hash(b"222"))
    tree = b"100644 one.txt\0" + bytes.fromhex(git_hash(b"1"))
    assert folder.tree_id == hashlib.sha1(b"tree %d\0" % len(tree) + tree).hexdigest()
    old = hub.api.get_paths_info(repo, ["a/two.txt"], revision=first)
    assert old[0].size == 2


def test_a_large_tree_is_paged(embedded: Hub) -> None:
    embedded.api.create_repo("Files/many", exist_ok=True)
    lines = [{"key": "header", "value": {"summary": "many"}}]
    lines += [{"key": "file", "value": {"path": f"f/{n:04}.txt", "content": str(n)}} for n in range(1100)]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    answer = ask(
        embedded.endpoint, "POST", "/api/models/Files/many/commit/main", token=embedded.token, body=body
    )
    assert answer.status == 200, answer.body
    page = ask(embedded.endpoint, "GET", "/api/models/Files/many/tree/main?recursive=true")
    assert len(page.json) == 1000
    assert 'rel="next"' in page.headers["link"]
    assert len(embedded.api.list_repo_files("Files/many")) == 1101


def test_delete_and_copy(hub: Hub, repo: str) -> None:
    put(hub, repo, {"a/b.txt": b"b", "a/c.txt": b"c", "d.txt": b"d", "model.safetensors": WEIGHTS})
    operations = [
        CommitOperationDelete("a/"),
        CommitOperationDelete("d.txt"),
        CommitOperationCopy("model.safetensors", "copy.safetensors"),
    ]
    hub.api.create_commit(repo, operations, commit_message="tidy")
    assert hub.api.list_repo_files(repo) == [".gitattributes", "copy.safetensors", "model.safetensors"]
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        hub.api.delete_file("d.txt", repo)


def test_parent_commit_guards_against_a_race(hub: Hub, repo: str) -> None:
    seen = hub.api.model_info(repo).sha
    put(hub, repo, {"a.txt": b"mine"})
    with pytest.raises(HfHubHTTPError) as refused:
        put(hub, repo, {"a.txt": b"theirs"}, parent_commit=seen)
    assert refused.value.response.status_code == 412
    put(hub, repo, {"a.txt": b"theirs"}, parent_commit=hub.api.model_info(repo).sha)


def test_a_commit_that_changes_nothing_adds_none(hub: Hub, repo: str) -> None:
    first = put(hub, repo, {"a.txt": b"a", "model.safetensors": WEIGHTS})
    again = put(hub, repo, {"a.txt": b"a", "model.safetensors": WEIGHTS})
    assert again == first
    assert len(hub.api.list_repo_commits(repo)) == 2


def test_a_commit_is_all_or_nothing(embedded: Hub) -> None:
    embedded.api.create_repo("Files/atomic", exist_ok=True)
    before = embedded.api.model_info("Files/atomic").sha
    body = b"\n".join(
        json.dumps({"key": key, "value": value}).encode()
        for key, value in (
            ("header", {"summary": "half"}),
            ("file", {"path": "good.txt", "content": "good"}),
            ("lfsFile", {"path": "bad.bin", "algo": "sha256", "oid": "0" * 64, "size": 5}),
        )
    )
    answer = ask(
        embedded.endpoint, "POST", "/api/models/Files/atomic/commit/main", token=embedded.token, body=body
    )
    assert answer.status == 400
    assert "was not uploaded" in str(answer.json["error"])
    assert embedded.api.model_info("Files/atomic").sha == before
    assert embedded.api.list_repo_files("Files/atomic") == [".gitattributes"]


def test_gitattributes_learn_large_files(embedded: Hub) -> None:
    embedded.api.create_repo("Files/attributes", exist_ok=True)
    put(embedded, "Files/attributes", {"tokenizer big.json": b" " * (10 * 1024 * 1024 + 1)})
    fs = HfFileSystem(endpoint=embedded.endpoint, token=embedded.token)
    text = fs.read_text("Files/attributes/.gitattributes")
    assert text.splitlines()[-1] == "tokenizer[[:space:]]big.json filter=lfs diff=lfs merge=lfs -text"
    put(embedded, "Files/attributes", {"tokenizer big.json": b"now small enough"})
    (info,) = embedded.api.get_paths_info("Files/attributes", ["tokenizer big.json"])
    assert info.lfs is not None, "the line stays, and so does the way the file travels"


def test_a_large_regular_file_is_refused(embedded: Hub) -> None:
    embedded.api.create_repo("Files/regular", exist_ok=True)
    value = {"path": "big.txt", "content": "x" * (10 * 1024 * 1024 + 1), "encoding": "utf-8"}
    body = (
        b'{"key": "header", "value": {"summary": "s"}}\n'
        + json.dumps({"key": "file", "value": value}).encode()
    )
    answer = ask(
        embedded.endpoint, "POST", "/api/models/Files/regular/commit/main", token=embedded.token, body=body
    )
    assert answer.status == 400
    assert "LFS" in str(answer.json["error"])


def test_gitignore_is_heeded(hub: Hub, repo: str) -> None:
    put(hub, repo, {".gitignore": b"*.log\nwork/\n", "a.log": b"x", "work/b.txt": b"x", "c.txt": b"x"})
    assert hub.api.list_repo_files(repo) == [".gitattributes", ".gitignore", "c.txt"]


def test_file_and_folder_cannot_share_a_name(hub: Hub, repo: str) -> None:
    put(hub, repo, {"a": b"file"})
    with pytest.raises((BadRequestError, HfHubHTTPError)):
        put(hub, repo, {"a/b": b"in a folder of that name"})
    assert hub.api.list_repo_files(repo) == [".gitattributes", "a"]


def test_safetensors_headers_by_range(hub: Hub, repo: str) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [4, 8], "data_offsets": [0, 64]}}).encode()
    put(hub, repo, {"model.safetensors": struct.pack("<Q", len(header)) + header + bytes(64)})
    metadata = hub.api.get_safetensors_metadata(repo)
    assert metadata.parameter_count == {"BF16": 32}
    assert metadata.weight_map == {"w": "model.safetensors"}


def test_filesystem_view(hub: Hub, repo: str) -> None:
    put(hub, repo, {"a/b.txt": b"hello", "model.safetensors": WEIGHTS})
    fs = HfFileSystem(endpoint=hub.endpoint, token=hub.token)
    assert fs.cat_file(f"{repo}/model.safetensors", start=10, end=20) == WEIGHTS[10:20]
    assert fs.ls(f"{repo}/a", detail=False) == [f"{repo}/a/b.txt"]
    assert sorted(fs.glob(f"{repo}/**/*.txt")) == [f"{repo}/a/b.txt"]


def test_upload_folder(hub: Hub, repo: str, tmp_path: Path) -> None:
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/x.txt").write_text("x")
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    hub.api.upload_folder(repo_id=repo, folder_path=tmp_path, commit_message="a folder")
    assert hub.api.list_repo_files(repo) == [".gitattributes", "deep/er/x.txt", "model.safetensors"]
