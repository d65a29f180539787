"""A release through its four identities: each stage with the token of its own job, and no other's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import idtokens
import pytest
from contract.test_publish import Case
from huggingface_hub._oidc import exchange_oidc_token
from idtokens import Issuer

from bot import localhub, repo
from bot.edges.hub import Hub
from bot.errors import InputError, NoPublisher, ReleaseBotError
from bot.models import UploadEvidence
from bot.stages import upload

pytestmark = pytest.mark.contract
ORGANIZATION = "release-bot"


@dataclass(frozen=True, kw_only=True)
class Place:
    """An embedded Hub whose accounts are set up as docs/identities.md says, and GitHub's issuer."""

    endpoint: str
    issuer: Issuer

    def as_token(self, token: str) -> Hub:
        return Hub(embedded=True, endpoint=self.endpoint, token=token)

    def publisher(self, repo: str) -> Hub:
        """The publish job's: no token is stored, one is exchanged. Raises NoPublisher."""
        from bot.edges.hub import translated

        subject = self.issuer.token(self.endpoint)
        with translated(repo):
            got = exchange_oidc_token(subject_token=subject, resource=repo, endpoint=self.endpoint)
        return self.as_token(got["access_token"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, without_xet: None) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("identities")
    pattern = [f"{ORGANIZATION}/*"]
    with idtokens.serve() as issuer:
        accounts = {
            "users": {"root": {"admin": True}, "preparer": {}, "builder": {}, "curator": {}},
            "orgs": {
                ORGANIZATION: {"members": {"preparer": "contributor", "builder": "read", "curator": "write"}}
            },
            "tokens": [
                {"token": "hf_root", "user": "root"},
                {"token": "hf_prepare", "user": "preparer", "scopes": ["create"], "repos": pattern},
                {"token": "hf_build", "user": "builder", "scopes": ["contribute"], "repos": pattern},
                {"token": "hf_curate", "user": "curator", "scopes": ["collections"]},
            ],
            "publishers": [issuer.publisher(f"{ORGANIZATION}/*-4bit")],
        }
        path = folder / "accounts.json"
        path.write_text(json.dumps(accounts))
        with localhub.running(folder / "data", accounts=path, token="hf_root") as running:
            yield Place(endpoint=running.url, issuer=issuer)


@pytest.fixture
def case(place: Place, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
    return Case(place.as_token("hf_root"), tmp_path, request.node.name[5:65].strip("_]").replace("[", "-"))


def staged(case: Case, place: Place) -> UploadEvidence:
    """What `prepare` and `build` leave: the private repo, and the weights in a pull request."""
    place.as_token("hf_prepare").create_private(case.repo)
    build = place.as_token("hf_build")
    return upload.upload(case.release, case.files(), inputs_digest="0" * 64, hub=build)


def test_a_release_needs_all_four(case: Case, place: Place) -> None:
    uploaded = staged(case, place)
    publisher = place.publisher(case.repo)
    found, steps = case.publish(uploaded, hub=publisher)
    assert found.public
    assert steps == ["card", "merge", "tag", "public", "collection"]
    assert found.collection is None, "the publisher keeps no collection"
    assert found.collection_error
    assert case.api.list_repo_commits(case.repo)[0].authors == ["[OIDC]"]
    slug = place.as_token("hf_curate").collect("Quantized", ORGANIZATION, case.repo)
    (item,) = case.api.get_collection(slug).items
    assert item.item_id == case.repo


def test_the_build_s_token_neither_creates_nor_publishes(case: Case, place: Place) -> None:
    """The one token that third-party code could reach."""
    build = place.as_token("hf_build")
    with pytest.raises(InputError, match="refused"):
        upload.upload(case.release, case.files(), inputs_digest="0" * 64, hub=build)
    assert not case.hub.exists(case.repo)
    uploaded = staged(case, place)
    with pytest.raises(ReleaseBotError):
        case.publish(uploaded, hub=build)
    with pytest.raises(InputError):
        build.merge(case.repo, uploaded.pr_num, comment="me")
    with pytest.raises(InputError):
        build.make_public(case.repo)
    with pytest.raises(InputError):
        build.collect("Quantized", ORGANIZATION, case.repo)
    state = case.hub.state(case.repo)
    assert state.private
    assert "model.safetensors" not in state.files, "main is as it was"


def test_a_retry_is_seen_by_prepare_and_staged_anew_by_build(case: Case, place: Place) -> None:
    """The two have accounts of their own, and both see what either staged: they are of one organization."""
    first = staged(case, place)
    build, prepare = place.as_token("hf_build"), place.as_token("hf_prepare")
    case.close(first)
    assert [each.status for each in prepare.pull_requests(case.repo)] == ["closed"]
    assert repo.other_base(prepare, case.repo, case.base_repo) is None
    assert upload.is_refused(case.release, build)
    assert upload.is_refused(case.release, prepare)
    upload.withdraw(case.release, build)
    assert not upload.is_refused(case.release, build)
    assert staged(case, place).pr_num > first.pr_num


@pytest.mark.parametrize("token", ["hf_prepare", "hf_curate"])
def test_prepare_and_curate_never_touch_weights(case: Case, place: Place, token: str) -> None:
    uploaded = staged(case, place)
    other = place.as_token(token)
    with pytest.raises(ReleaseBotError):
        case.publish(uploaded, hub=other)
    with pytest.raises(InputError):
        other.commit(
            case.repo,
            title="mine",
            add={"x": case.card / "README.md"},
            parent=case.hub.head(case.repo),
            create_pr=True,
        )
    assert case.hub.state(case.repo).private


def test_what_build_changes_after_review_is_not_published(case: Case, place: Place) -> None:
    """Its pull request is its own to push to: so the publisher believes the reviewed digests only."""
    uploaded = staged(case, place)
    (case.folder / "swapped").write_bytes(b"other weights" * 1000)
    place.as_token("hf_build").commit(
        case.repo,
        title="swapped",
        add={"model.safetensors": case.folder / "swapped"},
        revision=f"refs/pr/{uploaded.pr_num}",
        parent=uploaded.pr_head,
    )
    with pytest.raises(ReleaseBotError, match="changed"):
        case.publish(uploaded, hub=place.publisher(case.repo))
    assert case.hub.state(case.repo).private


def test_a_publisher_of_one_release_is_none_of_another(case: Case, place: Place) -> None:
    uploaded = staged(case, place)
    place.as_token("hf_root").create_private(f"{ORGANIZATION}/neighbour-4bit")
    neighbour = place.publisher(f"{ORGANIZATION}/neighbour-4bit")
    with pytest.raises(ReleaseBotError):
        case.publish(uploaded, hub=neighbour)
    assert case.hub.state(case.repo).private


def test_without_a_publisher_a_release_waits(case: Case, place: Place) -> None:
    staged(case, place)
    other = case.repo.replace("-4bit", "-8bit")
    place.as_token("hf_root").create_private(other)
    with pytest.raises(NoPublisher) as waiting:
        place.publisher(other)
    assert waiting.value.exit_code == 7
    assert "Trusted Publisher" in str(waiting.value)
