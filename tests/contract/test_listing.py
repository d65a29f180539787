"""Listing an author: what is read of an entry, what is refused, and a Hub that fails or lies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bot.config import Watch
from bot.edges import listing
from bot.edges.hub import Hub
from bot.edges.state_folder import FolderState
from bot.errors import InfrastructureError, InputError
from bot.state import Roster, Step, Tracked, load, save, watched_path
from bot.watch import watch

pytestmark = pytest.mark.contract
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def entry(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "_id": f"id-{name}",
        "id": f"Qwen/{name}",
        "sha": "a" * 40,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": ["safetensors"],
        "config": {"model_type": "qwen3_5", "architectures": ["X"]},
        "safetensors": {"total": 12, "parameters": {"BF16": 12}},
        **fields,
    }


class Fake:
    """A Hub whose answers a test writes: status, headers and body for each request in turn."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], Any]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.port = 0

    def list(self, *entries: Any, **headers: str) -> None:
        self.answers.append((200, headers, [*entries]))

    def fail(self, status: int, **headers: str) -> None:
        self.answers.append((status, headers, {"error": "no"}))

    @property
    def hub(self) -> Hub:
        return Hub(embedded=False, endpoint=f"http://127.0.0.1:{self.port}", token="hf_secret")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    found = Fake()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers.get("Authorization")))
            status, headers, body = found.answers[0] if len(found.answers) == 1 else found.answers.pop(0)
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_a_listing_tells(fake: Fake):
    fake.list(
        entry("a"), entry("b", gated="manual", config={"quantization_config": {"bits": 4}}, safetensors=None)
    )
    found = listing.models_of(fake.hub, "Qwen")
    a, b = found.models["Qwen/a"], found.models["Qwen/b"]
    assert (a.model_type, a.num_parameters, a.quantized, a.gated) == ("qwen3_5", 12, False, False)
    assert (b.model_type, b.num_parameters, b.quantized, b.gated) == (None, None, True, True)
    assert a.modified_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert found.num_calls == 1


@pytest.mark.parametrize(
    "bad",
    [
        "x",
        None,
        7,
        [],
        {},
        {"id": 3},
        entry("../../etc"),
        entry("a--b"),
        entry("a b"),
        entry("x\n::set-output"),
        entry("`id`"),
        entry("$(id)"),
        entry("<img>"),
        {**entry("a"), "id": "Other/a"},
        {**entry("a"), "id": "Qwen"},
        entry("a", sha=None),
        entry("a", sha="main"),
        entry("a", sha="A" * 40),
        entry("x" * 200),
    ],
)
def test_an_entry_that_is_none_is_told_and_left_out(fake: Fake, bad: Any):
    fake.list(bad, entry("good"))
    found = listing.models_of(fake.hub, "Qwen")
    assert list(found.models) == ["Qwen/good"]
    ((name, why),) = found.unreadable
    assert why
    assert "\n" not in why
    assert "\x1b" not in name


@pytest.mark.parametrize(
    "odd",
    [
        {"lastModified": "soon"},
        {"lastModified": 3},
        {"tags": "x"},
        {"tags": [{}, 3, "\x1b[31m", "a" * 999]},
        {"config": []},
        {"config": {"model_type": {"a": 1}, "architectures": "x"}},
        {"safetensors": {"total": "9"}},
        {"safetensors": {"total": -1}},
        {"safetensors": {"total": True}},
        {"_id": 5},
    ],
)
def test_an_odd_field_is_no_fact(fake: Fake, odd: dict[str, Any]):
    fake.list(entry("a", **odd))
    found = listing.models_of(fake.hub, "Qwen").models["Qwen/a"]
    name = {"lastModified": "modified_at", "_id": "hub_id"}.get(next(iter(odd)))
    if name:
        assert not getattr(found, name)
    elif "tags" in odd:
        assert found.tags == ()
    elif "safetensors" in odd:
        assert found.num_parameters is None
    else:
        assert (found.model_type, found.architectures) == (None, ())


def test_what_does_not_say_that_it_is_public_is_taken_for_private(fake: Fake):
    fake.list(entry("a", private=None))
    assert listing.models_of(fake.hub, "Qwen").models["Qwen/a"].private


def test_pages_are_followed_on_the_same_hub_only(fake: Fake):
    there = f"http://127.0.0.1:{fake.port}/api/models?cursor=1"
    fake.list(entry("a"), Link=f'<{there}>; rel="next"')
    fake.list(entry("b"))
    found = listing.models_of(fake.hub, "Qwen")
    assert (list(found.models), found.num_calls) == (["Qwen/a", "Qwen/b"], 2)
    fake.answers.clear()
    fake.list(entry("a"), Link=f'<http://localhost:{fake.port}/api/models>; rel="next"')
    with pytest.raises(InputError, match="another address"):
        listing.models_of(fake.hub, "Qwen")
    assert len(fake.asked) == 3


def test_a_listing_without_an_end_is_refused(fake: Fake):
    fake.list(entry("a"), Link=f'<http://127.0.0.1:{fake.port}/api/models?cursor=1>; rel="next"')
    with pytest.raises(InputError, match="more than 50 pages"):
        listing.models_of(fake.hub, "Qwen")
    assert len(fake.asked) == listing.MAX_PAGES


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, InputError),
        (403, InputError),
        (404, InputError),
        (429, InfrastructureError),
        (500, InfrastructureError),
        (503, InfrastructureError),
    ],
)
def test_a_failing_hub_in_the_bots_terms(fake: Fake, status: int, expected: type[Exception]):
    fake.fail(status, X_Error_Code="RepoNotFound" if status == 404 else "")
    with pytest.raises(expected) as failure:
        listing.models_of(fake.hub, "Qwen")
    assert "hf_secret" not in str(failure.value)


def test_a_busy_hub_is_asked_again(fake: Fake):
    fake.fail(429, Retry_After="1")
    fake.list(entry("a"))
    assert list(listing.models_of(fake.hub, "Qwen").models) == ["Qwen/a"]


# ── a tick over it ─────────────────────────────────────────────────────────────────────────


def tracked(name: str) -> Tracked:
    return Tracked(
        repo_id=f"Qwen/{name}",
        hub_id=f"id-{name}",
        revision="a" * 40,
        modified_at=None,
        model_type="qwen3_5",
        architectures=["X"],
        num_parameters=12,
        gone=None,
        steps=[Step(repo_id=f"Qwen/{name}", revision="a" * 40, kind="weights")],
    )


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    found = FolderState(tmp_path)
    save(
        found,
        watched_path("Qwen"),
        Roster(author="Qwen", bases=[tracked(c) for c in "abcdefgh"]),
        version=None,
    )
    return found


def test_a_listing_that_lost_most_models_is_not_believed_at_once(fake: Fake, state: FolderState):
    before, _ = load(state, watched_path("Qwen"), Roster)
    fake.list(entry("a"), entry("b"))
    found = watch(Watch(), fake.hub, state, now=NOW)
    assert (found.bases, found.failed) == ([], [])
    ((code, reason),) = [(each.code, each.reason) for each in found.skipped]
    assert code == "shrunk"
    assert "6 of 8 bases are missing" in reason
    assert len(fake.asked) == 1
    after, _ = load(state, watched_path("Qwen"), Roster)
    assert after.bases == before.bases
    assert after.shrunk.num_seen == 1


def test_one_failing_author_leaves_the_others_alone(fake: Fake, state: FolderState):
    fake.fail(404)
    fake.list(*(entry(c) for c in "abcdefgh"))
    found = watch(Watch(authors=["Nobody", "Qwen"]), fake.hub, state, now=NOW)
    assert [each.repo_id for each in found.failed] == ["Nobody"]
    assert len(found.bases) == 8


def test_one_failing_base_leaves_the_others_alone_and_stays_as_it_was(fake: Fake, state: FolderState):
    changed = entry("a", sha="b" * 40)
    fake.list(changed, *(entry(c) for c in "bcdefgh"))
    fake.fail(403)
    found = watch(Watch(), fake.hub, state, now=NOW)
    assert [each.repo_id for each in found.failed] == ["Qwen/a"]
    assert len(found.bases) == 7
    roster, _ = load(state, watched_path("Qwen"), Roster)
    assert [each for each in roster.bases if each.repo_id == "Qwen/a"] == [tracked("a")]


def test_a_stale_entry_changes_nothing(fake: Fake, state: FolderState):
    """The listing is behind; the base's own answer is what was recorded already."""
    fake.list(entry("a", sha="0" * 40), *(entry(c) for c in "bcdefgh"))
    siblings = [{"rfilename": "model.safetensors", "size": 1, "blobId": "1" * 40}]
    fake.answers.append((200, {}, {**entry("a"), "siblings": siblings}))
    found = watch(Watch(), fake.hub, state, now=NOW)
    assert [(each.kind, each.revision) for each in found.changes] == [("unknown", "a" * 40)]
    roster, _ = load(state, watched_path("Qwen"), Roster)
    assert roster.bases[0].revision == "a" * 40


@pytest.mark.parametrize(
    "odd", [[], "x", {"id": "Qwen/a"}, {**entry("a"), "siblings": [{}]}, entry("a", sha="x")]
)
def test_an_answer_that_is_none_fails_that_base_only(fake: Fake, state: FolderState, odd: Any):
    fake.list(entry("a", sha="b" * 40), *(entry(c) for c in "bcdefgh"))
    fake.answers.append((200, {}, odd))
    found = watch(Watch(), fake.hub, state, now=NOW)
    told = [*found.failed, *found.skipped]
    assert [each.repo_id for each in told] == ["Qwen/a"]
    assert len(found.bases) == 7


def test_a_missing_model_that_is_there_keeps_its_place(fake: Fake, state: FolderState):
    fake.list(*(entry(c) for c in "bcdefgh"))
    fake.answers.append((200, {}, {**entry("a"), "siblings": []}))
    found = watch(Watch(), fake.hub, state, now=NOW)
    assert [(each.repo_id, each.code) for each in found.skipped] == [("Qwen/a", "unlisted")]
    assert len(load(state, watched_path("Qwen"), Roster)[0].bases) == 8
