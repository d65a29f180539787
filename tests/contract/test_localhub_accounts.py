"""Who may do what: roles, scopes, and the four identities that the design splits trust between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from contract.conftest import ROOT_USER, Hub, ask
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from bot import localhub
from bot.localhub import accounts

pytestmark = pytest.mark.contract


@pytest.fixture
def release(guarded: Hub) -> Hub:
    """A fresh private repo `acme/release`, the one that the scoped tokens are for."""
    guarded.api.delete_repo("acme/release", missing_ok=True)
    guarded.api.create_repo("acme/release", private=True)
    return guarded


def status(call: Callable[[], object]) -> int:
    """200 when it works, else the status it is refused with."""
    try:
        call()
    except HfHubHTTPError as error:
        return error.response.status_code
    return 200


def commit(api: HfApi, repo: str, **more: object):  # type: ignore[no-untyped-def]
    content = CommitOperationAdd("model.safetensors", b"w" * 3000)
    return api.create_commit(repo, [content], commit_message="weights", **more)


def test_the_four_identities(release: Hub) -> None:
    """Each can do its own part of a release and nothing of the others'."""
    root = release.api
    prepare, gpu, publish, shelf = (
        release.as_token(f"hf_{n}") for n in ("prepare", "gpu", "publish", "shelf")
    )
    root.delete_repo("acme/release")

    assert status(lambda: gpu.create_repo("acme/release", private=True)) == 403
    assert status(lambda: publish.create_repo("acme/release", private=True)) == 403
    assert status(lambda: shelf.create_repo("acme/release", private=True)) == 403
    assert status(lambda: prepare.create_repo("acme/release", private=True)) == 200
    assert status(lambda: prepare.create_repo("other/release", private=True)) == 403
    assert status(lambda: commit(prepare, "acme/release")) == 403
    assert status(lambda: commit(prepare, "acme/release", create_pr=True)) == 403
    assert status(lambda: prepare.update_repo_settings("acme/release", visibility="public")) == 403
    assert status(lambda: prepare.delete_repo("acme/release")) == 403

    pull = commit(gpu, "acme/release", create_pr=True)
    watched = [{"type": "org", "name": "acme"}]
    assert status(lambda: commit(gpu, "acme/release")) == 403
    assert status(lambda: gpu.merge_pull_request("acme/release", pull.pr_num)) == 403
    assert status(lambda: gpu.update_repo_settings("acme/release", visibility="public")) == 403
    assert status(lambda: gpu.create_tag("acme/release", tag="v1")) == 403
    assert status(lambda: gpu.create_branch("acme/release", branch="b")) == 403
    assert status(lambda: gpu.delete_repo("acme/release")) == 403
    assert status(lambda: gpu.create_collection("c", namespace="acme")) == 403
    assert status(lambda: gpu.create_webhook(url="http://127.0.0.1:9/", watched=watched)) == 403
    assert status(lambda: gpu.comment_discussion("acme/release", pull.pr_num, "done")) == 200
    more = CommitOperationAdd("more.txt", b"more")
    assert (
        status(
            lambda: gpu.create_commit(
                "acme/release", [more], commit_message="more", revision=pull.pr_revision
            )
        )
        == 200
    )

    assert status(lambda: publish.merge_pull_request("acme/release", pull.pr_num)) == 200
    assert status(lambda: publish.create_tag("acme/release", tag="v1")) == 200
    assert status(lambda: publish.update_repo_settings("acme/release", visibility="public")) == 200
    assert status(lambda: publish.create_collection("c", namespace="acme")) == 403
    assert status(lambda: publish.delete_repo("acme/release")) == 403
    assert status(lambda: publish.move_repo("acme/release", "acme/elsewhere")) == 403

    collection = shelf.create_collection("Releases", namespace="acme", exists_ok=True)
    assert status(lambda: shelf.add_collection_item(collection.slug, "acme/release", "model")) == 200
    assert status(lambda: commit(shelf, "acme/release", create_pr=True)) == 403
    shelf.delete_collection(collection.slug)


def test_a_token_for_one_repo_sees_no_other_private_one(release: Hub) -> None:
    release.api.create_repo("acme/other", private=True, exist_ok=True)
    gpu = release.as_token("hf_gpu")
    assert gpu.repo_exists("acme/release")
    assert not gpu.repo_exists("acme/other")
    assert release.as_token("hf_alice").repo_exists("acme/other")
    assert [m.id for m in gpu.list_models(author="acme") if m.private] == ["acme/release"]
    release.api.create_repo("acme/open", exist_ok=True)
    assert gpu.repo_exists("acme/open"), "what is public is everybody's to read"
    assert status(lambda: commit(gpu, "acme/open", create_pr=True)) == 403


def test_roles(release: Hub) -> None:
    bob, carol, stranger = (release.as_token(t) for t in ("hf_bob", "hf_carol", False))
    assert bob.repo_exists("acme/release")
    assert status(lambda: commit(bob, "acme/release")) == 403
    assert status(lambda: commit(bob, "acme/release", create_pr=True)) == 200
    assert status(lambda: bob.create_repo("acme/bobs")) == 403
    assert status(lambda: carol.create_repo("acme/carols", private=True)) == 200
    assert status(lambda: commit(carol, "acme/carols")) == 200
    assert status(lambda: commit(carol, "acme/release")) == 403
    assert status(lambda: carol.delete_repo("acme/carols")) == 403
    assert status(lambda: bob.create_repo("bob/own")) == 200
    assert status(lambda: commit(bob, "bob/own")) == 200
    assert status(lambda: commit(release.as_token("hf_alice"), "bob/own", create_pr=True)) == 200
    assert not stranger.repo_exists("acme/release")
    release.api.delete_repo("acme/carols")
    release.api.delete_repo("bob/own")


def test_reading_tokens_only_read(release: Hub) -> None:
    reader = release.as_token("hf_alice_read")
    assert reader.repo_exists("acme/release")
    for attempt in (
        lambda: commit(reader, "acme/release", create_pr=True),
        lambda: reader.create_repo("alice/x"),
        lambda: reader.create_discussion("acme/release", "t"),
        lambda: reader.create_tag("acme/release", tag="t"),
        lambda: reader.create_collection("c", namespace="alice"),
    ):
        assert status(attempt) == 403


def test_someone_elses_pull_request(release: Hub) -> None:
    pull = commit(release.as_token("hf_bob"), "acme/release", create_pr=True)
    carol = release.as_token("hf_carol")
    more = CommitOperationAdd("x", b"x")
    assert (
        status(
            lambda: carol.create_commit("acme/release", [more], commit_message="x", revision=pull.pr_revision)
        )
        == 403
    )
    assert status(lambda: carol.change_discussion_status("acme/release", pull.pr_num, "closed")) == 403
    alice = release.as_token("hf_alice")
    assert (
        status(
            lambda: alice.create_commit("acme/release", [more], commit_message="x", revision=pull.pr_revision)
        )
        == 200
    )


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/repos/create", {"name": "x", "organization": "acme"}),
        ("DELETE", "/api/repos/delete", {"name": "open", "organization": "acme"}),
        ("POST", "/api/repos/move", {"fromRepo": "acme/open", "toRepo": "acme/y"}),
        ("PUT", "/api/models/acme/open/settings", {"private": True}),
        ("POST", "/api/models/acme/open/preupload/main", {"files": []}),
        ("POST", "/api/models/acme/open/commit/main", {}),
        ("POST", "/api/models/acme/open/commit/main?create_pr=1", {}),
        ("POST", "/api/models/acme/open/branch/b", {}),
        ("DELETE", "/api/models/acme/open/branch/main", None),
        ("POST", "/api/models/acme/open/tag/main", {"tag": "t"}),
        ("DELETE", "/api/models/acme/open/tag/t", None),
        ("POST", "/api/models/acme/open/super-squash/main", {}),
        ("GET", "/api/models/acme/open/lfs-files", None),
        ("POST", "/api/models/acme/open/discussions", {"title": "t", "description": "d"}),
        ("POST", "/api/models/acme/open/discussions/1/comment", {"comment": "c"}),
        ("POST", "/api/models/acme/open/discussions/1/merge", {}),
        ("POST", "/api/models/acme/open/discussions/1/status", {"status": "closed"}),
        ("POST", "/api/models/acme/open/user-access-request/grant", {"user": "bob"}),
        ("GET", "/api/settings/webhooks", None),
        ("POST", "/api/settings/webhooks", {"url": "http://127.0.0.1:9", "watched": []}),
        ("POST", "/api/collections", {"title": "t", "namespace": "acme"}),
        ("GET", "/api/whoami-v2", None),
    ],
)
def test_nothing_is_written_without_a_token(guarded: Hub, method: str, path: str, body: object) -> None:
    guarded.api.create_repo("acme/open", exist_ok=True)
    answer = ask(guarded.endpoint, method, path, body=body)
    assert answer.status == 401, answer.body
    if method != "GET":
        cookie = ask(guarded.endpoint, method, path, body=body, Cookie=f"embedded_hub_token={ROOT_USER}")
        assert cookie.status == 401, "the page's cookie never writes"


def test_unknown_tokens_are_refused_even_for_public_repos(guarded: Hub) -> None:
    guarded.api.create_repo("acme/open", exist_ok=True)
    answer = ask(guarded.endpoint, "GET", "/api/models/acme/open", token="hf_nobody")
    assert answer.status == 401
    assert answer.headers["x-error-message"] == "Invalid credentials in Authorization header"


def test_private_is_401_to_the_anonymous_and_404_to_others(release: Hub) -> None:
    anonymous = ask(release.endpoint, "GET", "/api/models/acme/release")
    assert (anonymous.status, anonymous.headers["x-error-code"]) == (401, "RepoNotFound")
    release.api.create_repo("root/secret", private=True, exist_ok=True)
    other = ask(release.endpoint, "GET", "/api/models/root/secret", token="hf_bob")
    absent = ask(release.endpoint, "GET", "/api/models/root/absent", token="hf_bob")
    assert (other.status, other.headers["x-error-code"]) == (404, "RepoNotFound")
    assert (other.status, other.body) == (absent.status, absent.body), "a private repo is as good as absent"
    for path in ("/root/secret/resolve/main/.gitattributes", "/root/secret/raw/main/.gitattributes"):
        assert ask(release.endpoint, "GET", path, token="hf_bob").status == 404
        assert ask(release.endpoint, "GET", path).status == 401


def test_gated_files_need_a_grant(guarded: Hub, tmp_path: Path) -> None:
    root, bob = guarded.api, guarded.as_token("hf_bob")
    root.create_repo("root/gated", exist_ok=True)
    root.update_repo_settings("root/gated", gated="manual")
    assert bob.model_info("root/gated").gated == "manual", "the page is public"
    for api in (bob, guarded.as_token(False)):
        with pytest.raises(GatedRepoError):
            api.hf_hub_download("root/gated", ".gitattributes", cache_dir=tmp_path)
        with pytest.raises(GatedRepoError):
            api.auth_check("root/gated")
    root.grant_access("root/gated", "bob")
    bob.auth_check("root/gated")
    assert [request.username for request in root.list_accepted_access_requests("root/gated")] == ["bob"]
    assert Path(bob.hf_hub_download("root/gated", ".gitattributes", cache_dir=tmp_path)).is_file()


def test_whoami_tells_scopes_and_organizations(guarded: Hub) -> None:
    me = guarded.as_token("hf_gpu").whoami()
    assert me["name"] == "alice"
    assert [(org["name"], org["roleInOrg"]) for org in me["orgs"]] == [("acme", "admin")]
    assert me["auth"]["accessToken"]["role"] == "fineGrained"
    assert me["auth"]["accessToken"]["scopes"] == ["contribute"]


def test_the_default_token_is_one_and_the_same() -> None:
    assert accounts.DEFAULT_TOKEN == localhub.DEFAULT_TOKEN
    assert accounts.DEFAULT_USER == localhub.DEFAULT_USER
    assert localhub.DEFAULT_TOKEN in {token.token for token in accounts.default_accounts().tokens}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("users: [", "cannot be read"),
        ("{users: {a: {colour: red}}}", "users.a.colour"),
        ("{users: {a: {}}, tokens: [{token: t, user: b}]}", "not under `users`: b"),
        ("{users: {a: {}}, orgs: {o: {members: {a: king}}}}", "orgs.o.members.a"),
        ("{users: {a: {}}, orgs: {a: {}}}", "both a user and an organization: a"),
        (
            "{users: {a: {}}, tokens: [{token: secret-t, user: a}, {token: secret-t, user: a}]}",
            "the same token",
        ),
        ("{users: {a: {}}, tokens: [{token: secret-t, user: a, scopes: [everything]}]}", "tokens.0.scopes.0"),
    ],
)
def test_a_bad_accounts_file_is_refused_by_field(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "accounts.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"accounts\.yaml") as refused:
        accounts.load_accounts(path)
    assert complaint in str(refused.value)
    assert "secret-t" not in str(refused.value)


def test_tokens_do_not_show_in_what_is_printed() -> None:
    assert "hf_hidden" not in repr(accounts.Token(token="hf_hidden", user="a"))


def test_importing_the_package_is_light() -> None:
    heavy = ("starlette", "uvicorn", "pydantic", "jinja2", "yaml", "sqlite3")
    code = f"import sys, bot.localhub; print(*[m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_repository_not_found_for_strangers(release: Hub) -> None:
    with pytest.raises(RepositoryNotFoundError):
        release.as_token(False).list_repo_tree("acme/release").__next__()
