"""A Hub to hold the client's contract against: the embedded one, or the real one where a token is given.

Set `RELEASE_BOT_TEST_HUB_TOKEN` (a write token of a throw-away account) to run the tests that take the `hub`
fixture against the real Hub as well; all repos they make are private, randomly named and deleted. Tests that
take `embedded` look at what only the embedded Hub promises, and never leave this machine.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi, constants

from bot import localhub

REAL_TOKEN = os.environ.get("RELEASE_BOT_TEST_HUB_TOKEN")
SMALL_LIMITS = ("--multipart-bytes", "3000000", "--part-bytes", "1000000", "--webhook-retry-s", "0.05")
ROOT_USER = "hf_test_root"
ACCOUNTS = f"""
users:
  root: {{admin: true}}
  alice: {{fullname: Alice}}
  bob: {{fullname: Bob}}
  carol: {{}}
  eve: {{}}
orgs:
  acme: {{members: {{alice: admin, bob: read, carol: contributor}}}}
tokens:
  - {{token: {ROOT_USER}, user: root}}
  - {{token: hf_alice, user: alice}}
  - {{token: hf_alice_read, user: alice, scopes: [read]}}
  - {{token: hf_bob, user: bob}}
  - {{token: hf_carol, user: carol}}
  - {{token: hf_eve, user: eve}}
  - {{token: hf_prepare, user: alice, name: prepare, scopes: [create], repos: ["acme/*"]}}
  - {{token: hf_gpu, user: alice, name: gpu job, scopes: [contribute], repos: ["acme/release"]}}
  - {{token: hf_publish, user: alice, name: publish, scopes: [write], repos: ["acme/release"]}}
  - {{token: hf_shelf, user: alice, name: shelf, scopes: [collections]}}
  - {{token: hf_shelf_proposes, user: alice, name: curator, scopes: [collections, contribute]}}
"""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """An endpoint, a token that may make repos under `namespace`, and a client for both."""

    endpoint: str
    token: str
    namespace: str
    is_real: bool
    pid: int = 0
    root: Path = Path()

    @property
    def api(self) -> HfApi:
        return self.as_token(self.token)

    def as_token(self, token: str | bool) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=token)

    def name(self) -> str:
        return f"{self.namespace}/contract-{secrets.token_hex(6)}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        return json.loads(self.body)


def ask(
    endpoint: str, method: str, path: str, *, token: str | None = None, body: object = None, **headers: str
) -> Answer:
    """One HTTP request exactly as given: no client library in between to be kind about it."""
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return Answer(
            status=answer.status,
            headers={name.lower(): value for name, value in answer.getheaders()},
            body=answer.read(),
        )
    finally:
        connection.close()


@pytest.fixture(scope="session")
def without_xet() -> Iterator[None]:
    """The embedded Hub has no Xet storage; the variable is read when the client is imported, so set both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory, without_xet: None) -> Iterator[Hub]:
    """An embedded Hub with the default accounts, shared by the tests of a session."""
    root = tmp_path_factory.mktemp("hub")
    with localhub.running(root, options=SMALL_LIMITS) as server:
        yield Hub(
            endpoint=server.url,
            token=server.token,
            namespace="release-bot",
            is_real=False,
            pid=server.pid,
            root=root,
        )


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory, without_xet: None) -> Iterator[Hub]:
    """An embedded Hub with users, roles and scoped tokens."""
    root = tmp_path_factory.mktemp("guarded")
    accounts = root / "accounts.yaml"
    accounts.write_text(ACCOUNTS)
    with localhub.running(root / "data", accounts=accounts, token=ROOT_USER, options=SMALL_LIMITS) as server:
        yield Hub(endpoint=server.url, token=server.token, namespace="acme", is_real=False, pid=server.pid)


@pytest.fixture(scope="session", params=["embedded", "real"] if REAL_TOKEN else ["embedded"])
def hub(request: pytest.FixtureRequest) -> Hub:
    """Either Hub, for what both must do alike."""
    if request.param == "embedded":
        return request.getfixturevalue("embedded")
    namespace = HfApi(token=REAL_TOKEN).whoami()["name"]
    return Hub(endpoint=constants.ENDPOINT, token=REAL_TOKEN, namespace=namespace, is_real=True)


@pytest.fixture
def make_repo(hub: Hub) -> Iterator[Callable[..., str]]:
    """Makes private repos, and deletes them whatever the test does."""
    made: list[tuple[str, str]] = []

    def make(repo_type: str = "model", *, private: bool = True) -> str:
        name = hub.name()
        made.append((name, repo_type))
        hub.api.create_repo(name, repo_type=repo_type, private=private)
        return name

    yield make
    for name, repo_type in made:
        hub.api.delete_repo(name, repo_type=repo_type, missing_ok=True)


@pytest.fixture
def repo(make_repo: Callable[..., str]) -> str:
    return make_repo()
