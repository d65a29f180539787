"""Which pull requests on the Hub are releases: any of ours, and no stranger's, whatever it claims."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cards import golden
from huggingface_hub import CommitOperationAdd

from bot import hubpulls, localhub, naming, repo, survey
from bot.edges.hub import Hub
from bot.errors import InfrastructureError, Refused
from bot.ledger import Pair, Records, Target, World
from bot.models import Release
from bot.stages import upload

pytestmark = pytest.mark.contract
ORG = "acme"
ACCOUNTS = {
    "users": {"root": {"admin": True}, "reader": {}, "builder": {}, "ann": {}, "eve": {}},
    "orgs": {ORG: {"members": {"reader": "read", "builder": "read", "ann": "write"}}},
    "tokens": [
        {"token": "hf_root", "user": "root"},
        {"token": "hf_reader", "user": "reader", "scopes": ["read"]},
        {"token": "hf_builder", "user": "builder", "scopes": ["contribute"], "repos": [f"{ORG}/*"]},
        {"token": "hf_ann", "user": "ann"},
        {"token": "hf_eve", "user": "eve"},
    ],
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("hubpulls")
    (folder / "accounts.json").write_text(json.dumps(ACCOUNTS))
    with localhub.running(folder / "data", accounts=folder / "accounts.json", token="hf_root") as running:
        yield running.url


class Case:
    """A release of one test's own, whose target is public: a stranger may open pull requests there."""

    def __init__(self, endpoint: str, folder: Path, name: str, namespace: str = ORG) -> None:
        self.endpoint, self.folder = endpoint, folder
        self.target = f"{namespace}/{name}"
        self.release = golden("nvfp4").release.model_copy(update={"target_repo": self.target})
        self.as_("root").api.create_repo(self.target)

    def as_(self, user: str) -> Hub:
        return Hub(embedded=True, endpoint=self.endpoint, token=f"hf_{user}")

    def stage(self, user: str, data: bytes = b"weights") -> int:
        """What `stages/upload.py` leaves, by this account; a stranger writes the same by hand."""
        release: Release = self.release
        title = naming.commit_title(release.key, release.base, release.recipe_name)
        operations = [CommitOperationAdd("model.safetensors", data)]
        made = self.as_(user).api.create_commit(self.target, operations, commit_message=title, create_pr=True)
        return int(made.pr_num)

    def planned(self, user: str) -> tuple[int, str] | None:
        """What planning sees staged, asked with this account's token."""
        target = Target(repo_id=self.target, private=False, keys=frozenset())
        empty = World(
            records=Records(), targets={self.target: target}, staged={}, cards={}, figures={}, hub_url=""
        )
        key = self.release.key
        pair = Pair(key=key, base="Qwen/x", revision="a" * 40, recipe="nvfp4", target_repo=self.target)
        found = survey.with_staged(empty, self.as_(user), [pair]).staged.get(key)
        return (found.number, found.status) if found else None


@pytest.fixture
def case(endpoint: str, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
    return Case(endpoint, tmp_path, request.node.name[5:60].strip("_]").replace("[", "-"))


@pytest.mark.parametrize("author", ["builder", "ann"])
@pytest.mark.parametrize("asks", ["reader", "builder"])
def test_a_release_is_found_whoever_of_us_staged_it(case: Case, author: str, asks: str):
    number = case.stage(author)
    assert case.planned(asks) == (number, "open")
    assert upload.standing(case.release, case.as_(asks)).num == number


def test_what_a_person_staged_is_not_uploaded_beside_it(case: Case):
    number = case.stage("ann")
    (case.folder / "weights").mkdir()
    (case.folder / "weights" / "model.safetensors").write_bytes(b"weights")
    files = repo.digests(case.folder / "weights", {})
    found = upload.upload(case.release, files, inputs_digest="0" * 64, hub=case.as_("builder"))
    assert found.pr_num == number
    assert len(list(case.as_("root").pull_requests(case.target))) == 1


def test_a_stranger_who_claims_a_key_neither_blocks_nor_fakes_nor_refuses_it(case: Case):
    first = case.stage("eve", b"evil")
    assert case.planned("reader") is None
    assert upload.standing(case.release, case.as_("builder")) is None
    number = case.stage("builder")
    later = case.stage("eve", b"evil")
    case.as_("eve").api.change_discussion_status(case.target, later, "closed")
    assert first < number < later
    assert case.planned("reader") == (number, "open")
    assert upload.standing(case.release, case.as_("builder")).num == number


def test_where_members_cannot_be_told_only_our_own_and_the_owner_s_count(endpoint: str, tmp_path: Path):
    case = Case(endpoint, tmp_path, "of-a-user", namespace="ann")
    case.stage("eve")
    number = case.stage("ann")
    assert case.planned("reader") == (number, "open")
    assert hubpulls.accounts(case.as_("reader"), "ann") == {"ann", "reader"}


def test_a_hub_that_fails_judges_no_claim(case: Case, monkeypatch: pytest.MonkeyPatch):
    """Taken for a stranger's, a release of ours would be made twice."""
    case.stage("builder")
    hub = case.as_("reader")

    def away(organization: str) -> set[str]:
        raise InfrastructureError("the Hub failed (503)")

    monkeypatch.setattr(hub, "members", away)
    with pytest.raises(InfrastructureError):
        hubpulls.staged(hub, [case.target])


def test_what_another_member_staged_is_withdrawn_by_them(case: Case):
    number = case.stage("ann")
    with pytest.raises(Refused, match=f"pull request {number} of ann holds release"):
        upload.withdraw(case.release, case.as_("builder"))
    assert case.planned("reader") == (number, "open")
    upload.withdraw(case.release, case.as_("ann"))
    assert case.planned("reader") is None
