"""The commands as a workflow calls them: settings from the environment, the event from its file."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from carded import carded, evidence_of, stage
from emulated import Emulated

from bot import commands_github, dashboard
from bot import recipe as recipes
from bot.edges.github import GitHub
from bot.edges.hub import Hub
from bot.edges.state_branch import BRANCH, BranchState
from bot.errors import InputError, Refused, Stopped, UsageError
from bot.review import comment
from bot.state import (
    PAUSED,
    Decisions,
    Paused,
    Roster,
    Step,
    Tracked,
    decisions_path,
    load,
    resume,
    save,
    watched_path,
)

AT = "2026-11-21T12:00:00Z"
# What GitHub adds to every event, as far as it matters here: much, and none of it read.
AROUND = {"repository": {"id": 1, "full_name": "release-bot/releases"}, "installation": {"id": 7}}


@pytest.fixture(autouse=True)
def workflow(
    emulated: Emulated,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A step's environment."""
    names = {
        **emulated.environment(),
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": str(hub.api.token),
        "RELEASE_BOT_HOME": str(tmp_path / "home"),
        "RELEASE_BOT_HF_HOME": os.environ["RELEASE_BOT_HF_HOME"],
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    for name in ("GITHUB_EVENT_PATH", "GITHUB_HEAD_REF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def state(emulated: Emulated) -> BranchState:
    return BranchState(emulated.client())


def run(*argv: str) -> int:
    """One command, declared as `bot.cli` declares it."""
    parser = argparse.ArgumentParser()
    subcommands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true")

    def command(name: str, handler: commands_github.Handler, text: str) -> argparse.ArgumentParser:
        child = subcommands.add_parser(name, help=text, parents=[common])
        child.set_defaults(handler=handler)
        return child

    commands_github.add_parsers(command, subcommands, common)
    arguments = parser.parse_args(argv)
    return int(arguments.handler(arguments))


def printed(capsys: pytest.CaptureFixture[str], *argv: str, exit_code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run(*argv, "--json") == exit_code
    return dict(json.loads(capsys.readouterr().out))


def event(path: Path, **content: Any) -> str:
    path.write_text(json.dumps({**AROUND, **content}))
    return str(path)


def commented(path: Path, number: int, text: str, who: str = "ann", **changes: Any) -> str:
    user = {"login": who, "type": "User", "id": 3}
    issue = {"number": number, "updated_at": AT, "pull_request": {"url": "x"}, **changes}
    return event(
        path,
        action="created",
        issue=issue,
        comment={"body": text, "user": user, "created_at": AT},
        sender=user,
    )


def test_from_the_card_to_the_matrix(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Opened, checked, commented, commanded, merged: each step as its own process would do it."""
    one = carded(tmp_path, stage(tmp_path, hub, evidence_of()))
    work = tmp_path / "home" / "work" / one.key
    shutil.copytree(one.card, work / "card")
    offered = printed(capsys, "card-pr", one.key)
    assert (offered["state"], offered["branch"]) == ("opened", one.branch)

    root = tmp_path / "checkout"
    git = ["git", "-C", str(root), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    root.mkdir()
    (root / "x").write_text("x")
    for argv in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *argv], check=True)
    before = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    shutil.copytree(one.card, root / one.folder)
    for argv in (["add", "."], ["commit", "-qm", "two"]):
        subprocess.run([*git, *argv], check=True)
    checked = printed(
        capsys, "review", "check", "--root", str(root), "--branch", one.branch, "--since", "HEAD^1",
        "--out", str(tmp_path / "verdict.json"),
    )  # fmt: skip
    assert checked["passed"]

    head = github.head(one.branch)
    ended = event(tmp_path / "e.json", workflow_run={"head_sha": head, "head_branch": one.branch, "id": 5})
    said = printed(capsys, "review", "comment", "--verdict", str(tmp_path / "verdict.json"), "--event", ended)
    assert (said["passed"], said["state"], said["digests"]) == (True, "commented", [])
    assert any(each.body.startswith(comment.MARKER) for each in github.comments(offered["number"]))

    told = commented(tmp_path / "e.json", offered["number"], "/skip it is slower than the last one")
    assert printed(capsys, "comment-command", "--event", told)["done"]
    found, _ = load(state, decisions_path(one.key), Decisions)
    assert [(each.kind, each.who) for each in found.decisions] == [("skip", "ann")]

    github._repo.get_pull(offered["number"]).merge(merge_method="squash")
    pushed = event(tmp_path / "e.json", before=before.strip(), after="f" * 40, ref="refs/heads/main")
    os.chdir(root)
    matrix = {"include": [{"key": one.key, "card": one.folder, "repo": one.evidence.release.target_repo}]}
    capsys.readouterr()
    assert run("release-on-merge", "--matrix", "--event", pushed) == 0
    assert json.loads(capsys.readouterr().out) == matrix
    assert (tmp_path / "output").read_text() == f"matrix={json.dumps(matrix)}\ncount=1\n"
    by_key = printed(capsys, "release-on-merge", "--key", one.key)
    assert [each["key"] for each in by_key["releases"]] == [one.key]


def test_closing_is_a_refusal(github: GitHub, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = carded(tmp_path, stage(tmp_path, hub, evidence_of()))
    offered = printed(capsys, "card-pr", one.key, "--card", str(one.card))
    number = offered["number"]
    sender = {"login": "ann", "type": "User"}
    pull = {"number": number, "closed_at": AT, "head": {"ref": "main\n$(id)"}, "merged": False}
    closed = event(tmp_path / "e.json", action="closed", pull_request=pull, sender=sender)
    with pytest.raises(Refused, match="is open"):
        run("review", "refuse", "--event", closed)
    github.close_pull(number)
    found = printed(capsys, "review", "refuse", "--event", closed)
    assert (found["key"], found["hub"]) == (one.key, "closed")
    opened = event(tmp_path / "e.json", action="opened", pull_request=pull, sender=sender)
    with pytest.raises(UsageError, match="was opened, not closed"):
        run("review", "refuse", "--event", opened)


def test_a_card_that_does_not_hold_ends_with_6(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    one = carded(tmp_path, evidence_of())
    root = tmp_path / "checkout"
    shutil.copytree(one.card, root / one.folder)
    readme = root / one.folder / "README.md"
    readme.write_text(readme.read_text().replace("| MTP head | BF16 | 15 |", "| MTP head | BF16 | 14 |"))
    found = printed(capsys, "review", "check", "--root", str(root), exit_code=6)
    assert "a figure changes only with its evidence" in found["cards"][0]["problems"][0]
    assert "```text\n" in (tmp_path / "summary").read_text()
    assert run("review", "check", "--root", str(root)) == 6
    assert "does not hold" in capsys.readouterr().out


def test_another_card_than_the_one_named_is_refused(tmp_path: Path):
    one = carded(tmp_path, evidence_of())
    with pytest.raises(Refused, match="not of"):
        run("card-pr", "0" * 16, "--card", str(one.card))


def tracked() -> Tracked:
    name = "Qwen/Qwen3.6-1B"
    step = Step(repo_id=name, revision="a" * 40, kind="weights")
    return Tracked(
        repo_id=name, hub_id=name, revision="a" * 40, modified_at=datetime(2026, 11, 21, tzinfo=UTC),
        model_type="qwen3_5", architectures=["Qwen3_5ForConditionalGeneration"], num_parameters=10**9,
        steps=[step], gone=None,
    )  # fmt: skip


def test_dashboard_and_status_show_the_same(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for dataset in {each.dataset for name in recipes.names() for each in recipes.load(name).sets()}:
        hub.api.create_repo(dataset, repo_type="dataset", exist_ok=True)
    save(state, watched_path("Qwen"), Roster(author="Qwen", bases=[tracked()]), version=None)
    found = printed(capsys, "status")
    assert [each["text"].partition(".")[0] for each in found["notices"]] == ["watch has not run yet"]
    assert {each["recipe"] for each in found["releases"]} == set(recipes.names())
    assert {each["state"] for each in found["releases"]} == {"planned"}
    assert printed(capsys, "dashboard")["state"] == "opened"
    again = printed(capsys, "dashboard")
    assert (again["state"], again["num_releases"]) == ("unchanged", len(recipes.names()))

    key, issue = found["releases"][0]["key"], dashboard.find(github)
    after = issue.body.replace(f"- [ ] <!-- skip:{key}", f"- [x] <!-- skip:{key}")
    ticked = event(
        tmp_path / "e.json",
        action="edited",
        issue={"number": issue.number, "body": after, "updated_at": AT},
        changes={"body": {"from": issue.body}},
        sender={"login": "ann", "type": "User"},
    )
    github.edit_issue(issue.number, body=after)
    shown = printed(capsys, "dashboard", "--event", ticked)
    assert (shown["done"], shown["state"]) == ([f"skip {key}"], "updated")
    assert "- [x]" not in dashboard.find(github).body
    assert [each["key"] for each in printed(capsys, "status")["releases"] if each["state"] == "skipped"] == [
        key
    ]
    assert run("status") == 0
    assert "skipped" in capsys.readouterr().out
    assert (tmp_path / "output").read_text().endswith("approved=[]\n")


def test_weights_that_were_closed_on_the_hub_are_told_while_their_card_is_open(
    github: GitHub, state: BranchState, hub: Hub, capsys: pytest.CaptureFixture[str]
):
    for dataset in {each.dataset for name in recipes.names() for each in recipes.load(name).sets()}:
        hub.api.create_repo(dataset, repo_type="dataset", exist_ok=True)
    _, version = load(state, watched_path("Qwen"), Roster)
    step = Step(repo_id="Qwen/Qwen3.6-2B", revision="b" * 40, kind="weights")
    base = tracked().model_copy(update={"repo_id": step.repo_id, "hub_id": "2B", "steps": [step]})
    save(state, watched_path("Qwen"), Roster(author="Qwen", bases=[base]), version=version)
    key = next(e["key"] for e in printed(capsys, "status")["releases"] if e["recipe"] == "nvfp4")
    target = "release-bot/Qwen3.6-2B-NVFP4"
    hub.create_private(target)
    options = {"commit_message": f"Release {key}: x", "create_pr": True}
    hub.api.upload_file(repo_id=target, path_in_repo="x", path_or_fileobj=b"x", **options)
    branch = f"release/{key}"
    github.commit(branch, {"x": b"1"}, message="m", parent=github.head("main"), on=None)
    github.open_pull(branch=branch, base="main", title="x", body="")

    def now() -> dict[str, Any]:
        return next(each for each in printed(capsys, "status")["releases"] if each["key"] == key)

    assert (now()["state"], now()["links"].keys()) == ("in_review", {"repo", "weights", "card"})
    hub.api.change_discussion_status(target, 1, "closed")
    assert (now()["state"], now()["detail"]) == ("refused", f"pull request 1 of {target} was closed")


def test_status_needs_no_github(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """It then shows this machine's own state, and says so; nothing is to be said where a folder was named."""
    monkeypatch.delenv("GITHUB_TOKEN")
    assert printed(capsys, "status")["releases"] == []
    assert run("status") == 0
    assert "only this machine" in capsys.readouterr().err
    assert run("status", "--state", str(tmp_path / "state")) == 0
    assert "only this machine" not in capsys.readouterr().err


def test_the_hourly_dashboard_is_no_failure_while_paused(
    emulated: Emulated, state: BranchState, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A box that was ticked is not obeyed, and that run says so by failing."""
    held = Paused(who="ann", why="the Hub is moving", at=datetime(2026, 11, 21, tzinfo=UTC))
    save(state, PAUSED, held, version=None)
    issue = {"number": 1, "body": "a", "updated_at": AT, "labels": []}
    person = {"login": "ann", "type": "User", "id": 3}
    ticked = event(
        tmp_path / "e.json", action="edited", issue=issue, changes={"body": {"from": "b"}}, sender=person
    )
    emulated.proxy.asked.clear()
    try:
        assert printed(capsys, "dashboard")["why"] == "the Hub is moving"
        assert run("dashboard") == 0
        assert "paused: by ann: the Hub is moving" in capsys.readouterr().out
        assert not [each for each in emulated.proxy.asked if not each.startswith("GET ")]
        with pytest.raises(Stopped, match="paused by ann"):
            run("dashboard", "--event", ticked)
    finally:
        resume(state)


@pytest.mark.parametrize("name", ["comment-command", "release-on-merge", "dashboard"])
def test_an_event_that_is_not_there_or_another_is_told(name: str, tmp_path: Path):
    with pytest.raises(UsageError, match="there is no event"):
        run(name, "--event", str(tmp_path / "none.json"))
    other = event(tmp_path / "e.json", action="starred")
    with pytest.raises(InputError, match="the event is no"):
        run(name, "--event", other)


@pytest.mark.parametrize("changes", [{"pull_request": None}, {}])
def test_an_old_comment_or_one_on_an_issue_is_nothing(
    emulated: Emulated, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any]
):
    path = Path(commented(tmp_path / "e.json", 1, "/retry", **changes))
    if not changes:
        path.write_text(path.read_text().replace('"created"', '"edited"'))
    emulated.proxy.asked.clear()
    assert printed(capsys, "comment-command", "--event", str(path))["ignored"] == "no new comment"
    assert emulated.proxy.asked == []


def test_a_push_without_a_commit_before_it_publishes_nothing(tmp_path: Path):
    for before in ("0" * 40, "--output=x", "main"):
        with pytest.raises(InputError, match="no commit before it"):
            run("release-on-merge", "--event", event(tmp_path / "e.json", before=before, after="f" * 40))


def test_the_state_lies_on_its_own_branch(github: GitHub, state: BranchState):
    assert state.branch == BRANCH == "release-bot-state"
    assert github.head(BRANCH) is not None or state.list("") == []
