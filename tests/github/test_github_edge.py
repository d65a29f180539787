"""The client against emulate: what it tells, what it writes, and GitHub's failures as the bot's errors."""

from __future__ import annotations

import secrets

import pytest
from emulated import ACCOUNTS, Emulated

from bot import log
from bot.edges.github import GitHub
from bot.errors import InfrastructureError, InputError, Refused, UsageError


@pytest.fixture
def branch() -> str:
    return f"release/{secrets.token_hex(8)}"


def started(github: GitHub, branch: str) -> str:
    """A branch with one file of its own; returns its head."""
    main = github.head("main")
    return github.commit(branch, {f"{branch}.txt": b"one\n"}, message="Begin", parent=main, on=None)


def test_files_of_a_commit_come_back_to_the_byte(github: GitHub, branch: str):
    every_byte = bytes(range(256)) * 40
    head = github.commit(
        branch, {"a/b.png": every_byte, "c.md": b"x\n"}, message="Two", parent=github.head("main"), on=None
    )
    assert github.head(branch) == head
    tree = github.tree(head)
    assert tree["a/b.png"].size_bytes == len(every_byte)
    assert github.blob(tree["a/b.png"].sha) == every_byte
    assert github.read("c.md", branch) == (b"x\n", tree["c.md"].sha)
    later = github.commit(branch, {"c.md": None}, message="One", parent=head, on=head)
    assert "c.md" not in github.tree(later)
    assert github.read("c.md", branch) is None


def test_what_is_not_there_is_none(github: GitHub):
    assert github.head("no-such-branch") is None
    assert github.read("README.md", "no-such-branch") is None


def test_a_branch_only_moves_forward(github: GitHub, branch: str):
    first = started(github, branch)
    github.commit(branch, {"y": b"2"}, message="Second", parent=first, on=first)
    with pytest.raises(Refused, match="422"):
        github.commit(branch, {"y": b"3"}, message="Other second", parent=first, on=first)
    with pytest.raises(Refused, match="422"):
        github.commit(branch, {"y": b"3"}, message="Begin again", parent=None, on=None)
    assert github.read("y", branch)[0] == b"2"


def test_a_file_is_written_over_what_was_read_only(github: GitHub):
    path = secrets.token_hex(4)
    github.put(path, b"1", branch="main", message="m", replaces=None)
    version = github.read(path, "main")[1]
    for wrong in (None, "0" * 40):
        with pytest.raises(Refused):
            github.put(path, b"2", branch="main", message="m", replaces=wrong)
    github.put(path, b"2", branch="main", message="m", replaces=version)
    with pytest.raises(Refused):
        github.remove(path, branch="main", message="m", replaces=version)


def test_a_pull_request_is_found_by_its_branch_alone(github: GitHub, branch: str):
    started(github, branch)
    opened = github.open_pull(branch=branch, base="main", title="One", body="text")
    assert opened.same_repo
    assert (opened.state, opened.branch, opened.author) == ("open", branch, "release-bot")
    assert [each.number for each in github.pulls(branch=branch)] == [opened.number]
    with pytest.raises(Refused):
        github.open_pull(branch=branch, base="main", title="Again", body="text")
    github.edit_pull(opened.number, title="Two", body="other")
    assert github.pull(opened.number).title == "Two"
    github.close_pull(opened.number)
    assert github.pulls(branch=branch)[0].state == "closed"


def test_our_labels_change_and_peoples_stay(github: GitHub, branch: str):
    started(github, branch)
    pull = github.open_pull(branch=branch, base="main", title="One", body="text")
    github.relabel(pull, ["good first review"], among=[])
    ours = ["gates: passed", "gates: failed"]
    assert github.relabel(github.pull(pull.number), ["gates: failed"], among=ours)
    assert github.relabel(github.pull(pull.number), ["gates: passed"], among=ours)
    found = github.pull(pull.number)
    assert set(found.labels) == {"good first review", "gates: passed"}
    assert not github.relabel(found, ["gates: passed"], among=ours)


def test_comments_are_written_once_and_over(emulated: Emulated, github: GitHub, branch: str):
    started(github, branch)
    number = github.open_pull(branch=branch, base="main", title="One", body="text").number
    emulated.client("ann").say(number, "hello")
    github.say(number, "first")
    mine = next(each for each in github.comments(number) if each.author == "release-bot")
    github.say(number, "second", instead_of=mine.id)
    assert [(each.author, each.body) for each in github.comments(number)] == [
        ("ann", "hello"),
        ("release-bot", "second"),
    ]


@pytest.mark.parametrize(
    ("login", "may"),
    [
        ("release-bot", True),
        ("ann", True),
        ("eve", False),
        ("nobody-at-all", False),
        ("../../x", False),
        ("ann\n", False),
        ("", False),
    ],
)
def test_who_may_write(github: GitHub, login: str, may: bool):
    assert github.may_write(login) is may


def test_an_issue_is_found_by_its_label(github: GitHub):
    label = secrets.token_hex(4)
    made = github.open_issue(title="One", body="text", label=label)
    github.edit_issue(made.number, body="other")
    assert [(each.number, each.body) for each in github.issues(label=label)] == [(made.number, "other")]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, InputError),
        (403, InputError),
        (404, InputError),
        (409, Refused),
        (412, Refused),
        (422, Refused),
        (500, InfrastructureError),
        (503, InfrastructureError),
    ],
)
def test_failures_are_typed(emulated: Emulated, github: GitHub, status: int, error: type[Exception]):
    emulated.proxy.fail("GET", "/pulls/77$", status, times=9)
    with pytest.raises(error, match=str(status)):
        github.pull(77)


def test_a_limit_is_waited_for_and_the_request_sent_again(emulated: Emulated, github: GitHub, branch: str):
    emulated.proxy.fail("POST", "/git/refs$", 429, Retry_After="0")
    emulated.proxy.fail("POST", "/git/refs$", 403, Retry_After="0")
    started(github, branch)
    assert [each for each in emulated.proxy.asked if each.startswith("POST") and "git/refs" in each] == [
        "POST /repos/release-bot/releases/git/refs"
    ] * 3


def test_a_limit_that_lasts_says_when_to_come_back(emulated: Emulated, github: GitHub):
    emulated.proxy.fail("GET", "/pulls/77$", 429, Retry_After="900")
    with pytest.raises(InfrastructureError, match="again in 900 seconds"):
        github.pull(77)


def test_reading_survives_a_reset_and_a_passing_fault(emulated: Emulated, github: GitHub):
    emulated.proxy.fail("GET", "/contents/README.md$", 0)
    emulated.proxy.fail("GET", "/contents/README.md$", 502)
    assert github.read("README.md", "main")[0].startswith(b"#")


def test_writing_is_not_repeated_after_a_reset(emulated: Emulated, github: GitHub, branch: str):
    """Nobody knows whether it was done: a comment said twice is worse than one that the next run says."""
    started(github, branch)
    number = github.open_pull(branch=branch, base="main", title="One", body="text").number
    emulated.proxy.fail("POST", f"/issues/{number}/comments$", 0, after=True)
    with pytest.raises(InfrastructureError, match="cannot be reached"):
        github.say(number, "once")
    assert [each.body for each in github.comments(number)] == ["once"]


def test_a_dead_address_is_infrastructure():
    dead = GitHub(repository="a/b", token="ghp_dead", api_url="http://localhost:9", first_pause_s=0.0)
    with pytest.raises(InfrastructureError, match="cannot be reached"):
        dead.head("main")


def test_tokens_stay_out_of_what_is_said(emulated: Emulated, github: GitHub):
    assert log.redact(f"x {ACCOUNTS['release-bot']}") == "x ***"
    emulated.proxy.fail("GET", "/pulls/77$", 401)
    with pytest.raises(InputError) as refused:
        github.pull(77)
    assert ACCOUNTS["release-bot"] not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_TOKEN", ""),
        ("GITHUB_TOKEN", "ghp_\N{SNOWMAN}"),
        ("GITHUB_REPOSITORY", "../x"),
        ("GITHUB_REPOSITORY", ""),
    ],
)
def test_a_missing_or_odd_setting_is_usage(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_something")
    monkeypatch.setenv("GITHUB_REPOSITORY", "a/b")
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError):
        GitHub.from_environment()
