"""Review with real parts: comment, commands, refusal and merge, on emulate and an embedded Hub."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from carded import Carded, carded, evidence_of, failing, stage
from emulated import Emulated

from bot import ledger
from bot.edges.github import GitHub, Pull
from bot.edges.hub import Hub
from bot.edges.state_branch import BranchState
from bot.errors import InfrastructureError, InputError, Refused
from bot.ledger import Pair, World
from bot.models import write_json
from bot.review import check, closed, commanding, comment, decisions, labels, merged
from bot.review.pull import bring, of_release
from bot.review.refuse import refuse
from bot.state import PAUSED, Decisions, decisions_path, load

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)


def opened(github: GitHub, state: BranchState, one: Carded, hub: Hub) -> Pull:
    number = bring(github, state, one.evidence, one.card, hub_url=hub.endpoint).number
    return github.pull(number)


def staged(tmp_path: Path, hub: Hub, **options) -> Carded:
    return carded(tmp_path, stage(tmp_path, hub, evidence_of(**options)))


def decided(state: BranchState, key: str) -> list[tuple[str, str]]:
    found, _ = load(state, decisions_path(key), Decisions)
    return [(each.kind, each.who) for each in (found.decisions if found else [])]


def verdict(path: Path, *problems: str, folder: str = "model_cards/a--b") -> Path:
    of_card = check.CardVerdict(folder=folder, key=None, problems=list(problems))
    write_json(path, check.Verdict(passed=not problems, cards=[of_card], problems=[]))
    return path


def comments(github: GitHub, pull: Pull, author: str = "release-bot") -> list[str]:
    return [each.body for each in github.comments(pull.number) if each.author == author]


# ── the comment ────────────────────────────────────────────────────────────────────────────


def test_one_comment_is_kept_current(
    emulated: Emulated, github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    emulated.client("eve").say(pull.number, comment.MARKER + "\nall is well")

    def commented(*problems: str) -> str:
        file = verdict(tmp_path / "verdict.json", *problems, folder=one.folder)
        return comment.comment(
            github, state, hub, head_sha=pull.head_sha, branch=one.branch, verdict_file=file
        ).state

    assert commented("line 3: a figure changes only with its evidence") == "commented"
    assert labels.PROBLEMS in github.pull(pull.number).labels
    assert commented() == "updated"
    assert commented() == "unchanged"
    (text,) = comments(github, pull)
    assert "### The card holds" in text
    assert "every digest as in the evidence" in text
    assert {labels.CHECKED, labels.PASSED} <= set(github.pull(pull.number).labels)
    assert labels.PROBLEMS not in github.pull(pull.number).labels
    assert comments(github, pull, "eve") == [comment.MARKER + "\nall is well"]


def test_weights_that_changed_on_the_hub_are_told(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub)
    upload = one.evidence.upload
    assert comment.digest_problems(hub, upload) == []
    hub.api.change_discussion_status(upload.repo_id, upload.pr_num, "closed", comment="no")
    closed = f"the staged pull request {upload.pr_num} was closed on the Hub"
    assert comment.digest_problems(hub, upload) == [closed]
    hub.api.change_discussion_status(upload.repo_id, upload.pr_num, "open", comment="yes")
    put = {"repo_id": upload.repo_id, "revision": f"refs/pr/{upload.pr_num}"}
    hub.api.upload_file(path_in_repo="model.safetensors", path_or_fileobj=b"evil" * 99, **put)
    hub.api.upload_file(path_in_repo="extra.py", path_or_fileobj=b"import os", **put)
    pull = opened(github, state, one, hub)
    file = verdict(tmp_path / "v.json", folder=one.folder)
    found = comment.comment(github, state, hub, head_sha=pull.head_sha, branch=one.branch, verdict_file=file)
    assert found.digests == [
        "model.safetensors has another digest on the Hub",
        "extra.py was added on the Hub",
    ]
    assert not found.passed
    assert "extra.py was added" in comments(github, pull)[0]


def test_a_staged_pull_request_that_is_gone_is_told(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    evidence = evidence_of()
    found = comment.digest_problems(hub, evidence.upload)
    assert found == [
        f"the staged pull request {evidence.upload.pr_num} of {evidence.upload.repo_id} cannot be read: "
        "there is no such repo, revision or file, or the token may not see it"
    ]


def test_the_verdict_of_another_commit_is_not_this_ones(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    file = verdict(tmp_path / "v.json")
    for head, branch in (("0" * 40, one.branch), (pull.head_sha, "main"), (pull.head_sha, "")):
        found = comment.comment(github, state, hub, head_sha=head, branch=branch, verdict_file=file)
        assert found.state == "no_pull_request"
    assert comments(github, pull) == []


def test_a_pull_request_that_is_no_card_s_is_left_alone(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    """A person's change of a card's prose on another branch is none of the comment's business."""
    branch = "mend-a-card"
    github.commit(branch, {"y": b"1"}, message="m", parent=github.head("main"), on=None)
    pull = github.open_pull(branch=branch, base="main", title="x", body="")
    file = verdict(tmp_path / "v.json")
    found = comment.comment(github, state, hub, head_sha=pull.head_sha, branch=branch, verdict_file=file)
    assert found.state == "no_pull_request"
    assert (comments(github, pull), github.pull(pull.number).labels) == ([], ())


def test_a_check_that_left_no_verdict_is_told(github: GitHub, state: BranchState, hub: Hub, tmp_path: Path):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    options = {"head_sha": pull.head_sha, "branch": one.branch}
    file = verdict(tmp_path / "v.json", folder=one.folder)
    assert comment.comment(github, state, hub, **options, verdict_file=file).passed
    found = comment.comment(github, state, hub, **options, verdict_file=tmp_path / "none.json")
    assert (found.passed, found.state) == (False, "updated")
    (text,) = comments(github, pull)
    assert "### The card does not hold" in text
    assert "the check left no verdict that can be read" in text
    assert "no card was found" not in text
    assert labels.PROBLEMS in github.pull(pull.number).labels


def test_a_hostile_verdict_is_text(github: GitHub, state: BranchState, hub: Hub, tmp_path: Path):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    evil = "```\n/retry\n@eve <img src=x> [x](https://evil) ::set-output name=x::y"
    file = verdict(tmp_path / "v.json", evil, folder="`@eve` ](https://evil)\n/skip because of it")
    comment.comment(github, state, hub, head_sha=pull.head_sha, branch=one.branch, verdict_file=file)
    (text,) = comments(github, pull)
    assert commanding.parse(text) == []
    assert text.count("```") == 2
    outside = text.split("```")[0]
    assert "\n/skip" not in outside
    assert "](https" not in outside.replace("`` `@eve` ](https://evil) /skip because of it ``", "")


@pytest.mark.parametrize("content", ["", "[]", '{"passed": true}', "x" * (2**20 + 1), '{"passed":1e999}'])
def test_a_verdict_that_is_none_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "v.json"
    path.write_text(content)
    with pytest.raises(InputError, match="verdict"):
        comment.read_verdict(path)


# ── commands ───────────────────────────────────────────────────────────────────────────────


def said(
    pull: Pull, text: str, who: str = "ann", *, by_bot: bool = False, at: datetime = AT
) -> commanding.Said:
    return commanding.Said(number=pull.number, who=who, text=text, at=at, by_bot=by_bot)


def test_an_override_reaches_card_labels_and_records(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub, measured=failing())
    pull = opened(github, state, one, hub)
    assert labels.FAILED in pull.labels
    asked = said(pull, "/override canary.image the picture is ours, and it is blue")
    found = commanding.obey(github, state, asked, hub_url=hub.endpoint)
    assert found.done == ["override of `canary.image` is recorded"]
    assert decided(state, one.key) == [("override", "ann")]
    pull = github.pull(pull.number)
    assert labels.OVERRIDDEN in pull.labels
    assert "**In spite of** canary.image: ann decided so" in pull.body
    folder, evidence = of_release(github, pull)
    assert evidence.gates.override.who == "ann"
    assert decisions.knows_override(state, evidence)
    text = github.read(f"{folder}/README.md", one.branch)[0].decode()
    assert "To be published in spite of canary.image" in text
    assert check.verdicts_hold(evidence)
    again = commanding.obey(github, state, asked, hub_url=hub.endpoint)
    assert again.done == []
    assert github.pull(pull.number).head_sha == pull.head_sha
    assert len(comments(github, pull)) == 1


def test_an_override_of_what_does_not_block_is_told(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    found = commanding.obey(
        github, state, said(pull, "/override kld it is good enough for me"), hub_url=hub.endpoint
    )
    assert found.failed
    assert "there is nothing to override" in comments(github, pull)[0]
    assert decided(state, one.key) == []


def test_retry_and_skip_are_recorded_with_who_said_so(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    found = commanding.obey(
        github, state, said(pull, "/retry\n/skip it is too slow here"), hub_url=hub.endpoint
    )
    assert len(found.done) == 2
    assert decided(state, one.key) == [("retry", "ann"), ("skip", "ann")]


@pytest.mark.parametrize(
    ("who", "by_bot", "words"),
    [
        ("eve", False, "no write access"),
        ("nobody", False, "no write access"),
        ("release-bot", False, "own comment"),
        ("ann", True, "own comment"),
    ],
)
def test_strangers_and_the_bot_itself_are_not_obeyed(
    emulated: Emulated, github: GitHub, state: BranchState, who: str, by_bot: bool, words: str
):
    """And not answered: whoever may comment must not be able to make the bot talk."""
    emulated.proxy.asked.clear()
    pull = Pull(
        number=1, title="", body="", state="open", author="", branch="", head_sha="", merge_sha=None, base="",
        same_repo=True, labels=(), url="",
    )  # fmt: skip
    found = commanding.obey(
        github, state, said(pull, "/skip because I can do it", who, by_bot=by_bot), hub_url="x"
    )
    assert words in found.ignored
    assert not [each for each in emulated.proxy.asked if not each.startswith("GET ")]


def test_a_command_elsewhere_is_told_to_its_author(github: GitHub, state: BranchState):
    branch = "topic"
    github.commit(branch, {"x": b"1"}, message="m", parent=github.head("main"), on=None)
    pull = github.open_pull(branch=branch, base="main", title="x", body="")
    found = commanding.obey(github, state, said(pull, "/retry"), hub_url="x")
    assert found.failed == [f"pull request {pull.number} is no card's"]
    assert "is no card's" in comments(github, pull)[0]


def test_nothing_is_obeyed_while_it_is_paused(github: GitHub, state: BranchState, hub: Hub, tmp_path: Path):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    state.write("PAUSED", "stop", version=None)
    with pytest.raises(Refused, match="paused"):
        commanding.obey(github, state, said(pull, "/retry"), hub_url=hub.endpoint)
    assert comments(github, pull) == []


def test_a_forks_pull_request_is_no_release(github: GitHub, state: BranchState):
    fork = Pull(
        number=1, title="Release", body="", state="open", author="eve", branch="release/" + "a" * 16,
        head_sha="0" * 40, merge_sha=None, base="main", same_repo=False, labels=(), url="https://github.test/1",
    )  # fmt: skip
    with pytest.raises(InputError, match="is no card's"):
        decisions.release_of(fork)


# ── closed, and merged ─────────────────────────────────────────────────────────────────────


def test_closing_refuses_the_release_and_its_weights(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    with pytest.raises(Refused, match="is open"):
        refuse(github, state, hub, number=pull.number, who="ann", at=AT)
    github.close_pull(pull.number)
    found = refuse(github, state, hub, number=pull.number, who="ann", at=AT)
    assert (found.key, found.recorded, found.hub) == (one.key, True, "closed")
    assert [(each.num, each.status) for each in hub.pull_requests(one.evidence.upload.repo_id)] == [
        (one.evidence.upload.pr_num, "closed")
    ]
    assert labels.REFUSED in github.pull(pull.number).labels
    again = refuse(github, state, hub, number=pull.number, who="ann", at=AT)
    assert (again.recorded, again.hub) == (False, "it is closed already")
    assert decided(state, one.key) == [("refuse", "ann")]


def test_a_refusal_is_of_the_moment_of_closing_however_often_it_is_told(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    """A check that ends after the closing, and a run that somebody starts again, tell it too."""
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    github.close_pull(pull.number)
    pull = github.pull(pull.number)
    assert pull.closed_at is not None

    def followed(who: str, *, minutes: int, attempt: int = 1) -> None:
        at = (pull.closed_at + timedelta(minutes=minutes)).isoformat()
        run = {"head_sha": pull.head_sha, "head_branch": one.branch, "actor": {"login": who}}
        found = closed.Run.model_validate({**run, "created_at": at, "run_attempt": attempt})
        assert closed.closed(github, state, hub, found).key == one.key

    followed("eve", minutes=-3)
    assert decided(state, one.key) == [("refuse", "unknown")]
    followed("ann", minutes=0)
    assert decided(state, one.key) == [("refuse", "ann")]
    again = said(pull, "/retry", at=pull.closed_at + timedelta(minutes=1))
    assert commanding.obey(github, state, again, hub_url=hub.endpoint).done
    followed("eve", minutes=-3)
    followed("eve", minutes=9, attempt=2)
    assert decided(state, one.key) == [("refuse", "ann"), ("retry", "ann")]
    found, _ = load(state, decisions_path(one.key), Decisions)
    assert found.decisions[0].at == pull.closed_at
    assert decisions.newest(state, one.key) == "retry"


def test_a_refusal_is_recorded_before_the_hub_is_asked(github: GitHub, state: BranchState, tmp_path: Path):
    one = carded(tmp_path, evidence_of())
    dead = Hub(embedded=True, endpoint="http://127.0.0.1:9", token="hf_x")
    pull = opened(github, state, one, dead)
    github.close_pull(pull.number)
    with pytest.raises(InfrastructureError):
        refuse(github, state, dead, number=pull.number, who="ann", at=AT)
    assert decided(state, one.key) == [("refuse", "ann")]


def hub_status(hub: Hub, one: Carded) -> str:
    (only,) = hub.pull_requests(one.evidence.upload.repo_id)
    return only.status


def keys(found: closed.Refusals) -> set[str]:
    assert found.failed == {}
    return {each.key for each in found.refused}


def test_a_card_whose_closing_no_event_told_is_refused_by_the_next_tick(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    """As that of one in conflict with the default branch, for which GitHub starts nothing."""
    one, other = staged(tmp_path, hub), staged(tmp_path, hub)
    pull, left_open = opened(github, state, one, hub), opened(github, state, other, hub)
    path = f"{one.folder}/README.md"
    github.commit(
        "main", {path: b"another card"}, message="x", parent=github.head("main"), on=github.head("main")
    )
    assert one.key not in keys(closed.every(github, state, hub))
    github.close_pull(pull.number)
    assert one.key in keys(closed.every(github, state, hub))
    assert decided(state, one.key) == [("refuse", "unknown")]
    assert (hub_status(hub, one), hub_status(hub, other)) == ("closed", "open")
    assert labels.REFUSED in github.pull(pull.number).labels
    assert labels.REFUSED not in github.pull(left_open.number).labels
    assert closed.every(github, state, hub).refused == []


def test_a_card_in_pieces_still_tells_its_release(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    """Evidence that cannot be read: the weights' pull request is found by the release's key."""
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    path = f"{one.folder}/evidence.json"
    head = github.head(one.branch)
    github.commit(one.branch, {path: b"<<<<<<< conflict"}, message="x", parent=head, on=head)
    github.close_pull(pull.number)
    assert one.key in keys(closed.every(github, state, hub))
    assert hub_status(hub, one) == "closed"


def test_a_card_whose_branch_was_deleted_is_refused_and_says_so(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """GitHub closes it then. The emulated one cannot delete a branch, so that its absence is played."""
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    github.close_pull(pull.number)
    head = github.head
    monkeypatch.setattr(github, "head", lambda branch: None if branch == one.branch else head(branch))
    assert one.key in keys(closed.every(github, state, hub))
    assert hub_status(hub, one) == "closed"
    found, _ = load(state, decisions_path(one.key), Decisions)
    why = f"pull request {pull.number} was closed without merging; its branch is gone"
    assert found.decisions[0].why == why
    pair = Pair(key=one.key, base="b", revision="a" * 40, recipe="r", target_repo="o/t")
    world = World(records=ledger.read(state), targets={}, staged={}, cards={}, figures={}, hub_url="")
    told = ledger.status(pair, world, AT)
    assert (told.state, told.detail) == ("refused", f"by unknown: {why}")


def test_what_a_person_took_back_is_not_refused_later(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    """It may be under way again by then, from the weights that are staged."""
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    github.close_pull(pull.number)
    at = github.pull(pull.number).closed_at + timedelta(minutes=1)
    assert commanding.obey(github, state, said(pull, "/retry", at=at), hub_url=hub.endpoint).done
    assert one.key not in keys(closed.every(github, state, hub))
    assert hub_status(hub, one) == "open"


def test_a_hub_that_is_away_leaves_the_rest_to_the_next_tick(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = staged(tmp_path, hub)
    pull = opened(github, state, one, hub)
    github.close_pull(pull.number)
    state.write(PAUSED, "stop", version=None)
    assert closed.every(github, state, hub).refused == []
    state.delete(PAUSED, state.read(PAUSED).version)
    dead = Hub(embedded=True, endpoint="http://127.0.0.1:9", token="hf_x")
    assert one.key in closed.every(github, state, dead).failed
    assert decided(state, one.key) == [("refuse", "unknown")]
    assert one.key in keys(closed.every(github, state, hub))
    assert hub_status(hub, one) == "closed"


def test_a_strangers_pull_request_on_the_hub_stays_open(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    """Evidence that names another pull request closes nothing."""
    other = staged(tmp_path, hub)
    mine = evidence_of()
    upload = other.evidence.upload.model_copy(update={"repo_id": other.evidence.release.target_repo})
    stolen = evidence_of(upload, of=mine)
    one = carded(tmp_path, stolen)
    pull = opened(github, state, one, hub)
    github.close_pull(pull.number)
    assert refuse(github, state, hub, number=pull.number, who="ann", at=AT).hub == "there is none"
    assert next(iter(hub.pull_requests(upload.repo_id))).status == "open"


def checkout(root: Path, one: Carded) -> list[str]:
    """The default branch after the merge, and what the push changed."""
    shutil.copytree(one.card, root / one.folder)
    return [
        f"{one.folder}/README.md",
        f"{one.folder}/evidence.json",
        "bot/x.py",
        "model_cards/templates/x.j2",
    ]


def test_only_a_merged_card_is_published(github: GitHub, state: BranchState, hub: Hub, tmp_path: Path):
    one = carded(tmp_path, evidence_of())
    root = tmp_path / "checkout"
    changed = checkout(root, one)
    assert merged.publishable(github, state, root, changed).passed_over == {
        one.folder: f"no merged pull request of {one.branch} brought this card"
    }
    pull = opened(github, state, one, hub)
    assert merged.publishable(github, state, root, changed).releases == []
    github._repo.get_pull(pull.number).merge(merge_method="squash")
    found = merged.publishable(github, state, root, changed)
    repo = one.evidence.release.target_repo
    assert found.matrix() == {"include": [{"key": one.key, "card": one.folder, "repo": repo}]}
    assert merged.card_of(root, one.key) == one.folder
    (root / one.folder / "plots" / "extra.png").write_bytes(b"x")
    (why,) = merged.publishable(github, state, root, changed).passed_over.values()
    assert why == f"plots/extra.png changed after pull request {pull.number} was merged"


def test_a_card_that_somebody_else_opened_is_not_published(
    emulated: Emulated, github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    one = carded(tmp_path, evidence_of())
    root = tmp_path / "checkout"
    changed = checkout(root, one)
    pull = opened(emulated.client("ann"), state, one, hub)
    github._repo.get_pull(pull.number).merge(merge_method="squash")
    (why,) = merged.publishable(github, state, root, changed).passed_over.values()
    assert why == f"pull request {pull.number} was opened by ann, not by release-bot"
    github.login = ""
    assert len(merged.publishable(github, state, root, changed).releases) == 1


def test_an_override_that_nobody_commanded_is_not_published(
    github: GitHub, state: BranchState, hub: Hub, tmp_path: Path
):
    from bot.stages import gate

    made = evidence_of(measured=failing())
    forged = gate.decide(
        made.gates, gate_ids=["canary.image"], who="ann", why="ann never said this", at=AT.isoformat()
    )
    evidence = made.model_copy(update={"gates": made.gates.model_copy(update={"override": forged})})
    one = carded(tmp_path, evidence)
    root = tmp_path / "checkout"
    changed = checkout(root, one)
    pull = opened(github, state, one, hub)
    github._repo.get_pull(pull.number).merge(merge_method="squash")
    (why,) = merged.publishable(github, state, root, changed).passed_over.values()
    assert why == "the override in the evidence is none that anybody commanded here"
