"""Bad input over the wire: refused with a reason, nothing written outside the folder, no traceback sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contract.conftest import Hub, ask

pytestmark = pytest.mark.contract
HEADER = b'{"key": "header", "value": {"summary": "s"}}\n'


@pytest.fixture(scope="module")
def target(embedded: Hub) -> str:
    embedded.api.create_repo("Hostile/target", exist_ok=True)
    return "/api/models/Hostile/target"


BAD_PATHS = [
    "../escape",
    "a/../../escape",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/.",
    ".git/config",
    "a/.git/hooks/x",
    ".GIT/config",
    "a\\..\\b",
    "C:\\x",
    "nul\0l",
    "line\nbreak",
    "",
    "trailing/",
    "x" * 2000,
    "\ud800",
    "e\u0301.txt",
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=range(len(BAD_PATHS)))
@pytest.mark.parametrize("key", ["file", "lfsFile", "deletedFile"])
def test_paths_that_leave_the_repo(embedded: Hub, target: str, path: str, key: str) -> None:
    sha = embedded.api.model_info("Hostile/target").sha
    value = {"path": path, "content": "x", "algo": "sha256", "oid": "0" * 64, "size": 1}
    body = HEADER + json.dumps({"key": key, "value": value}).encode()
    answer = ask(embedded.endpoint, "POST", f"{target}/commit/main", token=embedded.token, body=body)
    if (key, path) == ("deletedFile", "trailing/"):
        assert answer.status == 404, "a folder may be named so, and there is none"
    else:
        assert answer.status == 400, answer.body
        assert "path" in str(answer.json["error"])
    preupload = {"files": [{"path": path, "size": 1, "sample": ""}]}
    assert (
        ask(
            embedded.endpoint, "POST", f"{target}/preupload/main", token=embedded.token, body=preupload
        ).status
        == 400
    )
    assert embedded.api.model_info("Hostile/target").sha == sha
    assert not (embedded.root.parent / "escape").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b'{"key": "header"}',
        HEADER,
        b'{"key": "file", "value": {"path": "a", "content": "x"}}',
        HEADER + b'{"key": "explode", "value": {}}',
        HEADER + b'{"key": ["file"], "value": {}}',
        HEADER + b'{"key": "file", "value": {"path": "a", "content": "%%%", "encoding": "base64"}}',
        HEADER + b'{"key": "file", "value": {"path": "a"}}',
        HEADER + b'{"key": "file", "value": {"path": ["a"], "content": "x"}}',
        HEADER + b'{"key": "lfsFile", "value": {"path": "a", "oid": "../../x", "algo": "sha256"}}',
        b'{"key": "header", "value": {"summary": "s", "parentCommit": "HEAD"}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=range(15),
)
def test_commits_that_are_none(embedded: Hub, target: str, body: bytes) -> None:
    sha = embedded.api.model_info("Hostile/target").sha
    answer = ask(embedded.endpoint, "POST", f"{target}/commit/main", token=embedded.token, body=body)
    if body == HEADER:
        assert answer.json["commitOid"] == sha, "nothing asked, nothing changed"
    else:
        assert answer.status == 400, answer.body
        assert answer.json["error"]
        assert b"Traceback" not in answer.body
    assert embedded.api.model_info("Hostile/target").sha == sha


def test_a_line_without_end_is_refused(embedded: Hub, target: str) -> None:
    body = HEADER + b'{"key": "file", "value": {"path": "a", "content": "' + b"x" * 20_000_000
    answer = ask(embedded.endpoint, "POST", f"{target}/commit/main", token=embedded.token, body=body)
    assert answer.status == 413


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/repos/create", b"{"),
        ("POST", "/api/repos/create", b"[]"),
        ("POST", "/api/repos/create", b'{"name": 5}'),
        ("POST", "/api/repos/create", b'{"name": "x", "organization": "../.."}'),
        ("POST", "/api/repos/create", b'{"name": "x", "visibility": "sometimes"}'),
        ("POST", "/api/models/Hostile/target/tag/main", b'{"tag": "../../x"}'),
        ("POST", "/api/models/Hostile/target/tag/main", b'{"tag": "a b"}'),
        ("POST", "/api/models/Hostile/target/branch/a..b", b"{}"),
        ("DELETE", "/api/models/Hostile/target/branch/main", b""),
        ("POST", "/api/models/Hostile/target/discussions", b'{"title": "", "description": "d"}'),
        (
            "POST",
            "/Hostile/target.git/info/lfs/objects/batch",
            b'{"operation": "upload", "objects": [{"oid": "x"}]}',
        ),
        ("POST", "/Hostile/target.git/info/lfs/objects/batch", b'{"operation": "download", "objects": []}'),
        ("PUT", "/api/models/Hostile/target/settings", b'{"gated": "perhaps"}'),
        ("GET", "/api/models?limit=-1", b""),
        ("GET", "/api/models?sort=colour", b""),
        ("GET", "/api/models?limit=" + "9" * 400 + "x", b""),
        ("GET", "/api/models/Hostile/target/tree/main?cursor=x", b""),
        ("GET", "/Hostile/target/resolve/main/%ff", b""),
    ],
)
def test_requests_that_make_no_sense(embedded: Hub, target: str, method: str, path: str, body: bytes) -> None:
    answer = ask(embedded.endpoint, method, path, token=embedded.token, body=body)
    assert answer.status == 400, answer.body
    assert answer.headers["x-error-message"]


@pytest.mark.parametrize(
    "path",
    [
        "/Hostile/target/resolve/main/..%2f..%2f..%2fetc%2fpasswd",
        "/Hostile/target/resolve/main/../../../../etc/passwd",
        "/Hostile/target/resolve/..%2f..%2f/hub.sqlite3",
        "/static/..%2fpages.py",
        "/static/../pages.py",
        "/api/models/Hostile/target/discussions/1e9",
        "/api/models/Hostile/target/discussions/99999999999999999999",
        "/api/toasters/Hostile/target",
        "/api/models/Hostile%2ftarget/x",
    ],
)
def test_addresses_that_lead_nowhere(embedded: Hub, target: str, path: str) -> None:
    answer = ask(embedded.endpoint, "GET", path, token=embedded.token)
    assert answer.status == 404
    assert b"root:" not in answer.body


def test_another_host_name_is_refused(embedded: Hub) -> None:
    """A name that somebody points at 127.0.0.1 must not let their web page in."""
    assert ask(embedded.endpoint, "GET", "/api/models", Host="evil.example").status == 421
    assert ask(embedded.endpoint, "GET", "/api/models", Host="127.0.0.1.evil.example:80").status == 421
    assert ask(embedded.endpoint, "GET", "/api/models", Host="localhost:1234").status == 200
    assert ask(embedded.endpoint, "GET", "/api/models", Host="[::1]:80").status == 200


def test_errors_do_not_break_headers(embedded: Hub) -> None:
    answer = ask(embedded.endpoint, "GET", "/Hostile/target/resolve/main/%0d%0aX-Injected:%20yes%C3%BC")
    assert answer.status == 404
    assert "x-injected" not in answer.headers
    assert answer.headers["x-error-code"] == "EntryNotFound"


def test_a_yaml_bomb_in_a_card(embedded: Hub, target: str) -> None:
    bomb = "---\na: &a [x,x,x,x,x,x,x,x,x]\n"
    for n, name in enumerate("bcdefghij"):
        bomb += f"{name}: &{name} [" + ",".join([f"*{'abcdefghij'[n]}"] * 9) + "]\n"
    bomb += "---\n"
    answer = ask(embedded.endpoint, "POST", "/api/validate-yaml", body={"content": bomb, "repoType": "model"})
    assert answer.status == 400
    body = HEADER + json.dumps({"key": "file", "value": {"path": "README.md", "content": bomb}}).encode()
    assert (
        ask(embedded.endpoint, "POST", f"{target}/commit/main", token=embedded.token, body=body).status == 200
    )
    assert ask(embedded.endpoint, "GET", target).status == 200
    assert ask(embedded.endpoint, "GET", "/Hostile/target").status == 200


def test_lying_files_do_not_stop_the_description(embedded: Hub, target: str) -> None:
    """A config that is a JSON bomb, a safetensors header that lies about its length: the page still shows."""
    files = {
        "config.json": "[" * 100_000,
        "model-1.safetensors": "\u00ff" * 40,
        "model-2.safetensors": "\x02\0\0\0\0\0\0\0{}",
        "model-3.safetensors": '\x05\0\0\0\0\0\0\0{"a"',
    }
    lines = [
        json.dumps({"key": "file", "value": {"path": p, "content": c}}).encode() for p, c in files.items()
    ]
    body = HEADER + b"\n".join(lines)
    assert (
        ask(embedded.endpoint, "POST", f"{target}/commit/main", token=embedded.token, body=body).status == 200
    )
    answer = ask(embedded.endpoint, "GET", f"{target}?expand=safetensors&expand=config&expand=tags")
    assert answer.status == 200
    assert "config" not in answer.json


def test_the_folder_holds_only_what_belongs_there(embedded: Hub) -> None:
    """After all of this, nothing but blobs and the database has appeared."""
    known = {"blobs", "unfinished", "lock", "server.log", "hub.sqlite3", "hub.sqlite3-wal", "hub.sqlite3-shm"}
    assert {path.name for path in embedded.root.iterdir()} <= known
    assert all(len(path.name) == 64 for path in Path(embedded.root / "blobs").glob("*/*"))
    assert "Traceback" not in (embedded.root / "server.log").read_text()
