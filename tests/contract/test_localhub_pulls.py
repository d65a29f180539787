"""Pull requests: opened by a commit or as a draft, described, merged for real, refused on conflict."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from contract.conftest import Hub, ask
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    DiscussionComment,
    DiscussionStatusChange,
)
from huggingface_hub.community import DiscussionCommit, DiscussionTitleChange
from huggingface_hub.errors import HfHubHTTPError

pytestmark = pytest.mark.contract


def put(hub: Hub, repo: str, files: dict[str, bytes], message: str = "put", **more: object):  # type: ignore[no-untyped-def]
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return hub.api.create_commit(repo, operations, commit_message=message, **more)


def test_a_commit_opens_one(hub: Hub, repo: str) -> None:
    main = hub.api.model_info(repo).sha
    commit = put(hub, repo, {"a.txt": b"a\n"}, "Add a", commit_description="It was missing.", create_pr=True)
    assert commit.pr_num == 1
    assert commit.pr_revision == "refs/pr/1"
    assert commit.pr_url == f"{hub.endpoint}/{repo}/discussions/1"
    assert hub.api.model_info(repo).sha == main, "main is as it was"
    refs = hub.api.list_repo_refs(repo, include_pull_requests=True)
    assert [(ref.ref, ref.target_commit) for ref in refs.pull_requests or ()] == [("refs/pr/1", commit.oid)]
    details = hub.api.get_discussion_details(repo, 1)
    assert (details.title, details.status, details.is_pull_request) == ("Add a", "open", True)
    assert details.author == hub.namespace
    assert details.target_branch == "refs/heads/main"
    assert details.conflicting_files in ([], None)
    assert details.merge_commit_oid is None
    assert details.diff is not None
    assert "+a" in details.diff.splitlines()
    comment, pushed = details.events[0], details.events[-1]
    assert isinstance(comment, DiscussionComment)
    assert comment.content == "It was missing."
    assert isinstance(pushed, DiscussionCommit)
    assert pushed.oid == commit.oid


def test_second_commit_and_merge_are_one_commit_on_main(hub: Hub, repo: str) -> None:
    put(hub, repo, {"a.txt": b"a", "old.txt": b"old"})
    commit = put(hub, repo, {"b.txt": b"b", "model.safetensors": b"w" * 2000}, "Add b", create_pr=True)
    hub.api.create_commit(
        repo,
        [CommitOperationAdd("c.txt", b"c"), CommitOperationDelete("old.txt")],
        commit_message="and c",
        revision=commit.pr_revision,
        parent_commit=commit.oid,
    )
    put(hub, repo, {"meanwhile.txt": b"m"}, "main moves on")
    before = hub.api.list_repo_commits(repo)
    hub.api.merge_pull_request(repo, commit.pr_num or 0, comment="Thank you")
    details = hub.api.get_discussion_details(repo, commit.pr_num or 0)
    after = hub.api.list_repo_commits(repo)
    assert details.status == "merged"
    assert details.merge_commit_oid == after[0].commit_id
    assert len(after) == len(before) + 1
    assert after[1].commit_id == before[0].commit_id
    assert hub.api.list_repo_files(repo) == [
        ".gitattributes",
        "a.txt",
        "b.txt",
        "c.txt",
        "meanwhile.txt",
        "model.safetensors",
    ]
    with pytest.raises(HfHubHTTPError):
        hub.api.merge_pull_request(repo, commit.pr_num or 0)


def test_merge_is_refused_on_conflict(hub: Hub, repo: str) -> None:
    put(hub, repo, {"a.txt": b"base"})
    commit = put(hub, repo, {"a.txt": b"theirs", "b.txt": b"b"}, create_pr=True)
    main = put(hub, repo, {"a.txt": b"ours"}).oid
    details = hub.api.get_discussion_details(repo, commit.pr_num or 0)
    assert details.conflicting_files is True or details.conflicting_files == ["a.txt"]
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api.merge_pull_request(repo, commit.pr_num or 0)
    assert refused.value.response.status_code == 409
    assert hub.api.model_info(repo).sha == main
    assert hub.api.get_discussion_details(repo, commit.pr_num or 0).status == "open"


def test_the_same_change_on_both_sides_is_no_conflict(embedded: Hub) -> None:
    repo = embedded.name()
    embedded.api.create_repo(repo)
    commit = put(embedded, repo, {"a.txt": b"same", "b.txt": b"b"}, create_pr=True)
    put(embedded, repo, {"a.txt": b"same"})
    embedded.api.merge_pull_request(repo, commit.pr_num or 0)
    assert embedded.api.list_repo_files(repo) == [".gitattributes", "a.txt", "b.txt"]


def test_gitattributes_of_both_sides_are_joined(embedded: Hub) -> None:
    repo = embedded.name()
    embedded.api.create_repo(repo)
    large = b" " * (10 * 1024 * 1024 + 1)
    commit = put(embedded, repo, {"theirs.json": large}, create_pr=True)
    put(embedded, repo, {"ours.json": large})
    embedded.api.merge_pull_request(repo, commit.pr_num or 0)
    text = ask(embedded.endpoint, "GET", f"/{repo}/resolve/main/.gitattributes").body.decode()
    assert "ours.json filter=lfs" in text
    assert "theirs.json filter=lfs" in text


def test_a_draft_is_filled_opened_and_merged(hub: Hub, repo: str) -> None:
    draft = hub.api.create_pull_request(repo, "In two steps", description="First the frame.")
    assert (draft.status, draft.git_reference) == ("draft", f"refs/pr/{draft.num}")
    put(hub, repo, {"a.txt": b"a"}, revision=draft.git_reference)
    change = hub.api.change_discussion_status(repo, draft.num, "open", comment="ready")
    assert isinstance(change, DiscussionStatusChange)
    assert change.new_status == "open"
    hub.api.merge_pull_request(repo, draft.num)
    assert "a.txt" in hub.api.list_repo_files(repo)


def test_a_closed_one_takes_no_more_commits(embedded: Hub) -> None:
    repo = embedded.name()
    embedded.api.create_repo(repo)
    commit = put(embedded, repo, {"a.txt": b"a"}, create_pr=True)
    embedded.api.change_discussion_status(repo, 1, "closed", comment="no")
    with pytest.raises(HfHubHTTPError) as refused:
        put(embedded, repo, {"b.txt": b"b"}, revision=commit.pr_revision)
    assert refused.value.response.status_code == 403
    with pytest.raises(HfHubHTTPError):
        embedded.api.merge_pull_request(repo, 1)


def test_discussions(hub: Hub, repo: str) -> None:
    talk = hub.api.create_discussion(repo, "A question", description="Why *this*?")
    pull = put(hub, repo, {"a.txt": b"a"}, "An answer", create_pr=True)
    comment = hub.api.comment_discussion(repo, talk.num, "Because <b>so</b>.")
    assert comment.content == "Because <b>so</b>."
    edited = hub.api.edit_discussion_comment(repo, talk.num, comment.id, "Because.")
    assert (edited.content, edited.edited) == ("Because.", True)
    renamed = hub.api.rename_discussion(repo, talk.num, "A good question")
    assert isinstance(renamed, DiscussionTitleChange)
    assert (renamed.old_title, renamed.new_title) == ("A question", "A good question")
    hub.api.change_discussion_status(repo, talk.num, "closed")
    listed = {d.num: d for d in hub.api.get_repo_discussions(repo)}
    assert (listed[talk.num].title, listed[talk.num].status) == ("A good question", "closed")
    assert not listed[talk.num].is_pull_request
    assert listed[pull.pr_num or 0].is_pull_request
    pulls = hub.api.get_repo_discussions(repo, discussion_type="pull_request", discussion_status="open")
    assert [d.num for d in pulls] == [pull.pr_num]
    with pytest.raises(HfHubHTTPError) as missing:
        hub.api.get_discussion_details(repo, 99)
    assert missing.value.response.status_code == 404


def test_many_discussions_are_paged(embedded: Hub) -> None:
    repo = embedded.name()
    embedded.api.create_repo(repo)
    for n in range(55):
        body = {"title": f"t{n}", "description": "d", "pullRequest": False}
        path = f"/api/models/{repo}/discussions"
        assert ask(embedded.endpoint, "POST", path, token=embedded.token, body=body).status == 200
    assert len(list(embedded.api.get_repo_discussions(repo))) == 55


def test_two_merges_at_once_make_one_commit(embedded: Hub) -> None:
    """The second merge of the same pull request finds it merged; the branch moved once."""
    repo = embedded.name()
    embedded.api.create_repo(repo)
    put(embedded, repo, {"a.txt": b"a"}, create_pr=True)
    path = f"/api/models/{repo}/discussions/1/merge"

    def merge(_: int) -> int:
        return ask(embedded.endpoint, "POST", path, token=embedded.token, body={}).status

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(merge, range(4)))
    assert sorted(answers) == [200, 409, 409, 409]
    assert len(embedded.api.list_repo_commits(repo)) == 2


def test_commits_at_once_are_all_kept(embedded: Hub) -> None:
    """Without a parent commit, concurrent commits queue up; none is lost."""
    repo = embedded.name()
    embedded.api.create_repo(repo)

    def commit(n: int) -> int:
        body = b'{"key": "header", "value": {"summary": "c"}}\n'
        body += b'{"key": "file", "value": {"path": "%d.txt", "content": "x"}}' % n
        path = f"/api/models/{repo}/commit/main"
        return ask(embedded.endpoint, "POST", path, token=embedded.token, body=body).status

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(commit, range(12))) == {200}
    assert len(embedded.api.list_repo_files(repo)) == 13
    assert len(embedded.api.list_repo_commits(repo)) == 13
