"""The folder survives: restarts, kill -9 in the middle of things, a second server, a port that is taken."""

from __future__ import annotations

import hashlib
import http.client
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from contract.conftest import ask
from huggingface_hub import CommitOperationAdd, HfApi

from bot import localhub
from bot.localhub.errors import FolderBusyError

pytestmark = [pytest.mark.contract, pytest.mark.usefixtures("without_xet")]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with localhub.running(tmp_path) as server:
        api = HfApi(endpoint=server.url, token=server.token)
        api.create_repo("a/b", private=True)
        files = [CommitOperationAdd("w.safetensors", b"w" * 4000), CommitOperationAdd("a.txt", b"a")]
        commit = api.create_commit("a/b", files, commit_message="files", create_pr=True)
        api.merge_pull_request("a/b", 1)
        api.create_tag("a/b", tag="v1")
        slug = api.create_collection("c", namespace="release-bot").slug
        before = api.model_info("a/b", files_metadata=True)
    assert gone(server.pid)
    with localhub.running(tmp_path) as server:
        api = HfApi(endpoint=server.url, token=server.token)
        assert api.model_info("a/b", files_metadata=True) == before
        assert api.model_info("a/b", revision="v1").sha == before.sha
        assert api.get_discussion_details("a/b", 1).status == "merged"
        assert api.model_info("a/b", revision="refs/pr/1").sha == commit.oid
        assert api.get_collection(slug).title == "c"
        path = api.hf_hub_download("a/b", "w.safetensors", cache_dir=tmp_path / "cache")
        assert Path(path).read_bytes() == b"w" * 4000


def test_kill_9_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """Commits from several threads, killed in the middle: what got an answer is there, whole and readable."""
    answered: list[tuple[int, str]] = []
    with localhub.running(tmp_path) as server:
        HfApi(endpoint=server.url, token=server.token).create_repo("a/b")

        def commit(n: int) -> None:
            body = b'{"key": "header", "value": {"summary": "c"}}\n'
            body += b'{"key": "file", "value": {"path": "%d.txt", "content": "content %d"}}' % (n, n)
            try:
                answer = ask(server.url, "POST", "/api/models/a/b/commit/main", token=server.token, body=body)
            except (OSError, http.client.HTTPException):
                return
            answered.append((n, str(answer.json["commitOid"])))

        def work(worker: int) -> None:
            for n in range(worker, 4000, 4):
                if gone(server.pid):
                    return
                commit(n)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        while len(answered) < 25:
            time.sleep(0.005)
        os.kill(server.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    with sqlite3.connect(tmp_path / "hub.sqlite3") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    with localhub.running(tmp_path) as server:
        api = HfApi(endpoint=server.url, token=server.token)
        history = {commit.commit_id for commit in api.list_repo_commits("a/b")}
        assert {oid for _, oid in answered} <= history
        for n, _ in answered:
            assert ask(server.url, "GET", f"/a/b/resolve/main/{n}.txt").body == b"content %d" % n
        assert len(api.list_repo_files("a/b")) == len(history)


def test_kill_9_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    content = os.urandom(2_000_000)
    digest = hashlib.sha256(content).hexdigest()
    body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": digest, "size": len(content)}]}
    with localhub.running(tmp_path) as server:
        HfApi(endpoint=server.url, token=server.token).create_repo("a/b")
        batch = ask(server.url, "POST", "/a/b.git/info/lfs/objects/batch", token=server.token, body=body)
        href = batch.json["objects"][0]["actions"]["upload"]["href"]  # type: ignore[index]
        parts = urlsplit(href)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        connection.putrequest("PUT", parts.path)
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content[:1_500_000])
        while not any(path.stat().st_size for path in (tmp_path / "unfinished").iterdir()):
            time.sleep(0.01)
        os.kill(server.pid, signal.SIGKILL)
        connection.close()
    with localhub.running(tmp_path) as server:
        assert list((tmp_path / "unfinished").iterdir()) == [], "cleaned up at the start"
        batch = ask(server.url, "POST", "/a/b.git/info/lfs/objects/batch", token=server.token, body=body)
        href = batch.json["objects"][0]["actions"]["upload"]["href"]  # type: ignore[index]
        assert ask(server.url, "PUT", urlsplit(href).path, body=content).status == 200
        api = HfApi(endpoint=server.url, token=server.token)
        api.create_commit("a/b", [CommitOperationAdd("w.safetensors", content)], commit_message="w")
        assert ask(server.url, "GET", "/a/b/resolve/main/w.safetensors").body == content


def test_an_upload_before_the_crash_need_not_be_sent_again(tmp_path: Path) -> None:
    """Weights go up first, then one commit names them: a break in between costs no second upload."""
    operation = CommitOperationAdd("w.safetensors", os.urandom(50_000))
    with localhub.running(tmp_path) as server:
        api = HfApi(endpoint=server.url, token=server.token)
        api.create_repo("a/b")
        api.preupload_lfs_files("a/b", [operation])
        os.kill(server.pid, signal.SIGKILL)
    with localhub.running(tmp_path) as server:
        digest = operation.upload_info.sha256.hex()
        body = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": digest, "size": 50_000}]}
        batch = ask(server.url, "POST", "/a/b.git/info/lfs/objects/batch", token=server.token, body=body)
        assert "actions" not in batch.json["objects"][0]  # type: ignore[index]


def test_deleted_repos_give_their_space_back(tmp_path: Path) -> None:
    content = os.urandom(10_000)
    stored = (
        tmp_path / "blobs" / hashlib.sha256(content).hexdigest()[:2] / hashlib.sha256(content).hexdigest()
    )
    with localhub.running(tmp_path) as server:
        api = HfApi(endpoint=server.url, token=server.token)
        for name in ("a/one", "a/two"):
            api.create_repo(name)
            api.create_commit(name, [CommitOperationAdd("w.safetensors", content)], commit_message="w")
        api.delete_repo("a/one")
    with localhub.running(tmp_path) as server:
        assert stored.is_file(), "the other repo has it"
        HfApi(endpoint=server.url, token=server.token).delete_repo("a/two")
    with localhub.running(tmp_path):
        assert not stored.exists()


def test_one_server_a_folder(tmp_path: Path) -> None:
    with localhub.running(tmp_path) as server:
        with (
            pytest.raises(
                RuntimeError, match=rf"another embedded Hub serves this folder \(process {server.pid}\)"
            ),
            localhub.running(tmp_path),
        ):
            pass
        with pytest.raises(FolderBusyError, match="another embedded Hub"):
            localhub.serve(tmp_path)
        assert localhub.probe(server.url), "the first one goes on"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}") as refused:
            localhub.serve(tmp_path, port=port)
        assert not isinstance(refused.value, FolderBusyError)


def test_other_hosts_are_refused_unless_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"refusing to bind 0\.0\.0\.0"):
        localhub.serve(tmp_path, host="0.0.0.0")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with localhub.running(tmp_path):
        pass
    db = sqlite3.connect(tmp_path / "hub.sqlite3")
    db.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    db.commit()
    db.close()
    with pytest.raises(OSError, match="another version of the embedded Hub"):
        localhub.serve(tmp_path)


def test_serve_in_a_thread_can_be_stopped(tmp_path: Path) -> None:
    urls: list[str] = []
    stops: list = []
    listening = threading.Event()

    def ready(url: str) -> None:
        urls.append(url)
        listening.set()

    thread = threading.Thread(
        target=localhub.serve, args=(tmp_path,), kwargs={"ready": ready, "stopper": stops.append}
    )
    thread.start()
    assert listening.wait(20)
    assert localhub.probe(urls[0])
    stops[0]()
    thread.join(20)
    assert not thread.is_alive()
    assert not localhub.probe(urls[0])


def test_running_stops_its_process_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), localhub.running(tmp_path) as server:
        raise KeyError("something else")
    assert gone(server.pid)


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from bot import localhub\n"
        "with localhub.running(Path(sys.argv[1])) as server:\n"
        "    print(server.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_the_command_line(tmp_path: Path, sign: signal.Signals) -> None:
    command = [sys.executable, "-m", "bot.localhub", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            said = [child.stdout.readline() for _ in range(5)]
            url = said[0].split()[-1]
            assert "not the Hugging Face Hub" in said[0]
            assert f"export HF_ENDPOINT={url}" in said[1]
            assert f"export HF_TOKEN={localhub.DEFAULT_TOKEN}" in said[2]
            assert localhub.probe(url)
            child.send_signal(sign)
            assert child.wait(10) == 0
        finally:
            child.kill()


def test_probe_asks_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    original = socket.socket.connect
    monkeypatch.setattr(
        socket.socket, "connect", lambda self, address: asked.append(address) or original(self, address)
    )
    for url in (
        "https://example.org",
        "http://example.org:80",
        "http://10.0.0.1",
        "ftp://127.0.0.1",
        "",
        "http://",
    ):
        assert localhub.probe(url) is False
    assert asked == []
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert localhub.probe(f"http://127.0.0.1:{silent.getsockname()[1]}") is False
    with localhub.running(tmp_path) as server:
        assert localhub.probe(server.url) is True
        assert localhub.probe(server.url.replace("127.0.0.1", "localhost")) is True
