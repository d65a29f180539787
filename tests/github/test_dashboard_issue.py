"""The dashboard's issue: one, kept current, whose ticks count for who may write and for nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from emulated import Emulated, running

from bot import dashboard, overview
from bot.dashboard import Edit
from bot.edges.github import GitHub
from bot.edges.state_branch import BranchState
from bot.errors import Refused
from bot.ledger import ReleaseStatus
from bot.overview import Overview
from bot.review import labels
from bot.state import Decisions, Roster, Shrunk, decisions_path, load, save, watched_path

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    """A GitHub of its own, since there is one dashboard in a repository."""
    with running(tmp_path_factory.mktemp("own")) as found:
        yield found


@pytest.fixture
def github(own: Emulated) -> GitHub:
    own.proxy.asked.clear()
    return own.client()


@pytest.fixture
def state(own: Emulated, request: pytest.FixtureRequest) -> BranchState:
    return BranchState(own.client(), branch=f"state-{abs(hash(request.node.name))}", pause_s=0.01)


def seen(state: str = "failed") -> Overview:
    release = ReleaseStatus(
        kind="release",
        key=KEY, base="Qwen/Qwen3.6-27B", revision="a" * 40, recipe="nvfp4", state=state, detail="",
        num_attempts=1, until=None, queued_by=None, links={}, figures={},
    )  # fmt: skip
    return Overview(at=NOW, paused=None, notices=[], releases=[release])


def show(github: GitHub, state: BranchState, found: Overview) -> dashboard.Shown:
    return dashboard.show(github, state, found, done=[], ignored=None)


def tick(kind: str, text: str) -> str:
    assert f"- [ ] <!-- {kind}:{KEY} -->" in text
    return text.replace(f"- [ ] <!-- {kind}:{KEY} -->", f"- [x] <!-- {kind}:{KEY} -->")


def edit(github: GitHub, kind: str = "retry", who: str = "ann") -> Edit:
    issue = dashboard.find(github)
    return Edit(number=issue.number, who=who, before=issue.body, after=tick(kind, issue.body), at=NOW)


def decided(state: BranchState) -> list[tuple[str, str]]:
    found, _ = load(state, decisions_path(KEY), Decisions)
    return [(each.kind, each.who) for each in (found.decisions if found else [])]


def test_one_issue_is_kept_current(own: Emulated, github: GitHub, state: BranchState):
    own.client("eve")._repo.create_issue(
        "Releases", dashboard.MARKER + "\nmine"
    )  # no label: not the dashboard
    first = show(github, state, seen())
    assert first.state == "opened"
    own.proxy.asked.clear()
    again = show(github, state, seen())
    assert (again.number, again.state) == (first.number, "unchanged")
    assert not [each for each in own.proxy.asked if not each.startswith("GET ")]
    assert show(github, state, seen("quarantined")).state == "updated"
    assert dashboard.find(github).number == first.number
    assert "1 quarantined" in dashboard.find(github).body


def test_a_tick_by_who_may_write_is_a_command(github: GitHub, state: BranchState):
    show(github, state, seen())
    asked = edit(github)
    assert dashboard.obey(github, state, asked) == ([f"retry {KEY}"], None)
    assert decided(state) == [("retry", "ann")]
    assert dashboard.obey(github, state, asked) == ([], None)
    github.edit_issue(asked.number, body=asked.after)
    assert show(github, state, seen()).state == "updated"
    assert "- [x]" not in dashboard.find(github).body


def test_a_listing_that_shrank_is_confirmed_by_who_may_write(github: GitHub, state: BranchState):
    held = Shrunk(missing=["Qwen/A"], num_known=9, since=NOW, seen_at=NOW, num_seen=1, confirmed_by=None)
    save(state, watched_path("Qwen"), Roster(author="Qwen", bases=[], shrunk=held), version=None)
    notices = overview.notices(state, ["Qwen"], paused=None, now=NOW)
    show(github, state, seen().model_copy(update={"notices": notices}))
    issue, box = dashboard.find(github), "- [ ] <!-- confirm:Qwen -->"
    assert box in issue.body
    ticked = {"before": issue.body, "after": issue.body.replace(box, box.replace("[ ]", "[x]")), "at": NOW}

    def says(who: str) -> list[str]:
        return dashboard.obey(github, state, Edit(number=issue.number, who=who, **ticked))[0]

    assert says("eve") == []
    assert load(state, watched_path("Qwen"), Roster)[0].shrunk == held
    assert says("ann") == ["confirm Qwen"]
    assert load(state, watched_path("Qwen"), Roster)[0].shrunk.confirmed_by == "ann"
    assert says("ann") == []


@pytest.mark.parametrize(
    ("who", "words"),
    [("eve", "no write access"), ("release-bot", "own edit"), ("no body", "no write access")],
)
def test_a_tick_by_anybody_else_is_none(github: GitHub, state: BranchState, who: str, words: str):
    show(github, state, seen())
    done, ignored = dashboard.obey(github, state, edit(github, who=who))
    assert done == []
    assert words in ignored
    assert decided(state) == []


def test_a_public_release_is_labelled_once(github: GitHub, state: BranchState):
    branch = f"release/{KEY}"
    github.commit(branch, {"x": b"1"}, message="m", parent=github.head("main"), on=None)
    number = github.open_pull(branch=branch, base="main", title="x", body="").number
    public = seen("published").releases
    assert labels.mark_published(github, github.pulls(), public) == []
    github._repo.get_pull(number).merge()
    assert labels.mark_published(github, github.pulls(), seen("staged").releases) == []
    assert labels.mark_published(github, github.pulls(), public) == [number]
    assert labels.PUBLISHED in github.pull(number).labels
    assert labels.mark_published(github, github.pulls(), public) == []


def test_a_label_that_cannot_be_set_is_a_warning(
    own: Emulated, github: GitHub, state: BranchState, capsys: pytest.CaptureFixture[str]
):
    key = "f" * 16
    branch = f"release/{key}"
    github.commit(branch, {"y": b"1"}, message="m", parent=github.head("main"), on=None)
    number = github.open_pull(branch=branch, base="main", title="y", body="").number
    github._repo.get_pull(number).merge()
    public = [each.model_copy(update={"key": key}) for each in seen("published").releases]
    own.proxy.fail("PUT", f"issues/{number}/labels", 403)
    assert labels.mark_published(github, github.pulls(), public) == []
    assert f"pull request {number} is not labelled published: GitHub refused (403)" in capsys.readouterr().err
    assert labels.mark_published(github, github.pulls(), public) == [number]


def test_a_tick_elsewhere_is_none(own: Emulated, github: GitHub, state: BranchState):
    show(github, state, seen())
    asked = edit(github)
    number = own.client("ann")._repo.create_issue("x", asked.before).number
    elsewhere = Edit(number=number, who="ann", before=asked.before, after=asked.after, at=NOW)
    assert dashboard.obey(github, state, elsewhere) == ([], f"issue {number} is not the dashboard")


def test_a_box_that_was_ticked_before_is_not_this_persons(github: GitHub, state: BranchState):
    show(github, state, seen())
    asked = edit(github)
    later = Edit(number=asked.number, who="ann", before=asked.after, after=asked.after + "\nx", at=NOW)
    assert dashboard.obey(github, state, later) == ([], "no box was ticked")


@pytest.mark.parametrize(
    ("done", "now", "approved"),
    [
        (["approve"], "waiting_for_publisher", True),
        (["retry"], "waiting_for_publisher", True),
        (["retry", "approve"], "waiting_for_publisher", True),
        (["retry"], "planned", False),
        (["skip"], "waiting_for_publisher", False),
    ],
)
def test_a_retry_of_what_failed_to_publish_publishes(
    github: GitHub, state: BranchState, done: list[str], now: str, approved: bool
):
    told = [f"{kind} {KEY}" for kind in done]
    shown = dashboard.show(github, state, seen(now), done=told, ignored=None)
    assert shown.approved == ([KEY] if approved else [])


def test_paused_stops_both(github: GitHub, state: BranchState, tmp_path: Path):
    show(github, state, seen())
    asked = edit(github)
    state.write("PAUSED", "stop", version=None)
    with pytest.raises(Refused, match="paused"):
        dashboard.obey(github, state, asked)
    with pytest.raises(Refused, match="paused"):
        show(github, state, seen("published"))
