"""Repos as the client sees them: made, listed, described, renamed, deleted; refs and history."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from contract.conftest import REAL_TOKEN, Hub, ask
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

pytestmark = pytest.mark.contract
CARD = b"""---
license: apache-2.0
base_model: Qwen/Qwen3.5-4B
base_model_relation: quantized
tags: [nvfp4]
---
# Title
"""


@pytest.mark.skipif(not REAL_TOKEN, reason="no RELEASE_BOT_TEST_HUB_TOKEN: held to the embedded Hub only")
def test_the_real_hub_is_held_to_the_same(request: pytest.FixtureRequest) -> None:
    real = [item for item in request.session.items if "[real" in item.name]
    assert len(real) > 20


def test_whoami(hub: Hub) -> None:
    me = hub.api.whoami()
    assert me["name"] == hub.namespace
    assert me["type"] == "user"


def test_create_starts_with_one_commit(hub: Hub, repo: str) -> None:
    assert hub.api.list_repo_files(repo) == [".gitattributes"]
    assert [commit.title for commit in hub.api.list_repo_commits(repo)] == ["initial commit"]
    assert hub.api.model_info(repo).private is True


def test_create_twice(hub: Hub, repo: str) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api.create_repo(repo)
    assert refused.value.response.status_code == 409
    url = hub.api.create_repo(repo, exist_ok=True)
    assert url.repo_id == repo
    assert str(url) == f"{hub.endpoint}/{repo}"


@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_a_private_repo_is_absent_to_others(hub: Hub, make_repo: Callable[..., str], repo_type: str) -> None:
    name = make_repo(repo_type)
    stranger = hub.as_token(False)
    assert hub.api.repo_exists(name, repo_type=repo_type)
    assert not stranger.repo_exists(name, repo_type=repo_type)
    with pytest.raises(RepositoryNotFoundError):
        stranger.list_repo_files(name, repo_type=repo_type)
    with pytest.raises(RepositoryNotFoundError):
        hub.api.model_info(f"{hub.namespace}/never-was-here")


def test_settings_make_public(hub: Hub, repo: str) -> None:
    hub.api.update_repo_settings(repo, visibility="public")
    assert hub.as_token(False).model_info(repo).private is False
    hub.api.update_repo_settings(repo, visibility="private", gated="manual")
    info = hub.api.model_info(repo)
    assert (info.private, info.gated) == (True, "manual")


def test_delete(hub: Hub, repo: str) -> None:
    hub.api.delete_repo(repo)
    assert not hub.api.repo_exists(repo)
    with pytest.raises(RepositoryNotFoundError):
        hub.api.delete_repo(repo)


def test_move(hub: Hub, repo: str) -> None:
    new = hub.name()
    sha = hub.api.model_info(repo).sha
    hub.api.move_repo(repo, new)
    try:
        assert hub.api.model_info(new).sha == sha
        assert hub.api.model_info(repo).id == new, "the old name leads to the new one"
    finally:
        hub.api.delete_repo(new)


def test_metadata_becomes_tags_and_filters(hub: Hub, repo: str) -> None:
    hub.api.upload_file(repo_id=repo, path_in_repo="README.md", path_or_fileobj=CARD)
    info = hub.api.model_info(repo, expand=["cardData", "tags", "baseModels"])
    assert info.card_data is not None
    assert info.card_data.base_model == "Qwen/Qwen3.5-4B"
    assert {"nvfp4", "license:apache-2.0", "base_model:quantized:Qwen/Qwen3.5-4B"} <= set(info.tags or ())


def test_listing_filters_and_sorts(embedded: Hub) -> None:
    names = [f"Listed/model-{n}" for n in range(3)]
    for name in names:
        embedded.api.create_repo(name)
    for name in (names[0], names[2]):
        embedded.api.upload_file(repo_id=name, path_in_repo="README.md", path_or_fileobj=CARD)
    embedded.api.create_repo("Listed/secret", private=True)

    def listed(**query: object) -> list[str]:
        return [model.id for model in embedded.as_token(False).list_models(author="Listed", **query)]

    assert listed(sort="last_modified") == [names[2], names[0], names[1]]
    assert listed(sort="created_at") == names[::-1]
    assert sorted(listed(filter="base_model:quantized:Qwen/Qwen3.5-4B")) == [names[0], names[2]]
    assert sorted(listed(filter=["nvfp4", "license:mit"])) == []
    assert listed(search="MODEL-1") == [names[1]]
    assert listed(sort="created_at", limit=2) == names[:0:-1]
    mine = [model.id for model in embedded.api.list_models(author="Listed")]
    assert "Listed/secret" in mine
    full = next(iter(embedded.api.list_models(author="Listed", search="model-0", full=True, cardData=True)))
    assert full.sha == embedded.api.model_info(names[0]).sha
    assert full.siblings is not None
    assert [file.rfilename for file in full.siblings] == [".gitattributes", "README.md"]
    expanded = next(
        iter(embedded.api.list_models(author="Listed", search="model-0", expand=["sha", "lastModified"]))
    )
    assert expanded.sha == full.sha
    assert expanded.tags is None


def test_listing_pages_by_link(embedded: Hub) -> None:
    for n in range(5):
        embedded.api.create_repo(f"Paged/model-{n}")
    seen: list[str] = []
    path = "/api/models?author=Paged&limit=2&sort=createdAt"
    pages = 0
    while path:
        answer = ask(embedded.endpoint, "GET", path)
        seen += [model["id"] for model in answer.json]  # type: ignore[index]
        link = answer.headers.get("link", "")
        path = link[link.index("<") + 1 : link.index(">")].removeprefix(embedded.endpoint) if link else ""
        pages += 1
    assert pages == 3
    assert seen == [f"Paged/model-{n}" for n in (4, 3, 2, 1, 0)]


def test_names_are_checked(embedded: Hub) -> None:
    for name in ("a/../b", "a/.hidden", "api/models", "a/b.git", "a/" + "x" * 200, "a/b c", "a/b--c"):
        organization, _, rest = name.partition("/")
        body = {"organization": organization, "name": rest, "type": "model"}
        answer = ask(embedded.endpoint, "POST", "/api/repos/create", token=embedded.token, body=body)
        assert answer.status == 400, name
    body = {"organization": "a", "name": "b", "type": "toaster"}
    assert ask(embedded.endpoint, "POST", "/api/repos/create", token=embedded.token, body=body).status == 400


def test_names_differ_by_more_than_case(embedded: Hub) -> None:
    embedded.api.create_repo("Cased/Model")
    with pytest.raises(HfHubHTTPError) as refused:
        embedded.api.create_repo("cased/model")
    assert refused.value.response.status_code == 409


def test_branches_and_tags(hub: Hub, repo: str) -> None:
    first = hub.api.model_info(repo).sha
    hub.api.create_branch(repo, branch="work/one")
    hub.api.create_commit(
        repo, [CommitOperationAdd("a.txt", b"one")], commit_message="on a branch", revision="work/one"
    )
    hub.api.create_tag(repo, tag="v1", tag_message="first", revision="work/one")
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api.create_tag(repo, tag="v1")
    assert refused.value.response.status_code == 409
    hub.api.create_tag(repo, tag="v1", exist_ok=True)
    refs = hub.api.list_repo_refs(repo)
    assert {branch.name for branch in refs.branches} == {"main", "work/one"}
    assert [(tag.name, tag.ref) for tag in refs.tags] == [("v1", "refs/tags/v1")]
    assert hub.api.model_info(repo).sha == first
    assert hub.api.model_info(repo, revision="v1").sha == refs.tags[0].target_commit != first
    assert hub.api.list_repo_files(repo, revision="work/one") == [".gitattributes", "a.txt"]
    hub.api.delete_branch(repo, branch="work/one")
    hub.api.delete_tag(repo, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        hub.api.model_info(repo, revision="v1")


def test_history(hub: Hub, repo: str) -> None:
    for n in range(3):
        hub.api.create_commit(
            repo,
            [CommitOperationAdd("n.txt", str(n).encode())],
            commit_message=f"n is {n}",
            commit_description="why",
        )
    commits = hub.api.list_repo_commits(repo)
    assert [commit.title for commit in commits] == ["n is 2", "n is 1", "n is 0", "initial commit"]
    assert commits[0].message == "why"
    assert commits[0].authors == [hub.namespace]
    assert commits[0].commit_id == hub.api.model_info(repo).sha
    old = hub.api.list_repo_commits(repo, revision=commits[1].commit_id)
    assert [commit.title for commit in old] == ["n is 1", "n is 0", "initial commit"]


def test_a_wrong_card_is_refused_before_anything_is_sent(hub: Hub, repo: str) -> None:
    sha = hub.api.model_info(repo).sha
    with pytest.raises(ValueError, match="Invalid metadata"):
        hub.api.upload_file(repo_id=repo, path_in_repo="README.md", path_or_fileobj=b"---\nlicense: [\n---\n")
    assert hub.api.model_info(repo).sha == sha


def test_super_squash(hub: Hub, repo: str) -> None:
    hub.api.create_commit(repo, [CommitOperationAdd("a.txt", b"a")], commit_message="a")
    hub.api.super_squash_history(repo, commit_message="all in one")
    assert [commit.title for commit in hub.api.list_repo_commits(repo)] == ["all in one"]
    assert "a.txt" in hub.api.list_repo_files(repo)


def test_a_space(hub: Hub) -> None:
    name = hub.name()
    hub.api.create_repo(name, repo_type="space", space_sdk="static", private=True)
    try:
        hub.api.upload_file(repo_id=name, repo_type="space", path_in_repo="a.txt", path_or_fileobj=b"a")
        assert hub.api.space_info(name).sdk == "static"
        assert "a.txt" in hub.api.list_repo_files(name, repo_type="space")
    finally:
        hub.api.delete_repo(name, repo_type="space")
