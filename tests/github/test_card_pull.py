"""The card's pull request: opened once, updated where something changed, a reviewer's words kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from carded import Carded, carded, evidence_of, failing
from emulated import Emulated

from bot import prose
from bot.edges.github import GitHub
from bot.edges.state_branch import BranchState
from bot.errors import GateFailed, InfrastructureError, InputError, Refused
from bot.review import body, decisions, labels
from bot.review.pull import Offered, bring, fetch_card, of_release, offer
from bot.state import Decision

HUB = "https://hub.example"
WRITING = ("POST", "PUT", "PATCH", "DELETE")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Carded:
    """A card whose gates pass. Its pull request is opened by the first test that needs it."""
    return carded(tmp_path_factory.mktemp("one"), evidence_of())


def brought(github: GitHub, state: BranchState, one: Carded) -> Offered:
    """`offer` without looking at the card again, which draws every plot."""
    return bring(github, state, one.evidence, one.card, hub_url=HUB)


def edit(github: GitHub, one: Carded, before: str, after: str) -> None:
    """A reviewer's commit on the card's branch."""
    path = f"{one.folder}/README.md"
    data, version = github.read(path, one.branch)
    assert before in data.decode()
    changed = data.decode().replace(before, after, 1).encode()
    github.put(path, changed, branch=one.branch, message="Edit", replaces=version)


def decided(state: BranchState, key: str, kind: str, at: datetime) -> None:
    decisions.record(state, Decision(key=key, kind=kind, who="ann", why="because", at=at, gates=[]))


def test_a_card_gets_one_pull_request_whatever_happens(
    emulated: Emulated, github: GitHub, state: BranchState, one: Carded
):
    opened = offer(github, state, one.card, hub_url=HUB)
    assert (opened.state, opened.branch) == ("opened", one.branch)
    pull = github.pull(opened.number)
    assert pull.title == body.title(one.evidence)
    assert set(pull.labels) == {labels.BOT, labels.PASSED, labels.REHEARSAL}
    assert f"{HUB}/{one.evidence.upload.repo_id}/discussions/{one.evidence.upload.pr_num}" in pull.body
    files = {p: f for p, f in github.tree(pull.head_sha).items() if p.startswith(one.folder)}
    names = {path.removeprefix(f"{one.folder}/") for path in files}
    assert names == {p.relative_to(one.card).as_posix() for p in one.card.rglob("*") if p.is_file()}
    assert github.blob(files[f"{one.folder}/README.md"].sha) == (one.card / "README.md").read_bytes()

    emulated.proxy.asked.clear()
    assert brought(github, state, one).state == "unchanged"
    assert [each for each in emulated.proxy.asked if each.startswith(WRITING)] == []

    edit(github, one, "<!-- prose:note -->\n", "<!-- prose:note -->\nTried it in German: good.\n")
    assert brought(github, state, one).state == "updated"  # its body shows the new commit
    text = github.read(f"{one.folder}/README.md", one.branch)[0].decode()
    assert prose.regions(text)["note"] == "Tried it in German: good."
    assert brought(github, state, one).state == "unchanged"
    assert len(github.pulls(branch=one.branch)) == 1


def test_other_evidence_renders_the_card_anew_and_keeps_the_words(
    github: GitHub, state: BranchState, tmp_path: Path
):
    first = carded(tmp_path, evidence_of())
    number = brought(github, state, first).number
    edit(github, first, "<!-- prose:note -->\n", "<!-- prose:note -->\nMind the last gate.\n")
    edit(github, first, "## Audit", "## My audit")
    second = carded(tmp_path, evidence_of(of=first.evidence, measured=failing()))
    updated = brought(github, state, second)
    assert (updated.number, updated.state) == (number, "updated")
    text = github.read(f"{first.folder}/README.md", first.branch)[0].decode()
    assert "Mind the last gate." in text
    assert "## My audit" not in text
    assert "does not pass its gates" in text
    pull = github.pull(number)
    assert labels.FAILED in pull.labels
    assert labels.PASSED not in pull.labels
    assert "**Not to be published** unless a maintainer overrides" in pull.body
    found_folder, found = of_release(github, pull)
    assert found_folder == first.folder
    assert found.model_dump_json() == second.evidence.model_dump_json()


def test_words_are_not_lost_to_broken_marks(github: GitHub, state: BranchState, tmp_path: Path):
    one = carded(tmp_path, evidence_of())
    brought(github, state, one)
    edit(github, one, "<!-- prose:note -->\n", "<!-- prose:note -->\nHours of work.\n<!-- prose:mine -->\n")
    head = github.head(one.branch)
    with pytest.raises(Refused, match="marks of the prose regions are broken"):
        brought(github, state, one)
    assert github.head(one.branch) == head


def test_a_plot_that_is_no_longer_drawn_leaves_the_branch(github: GitHub, state: BranchState, tmp_path: Path):
    one = carded(tmp_path, evidence_of())
    pull = github.pull(brought(github, state, one).number)
    stray = {f"{one.folder}/plots/old.png": b"x"}
    github.commit(one.branch, stray, message="Stray", parent=pull.head_sha, on=pull.head_sha)
    brought(github, state, one)
    assert f"{one.folder}/plots/old.png" not in github.tree(github.head(one.branch))


def test_two_runs_at_once_open_one(emulated: Emulated, state: BranchState, tmp_path: Path):
    one = carded(tmp_path, evidence_of())

    def run(_: int) -> str:
        try:
            return brought(emulated.client(), state, one).state
        except Refused:
            return "lost"  # the branch appeared in between: the next run finds it

    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(run, range(2)))
    assert "opened" in told
    assert len(emulated.client().pulls(branch=one.branch)) == 1


def test_a_run_that_was_cut_is_finished_by_the_next(
    emulated: Emulated, github: GitHub, state: BranchState, tmp_path: Path
):
    one = carded(tmp_path, evidence_of())
    for method, path, after in (
        ("POST", "/git/blobs$", False),
        ("POST", "/git/refs$", True),
        ("POST", "/pulls$", True),
        ("PUT", "/labels$", False),
    ):
        emulated.proxy.fail(method, path, 0, after=after)
        with pytest.raises(InfrastructureError):
            brought(github, state, one)
    offered = brought(github, state, one)
    assert set(github.pull(offered.number).labels) >= {labels.BOT, labels.PASSED}
    assert len(github.pulls(branch=one.branch)) == 1


def test_a_closed_one_is_a_refusal_until_somebody_says_retry(
    github: GitHub, state: BranchState, tmp_path: Path
):
    one = carded(tmp_path, evidence_of())
    first = brought(github, state, one)
    opened_at = datetime.now(UTC) - timedelta(hours=1)
    decided(state, one.key, "retry", opened_at)
    github.close_pull(first.number)
    closed_at = github.pull(first.number).closed_at
    assert closed_at is not None
    assert closed_at > opened_at
    with pytest.raises(Refused, match=f"pull request {first.number} is closed"):
        brought(github, state, one)  # what was said before the closing does not take it back
    decided(state, one.key, "refuse", closed_at)
    decided(state, one.key, "retry", closed_at + timedelta(hours=1))
    second = brought(github, state, one)
    assert (second.state, second.number > first.number) == ("opened", True)
    decided(state, one.key, "skip", closed_at + timedelta(hours=2))
    with pytest.raises(Refused, match="was refused"):
        brought(github, state, one)


def test_a_merged_one_is_left_alone_and_shows_in_the_next(
    emulated: Emulated, github: GitHub, state: BranchState, tmp_path: Path
):
    """The next release of the same repo says what changed since."""
    first = carded(tmp_path, evidence_of(name="Qwen3.5-twice"))
    number = brought(github, state, first).number
    assert "No earlier release by this recipe" in github.pull(number).body
    github._repo.get_pull(number).merge(merge_method="squash")
    assert brought(github, state, first).state == "merged"
    second = carded(tmp_path, evidence_of(name="Qwen3.5-twice", measured=failing()))
    late = {"late.txt": b"1"}
    main = github.head("main")
    github.commit("main", late, message="Meanwhile", parent=main, on=main)
    opened = brought(github, state, second)
    text = github.pull(opened.number).body
    assert f"Against release `{first.key}`" in text
    assert "| gates that block | 0 | 1 |" in text
    assert of_release(github, github.pull(opened.number))[1].release.key == second.key
    github._repo.get_pull(opened.number).merge(merge_method="squash")
    tree = github.tree(github.pull(opened.number).merge_sha)
    assert "late.txt" in tree
    assert (
        github.blob(tree[f"{second.folder}/evidence.json"].sha)
        == (second.card / "evidence.json").read_bytes()
    )


def test_nothing_is_written_while_it_is_paused(
    emulated: Emulated, github: GitHub, state: BranchState, one: Carded
):
    state.write("PAUSED", '{"who": "ann", "why": "wait", "at": "2026-11-21T12:00:00Z"}', version=None)
    emulated.proxy.asked.clear()
    with pytest.raises(Refused, match="paused by ann: wait"):
        offer(github, state, one.card, hub_url=HUB)
    assert [each for each in emulated.proxy.asked if each.startswith(WRITING)] == []


def test_a_card_that_does_not_hold_opens_nothing(
    github: GitHub, state: BranchState, one: Carded, tmp_path: Path
):
    readme = (one.card / "README.md").read_text()
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "evidence.json").write_bytes((one.card / "evidence.json").read_bytes())
    (tmp_path / "card" / "README.md").write_text(readme.replace("| MTP head |", "| head |"))
    with pytest.raises(GateFailed):
        offer(github, state, tmp_path / "card", hub_url=HUB)


def test_only_a_cards_files_are_fetched(github: GitHub, tmp_path: Path):
    head = github.head("main")
    branch, folder = "release/" + "a" * 16, "model_cards/a--b"
    files = dict.fromkeys(
        [
            f"{folder}/README.md",
            f"{folder}/plots/x.png",
            f"{folder}/run.py",
            f"{folder}/plots/../../../x",
            "y",
        ],
        b"1",
    )
    files = {path: data for path, data in files.items() if ".." not in path}
    github.commit(branch, files, message="m", parent=head, on=None)
    pull = github.open_pull(branch=branch, base="main", title="x", body="y")
    fetch_card(github, pull, folder, tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        "README.md",
        "plots/x.png",
    }
    with pytest.raises(InputError, match="holds no card"):
        of_release(github, pull)


@pytest.mark.parametrize("branch", ["main2", "release/xyz", "release/" + "A" * 16, "x/release/" + "a" * 16])
def test_another_branch_is_no_release(github: GitHub, branch: str):
    head = github.commit(branch, {branch: b"1"}, message="m", parent=github.head("main"), on=None)
    assert head
    pull = github.open_pull(branch=branch, base="main", title="Release", body=body.MARKER)
    with pytest.raises(InputError, match="is no card's"):
        decisions.release_of(pull)
