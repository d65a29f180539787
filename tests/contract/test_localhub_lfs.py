"""Large files: in parts, checked by sha256, refused when they lie, in bounded memory, and never half kept."""

from __future__ import annotations

import hashlib
import http.client
import os
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from contract.conftest import Answer, Hub, ask
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError

pytestmark = pytest.mark.contract
MIB = 1 << 20


@pytest.fixture
def own(embedded: Hub) -> str:
    name = embedded.name()
    embedded.api.create_repo(name)
    return name


def batch(hub: Hub, repo: str, oid: str, size: int, *, token: str = "", parts: bool = True) -> Answer:
    transfers = ["basic", "multipart"] if parts else ["basic"]
    body = {"operation": "upload", "transfers": transfers, "objects": [{"oid": oid, "size": size}]}
    path = f"/{repo}.git/info/lfs/objects/batch"
    return ask(hub.endpoint, "POST", path, token=token or hub.token, body=body)


def actions(answer: Answer) -> dict[str, dict[str, object]]:
    assert answer.status == 200, answer.body
    return answer.json["objects"][0].get("actions")  # type: ignore[index, no-any-return]


def path_of(hub: Hub, action: dict[str, object]) -> str:
    return str(action["href"]).removeprefix(hub.endpoint)


def blobs(hub: Hub) -> set[str]:
    return {path.name for path in (hub.root / "blobs").glob("*/*")}


def unfinished(hub: Hub) -> list[Path]:
    return list((hub.root / "unfinished").iterdir())


@pytest.mark.parametrize("size", [2_999_999, 3_000_001, 7_000_000, 8_123_457])
def test_whole_and_in_parts(embedded: Hub, own: str, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    digest = hashlib.sha256(content).hexdigest()
    header = actions(batch(embedded, own, digest, size))["upload"]["header"]
    expected = 0 if size <= 3_000_000 else -(-size // 1_000_000)
    assert sum(key.isdigit() for key in header) == expected  # type: ignore[attr-defined]
    embedded.api.create_commit(own, [CommitOperationAdd("w.safetensors", content)], commit_message="w")
    path = embedded.api.hf_hub_download(own, "w.safetensors", cache_dir=tmp_path)
    assert Path(path).read_bytes() == content
    assert actions(batch(embedded, own, digest, size)) is None, "what is there is not asked for again"
    assert not [file for file in unfinished(embedded) if file.stat().st_size]


def test_a_wrong_sha256_is_refused_and_nothing_is_kept(embedded: Hub, own: str) -> None:
    announced = hashlib.sha256(b"announced").hexdigest()
    upload = actions(batch(embedded, own, announced, 9))["upload"]
    before = blobs(embedded)
    answer = ask(embedded.endpoint, "PUT", path_of(embedded, upload), body=b"different")
    assert answer.status == 400
    assert "sha256 mismatch" in str(answer.json["error"])
    assert ask(embedded.endpoint, "PUT", path_of(embedded, upload), body=b"announced and more").status == 400
    assert ask(embedded.endpoint, "PUT", path_of(embedded, upload), body=b"annou").status == 400
    assert blobs(embedded) == before
    assert actions(batch(embedded, own, announced, 9)) is not None
    assert ask(embedded.endpoint, "PUT", path_of(embedded, upload), body=b"announced").status == 200
    assert actions(batch(embedded, own, announced, 9)) is None


def parts_of(hub: Hub, action: dict[str, object]) -> list[str]:
    header = action["header"]
    assert isinstance(header, dict)
    return [
        header[key].removeprefix(hub.endpoint) for key in sorted((k for k in header if k.isdigit()), key=int)
    ]


def test_parts_that_do_not_make_the_whole_are_refused(embedded: Hub, own: str) -> None:
    content = os.urandom(3_500_000)
    digest = hashlib.sha256(content).hexdigest()
    before = blobs(embedded)
    upload = actions(batch(embedded, own, digest, len(content)))["upload"]
    etags = []
    for n, part in enumerate(parts_of(embedded, upload)):
        piece = content[n * 1_000_000 : (n + 1) * 1_000_000]
        answer = ask(embedded.endpoint, "PUT", part, body=piece if n != 1 else b"\0" * len(piece))
        etags.append({"partNumber": n + 1, "etag": answer.headers["etag"]})
    complete = {"oid": digest, "parts": etags}
    answer = ask(embedded.endpoint, "POST", path_of(embedded, upload), body=complete)
    assert answer.status == 400
    assert "sha256 mismatch" in str(answer.json["error"])
    assert blobs(embedded) == before
    assert ask(embedded.endpoint, "POST", path_of(embedded, upload), body=complete).status == 404, (
        "it is over"
    )


def test_a_missing_part_or_a_forged_etag_is_refused(embedded: Hub, own: str) -> None:
    content = os.urandom(3_500_000)
    digest = hashlib.sha256(content).hexdigest()
    for forge in (False, True):
        upload = actions(batch(embedded, own, digest, len(content)))["upload"]
        etags = []
        for n, part in enumerate(parts_of(embedded, upload)):
            if n == 2 and not forge:
                continue
            answer = ask(embedded.endpoint, "PUT", part, body=content[n * 1_000_000 : (n + 1) * 1_000_000])
            etags.append({"partNumber": n + 1, "etag": '"forged"' if forge else answer.headers["etag"]})
        body = {"oid": digest, "parts": etags}
        assert ask(embedded.endpoint, "POST", path_of(embedded, upload), body=body).status == 400
    assert actions(batch(embedded, own, digest, len(content))) is not None


def test_a_part_sent_twice_counts_once(embedded: Hub, own: str) -> None:
    content = os.urandom(3_100_000)
    digest = hashlib.sha256(content).hexdigest()
    upload = actions(batch(embedded, own, digest, len(content)))["upload"]
    etags = []
    for n, part in enumerate(parts_of(embedded, upload)):
        piece = content[n * 1_000_000 : (n + 1) * 1_000_000]
        assert ask(embedded.endpoint, "PUT", part, body=piece[:-1]).status == 400, "too short"
        ask(embedded.endpoint, "PUT", part, body=os.urandom(len(piece)))
        sent = ask(embedded.endpoint, "PUT", part, body=piece)
        etags.append({"partNumber": n + 1, "etag": sent.headers["etag"]})
    answer = ask(embedded.endpoint, "POST", path_of(embedded, upload), body={"oid": digest, "parts": etags})
    assert answer.status == 200
    assert digest in blobs(embedded)


def test_knowing_a_sha256_is_not_having_the_file(guarded: Hub) -> None:
    """A token that cannot read a private repo must not get its content by naming its hash."""
    secret = os.urandom(5000)
    digest = hashlib.sha256(secret).hexdigest()
    guarded.api.create_repo("root/private-weights", private=True)
    guarded.api.create_commit(
        "root/private-weights", [CommitOperationAdd("w.safetensors", secret)], commit_message="w"
    )
    guarded.as_token("hf_bob").create_repo("bob/thief", exist_ok=True)
    assert actions(batch(guarded, "bob/thief", digest, 5000, token="hf_bob")) is not None
    body = (
        b'{"key": "header", "value": {"summary": "steal"}}\n'
        b'{"key": "lfsFile", "value": {"path": "w.safetensors", "algo": "sha256", "oid": "%b", "size": 5000}}'
    ) % digest.encode()
    answer = ask(guarded.endpoint, "POST", "/api/models/bob/thief/commit/main", token="hf_bob", body=body)
    assert answer.status == 400


def test_upload_addresses_cannot_be_altered_or_swapped(embedded: Hub, own: str) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    found = actions(batch(embedded, own, digest, 7))
    path = path_of(embedded, found["upload"])
    altered = path[:-3] + ("AAA" if path[-3:] != "AAA" else "BBB")
    assert ask(embedded.endpoint, "PUT", altered, body=b"content").status == 403
    assert ask(embedded.endpoint, "PUT", "/lfs/object/x", body=b"content").status == 403
    swapped = path_of(embedded, found["verify"]).replace("/verify/", "/object/")
    assert ask(embedded.endpoint, "PUT", swapped, body=b"content").status == 403


def test_anonymous_and_strangers_get_no_address(guarded: Hub) -> None:
    guarded.api.create_repo("root/public-weights", exist_ok=True)
    digest = hashlib.sha256(b"x").hexdigest()
    body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": digest, "size": 1}]}
    path = "/root/public-weights.git/info/lfs/objects/batch"
    assert ask(guarded.endpoint, "POST", path, body=body).status == 401
    assert ask(guarded.endpoint, "POST", path, token="hf_alice_read", body=body).status == 403


def test_an_upload_cut_off_leaves_nothing(embedded: Hub, own: str) -> None:
    digest = hashlib.sha256(bytes(2 * MIB)).hexdigest()
    upload = actions(batch(embedded, own, digest, 2 * MIB))["upload"]
    parts = urlsplit(embedded.endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    connection.putrequest("PUT", path_of(embedded, upload))
    connection.putheader("Content-Length", str(2 * MIB))
    connection.endheaders(bytes(MIB))
    connection.close()
    answer = ask(embedded.endpoint, "PUT", path_of(embedded, upload), body=bytes(2 * MIB))
    assert answer.status == 200
    for _ in range(100):
        if not [file for file in unfinished(embedded) if not file.name.startswith("multipart-")]:
            break
        ask(embedded.endpoint, "GET", "/api/embedded-hub")
    assert not [file for file in unfinished(embedded) if not file.name.startswith("multipart-")]


def disk_bytes(hub: Hub) -> int:
    """What file contents, finished or not, take on the disk."""
    folders = (hub.root / "blobs", hub.root / "unfinished")
    return sum(
        path.stat().st_blocks * 512 for folder in folders for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_large_file_costs_no_memory(embedded: Hub, own: str, tmp_path: Path, in_parts: bool) -> None:
    """300 MB up and down while the server stays within 64 MB of what it used before."""
    size = 300_000_000
    source = tmp_path / "large.safetensors"
    with open(source, "wb") as file:
        file.write(os.urandom(MIB) if in_parts else os.urandom(2 * MIB))
        file.truncate(size)
    server = psutil.Process(embedded.pid)
    used = server.memory_info().rss
    peak = used
    disk = disk_bytes(embedded)
    with open(source, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    upload = actions(batch(embedded, own, digest, size, parts=in_parts))["upload"]
    with open(source, "rb") as file:
        if in_parts:
            etags = []
            for n, part in enumerate(parts_of(embedded, upload)):
                answer = ask(embedded.endpoint, "PUT", part, body=file.read(1_000_000))
                etags.append({"partNumber": n + 1, "etag": answer.headers["etag"]})
                peak = max(peak, server.memory_info().rss)
                assert disk_bytes(embedded) - disk <= size + MIB
            body = {"oid": digest, "parts": etags}
            assert ask(embedded.endpoint, "POST", path_of(embedded, upload), body=body).status == 200
        else:
            parts = urlsplit(embedded.endpoint)
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            connection.putrequest("PUT", path_of(embedded, upload))
            connection.putheader("Content-Length", str(size))
            connection.endheaders()
            while chunk := file.read(4 * MIB):
                connection.send(chunk)
                peak = max(peak, server.memory_info().rss)
            assert connection.getresponse().read() == b"{}"
            connection.close()
    stored = embedded.root / "blobs" / digest[:2] / digest
    assert stored.stat().st_size == size
    assert disk_bytes(embedded) - disk <= size + MIB
    embedded.api.create_commit(own, [CommitOperationAdd("large.safetensors", source)], commit_message="large")
    parts = urlsplit(embedded.endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request("GET", f"/{own}/resolve/main/large.safetensors")
    answer = connection.getresponse()
    got = hashlib.sha256()
    while chunk := answer.read(4 * MIB):
        got.update(chunk)
        peak = max(peak, server.memory_info().rss)
    connection.close()
    assert got.hexdigest() == digest
    assert peak - used < 64 * MIB, f"{(peak - used) / MIB:.0f} MiB more than before"


def test_a_commit_naming_another_size_is_refused(embedded: Hub, own: str) -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    upload = actions(batch(embedded, own, digest, 7))["upload"]
    assert ask(embedded.endpoint, "PUT", path_of(embedded, upload), body=b"content").status == 200
    body = (
        b'{"key": "header", "value": {"summary": "s"}}\n'
        b'{"key": "lfsFile", "value": {"path": "w.bin", "algo": "sha256", "oid": "%b", "size": 8}}'
    ) % digest.encode()
    answer = ask(embedded.endpoint, "POST", f"/api/models/{own}/commit/main", token=embedded.token, body=body)
    assert answer.status == 400


def test_listing_large_files(embedded: Hub, own: str) -> None:
    content = os.urandom(4000)
    embedded.api.create_commit(own, [CommitOperationAdd("w.safetensors", content)], commit_message="w")
    (file,) = embedded.api.list_lfs_files(own)
    assert (file.filename, file.size) == ("w.safetensors", 4000)
    assert file.file_oid == hashlib.sha256(content).hexdigest()


def test_xet_is_refused_plainly(embedded: Hub, own: str) -> None:
    answer = ask(embedded.endpoint, "GET", f"/api/models/{own}/xet-write-token/main", token=embedded.token)
    assert answer.status == 404
    assert "HF_HUB_DISABLE_XET" in str(answer.json["error"])


def test_errors_are_the_clients_own(embedded: Hub) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        embedded.api.create_commit(
            "release-bot/never-was", [CommitOperationAdd("a", b"a")], commit_message="into nowhere"
        )
    assert refused.value.response.status_code == 404
