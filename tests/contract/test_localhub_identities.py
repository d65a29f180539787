"""The publisher's identity: a Trusted Publisher's token through the real client, and what it cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import idtokens
import jwt
import pytest
from contract.conftest import ROOT_USER, Hub, ask
from cryptography.hazmat.primitives.asymmetric import rsa
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub._oidc import exchange_oidc_token, oidc_login
from huggingface_hub.errors import HfHubHTTPError
from idtokens import Issuer

from bot import localhub
from bot.edges import hub as edge
from bot.errors import NoPublisher
from bot.localhub import oidc

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with idtokens.serve() as found:
        yield found


@pytest.fixture(scope="module")
def published(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory, without_xet: None) -> Iterator[Hub]:
    """A Hub with a publisher of `acme/release`, and one of `acme/brief` whose tokens last a second."""
    root = tmp_path_factory.mktemp("published")
    accounts = {
        "users": {"root": {"admin": True}, "alice": {}},
        "orgs": {"acme": {"members": {"alice": "admin"}}},
        "tokens": [{"token": ROOT_USER, "user": "root"}, {"token": "hf_alice", "user": "alice"}],
        "publishers": [issuer.publisher("acme/release"), issuer.publisher("acme/brief", lifetime_s=1)],
    }
    path = root / "accounts.yaml"
    path.write_text(json.dumps(accounts))
    with localhub.running(root / "data", accounts=path, token=ROOT_USER) as server:
        yield Hub(endpoint=server.url, token=ROOT_USER, namespace="acme", is_real=False, pid=server.pid)


@pytest.fixture
def release(published: Hub) -> Hub:
    """A fresh private `acme/release` with an open pull request of somebody else's."""
    for name in ("release", "other"):
        published.api.delete_repo(f"acme/{name}", missing_ok=True)
        published.api.create_repo(f"acme/{name}", private=True)
    weights = CommitOperationAdd("model.safetensors", b"w" * 3000)
    published.as_token("hf_alice").create_commit(
        "acme/release", [weights], commit_message="weights", create_pr=True
    )
    return published


def status(call: Callable[[], object]) -> int:
    try:
        call()
    except HfHubHTTPError as error:
        return error.response.status_code
    return 200


def login(hub: Hub, issuer: Issuer, resource: str = "acme/release", **changes: object) -> HfApi:
    """A client with the token that the exchange gives, through the client's own code."""
    subject = issuer.token(hub.endpoint, **changes)
    result = exchange_oidc_token(subject_token=subject, resource=resource, endpoint=hub.endpoint)
    assert result["token_type"] == "bearer"
    return hub.as_token(result["access_token"])


def test_the_publisher_can_do_all_of_its_part(release: Hub, issuer: Issuer) -> None:
    api = login(release, issuer)
    card = CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n# card\n")
    api.create_commit("acme/release", [card], commit_message="card", revision="refs/pr/1")
    api.merge_pull_request("acme/release", 1, comment="published")
    api.create_tag("acme/release", tag="v1")
    api.update_repo_settings("acme/release", visibility="public")
    assert not release.as_token(False).model_info("acme/release").private
    last = api.list_repo_commits("acme/release")[0]
    assert "[OIDC]" in last.authors, "it writes in nobody's name"


def test_the_publisher_can_do_nothing_else(release: Hub, issuer: Issuer) -> None:
    api = login(release, issuer)
    content = [CommitOperationAdd("x", b"x")]
    refused = {
        "create": lambda: api.create_repo("acme/new", private=True),
        "create elsewhere": lambda: api.create_repo("alice/new", private=True),
        "delete": lambda: api.delete_repo("acme/release"),
        "move": lambda: api.move_repo("acme/release", "acme/elsewhere"),
        "collection": lambda: api.create_collection("c", namespace="acme"),
        "webhook": lambda: api.create_webhook(
            url="http://127.0.0.1:9/", watched=[{"type": "org", "name": "acme"}]
        ),
        "job": lambda: api.run_job(image="i", command=["true"], namespace="acme"),
    }
    assert {name: status(call) for name, call in refused.items()} == dict.fromkeys(refused, 403)
    assert status(lambda: api.model_info("acme/other")) == 404, "other private repos are not there"
    assert status(lambda: api.create_commit("acme/other", content, commit_message="x")) == 404
    assert release.api.repo_exists("acme/release")


@pytest.mark.parametrize(
    "changes",
    [
        {"repository": "mallory/bot"},
        {"ref": "refs/heads/main-backup"},
        {"ref": "refs/pull/1/merge"},
        {"environment": None},
        {"workflow_ref": "acme/bot/.github/workflows/ci.yml@refs/heads/main"},
        {"iss": "https://token.example.org"},
        {"aud": "https://huggingface.co"},
        {"exp": 1_700_000_000},
        {"exp": None},
    ],
    ids=str,
)
def test_a_claim_that_differs_is_refused_without_saying_which(
    release: Hub, issuer: Issuer, changes: dict[str, object]
) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        login(release, issuer, **changes)
    assert refused.value.response.status_code == 400
    assert refused.value.response.json() == {
        "error": "invalid_grant",
        "error_description": "No matching trusted publisher for this token",
    }


@pytest.mark.parametrize("resource", ["acme/other", "acme/absent", "datasets/acme/release", "acme", "", "/"])
def test_only_an_existing_repo_with_a_publisher_is_a_resource(
    release: Hub, issuer: Issuer, resource: str
) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        login(release, issuer, resource)
    assert refused.value.response.json()["error"] == "invalid_grant"


def test_forged_tokens_are_refused(release: Hub, issuer: Issuer) -> None:
    good = issuer.token(release.endpoint)
    head, claims, signature = good.split(".")
    content = jwt.decode(good, options={"verify_signature": False})
    strange = Issuer(url=issuer.url, key=rsa.generate_private_key(65537, 2048))
    modulus = issuer.jwk["n"]  # what is public must not serve as a shared secret
    forged = [
        strange.token(release.endpoint),
        f"{head}.{claims}.{signature[:-6]}AAAAAA",
        jwt.encode(content, None, algorithm="none", headers={"kid": "k1"}),
        jwt.encode(content, modulus, algorithm="HS256", headers={"kid": "k1"}),
        "not.a.token",
        "",
    ]
    for token in forged:
        body = {
            "grant_type": oidc.GRANT_TYPE,
            "subject_token_type": oidc.SUBJECT_TYPE,
            "subject_token": token,
            "resource": "acme/release",
        }
        answer = ask(release.endpoint, "POST", "/oauth/token", body=body)
        assert (answer.status, answer.json["error"]) == (400, "invalid_grant"), token


def test_another_grant_is_an_invalid_request(release: Hub) -> None:
    answer = ask(release.endpoint, "POST", "/oauth/token", body={"grant_type": "client_credentials"})
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


def test_a_token_ends_by_itself(release: Hub, issuer: Issuer) -> None:
    release.api.delete_repo("acme/brief", missing_ok=True)
    release.api.create_repo("acme/brief", private=True)
    api = login(release, issuer, "acme/brief")
    deadline = time.monotonic() + 15
    while status(lambda: api.model_info("acme/brief")) == 200:
        assert time.monotonic() < deadline, "it never expired"
        time.sleep(0.1)
    assert status(lambda: api.model_info("acme/brief")) == 401


def test_the_client_mints_and_exchanges_by_itself(
    release: Hub, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in issuer.environment().items():
        monkeypatch.setenv(name, value)
    result = oidc_login(resource="acme/release", endpoint=release.endpoint)
    assert release.as_token(result["access_token"]).model_info("acme/release").private


PUBLISH = """
import sys
from pathlib import Path
from bot.edges import hub
from bot.errors import ReleaseBotError
embedded = hub.prepare_environment(Path(sys.argv[1]))
try:
    print(hub.Hub(embedded=embedded).state("acme/release").private)
except ReleaseBotError as e:
    print(type(e).__name__, e.exit_code)
"""


def in_a_job(release: Hub, issuer: Issuer, home: Path, **more: str) -> str:
    """What the bot's own edge sees as a job of the publish workflow, in a process of its own."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "GITHUB_", "ACTIONS_"))}
    environment = {**clean, **issuer.environment(), "HF_ENDPOINT": release.endpoint, **more}
    done = subprocess.run(
        [sys.executable, "-c", PUBLISH, str(home)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or done.stderr


def test_the_bot_publishes_with_oidc_before_any_token(release: Hub, issuer: Issuer, tmp_path: Path) -> None:
    """A token that lies about is not used: the identity is the publisher's, or none."""
    oidc_first = in_a_job(release, issuer, tmp_path, HF_OIDC_RESOURCE="acme/release", HF_TOKEN="hf_of_nobody")
    assert oidc_first == "True"
    fallback = in_a_job(release, issuer, tmp_path, HF_OIDC_RESOURCE="", HF_TOKEN="hf_alice")
    assert fallback == "True"


def test_no_publisher_yet_is_an_error_of_its_own(release: Hub, issuer: Issuer, tmp_path: Path) -> None:
    said = in_a_job(release, issuer, tmp_path, HF_OIDC_RESOURCE="acme/other", HF_TOKEN=ROOT_USER)
    assert said == "NoPublisher 7", "no quiet fallback to the token"
    with pytest.raises(NoPublisher), edge.translated("acme/other"):
        login(release, issuer, "acme/other")
