"""The state on a branch of a GitHub: one of two writers wins, whoever wrote elsewhere in between."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from emulated import Emulated

from bot import attempts
from bot.edges.state_branch import BranchState, blob_id
from bot.errors import InfrastructureError, InputError, Refused, ReleaseBotError, UsageError
from bot.state import PAUSED, Attempt, Attempts, attempts_path, load, refuse_paused, resume

KEY = "0123456789abcdef"


@pytest.fixture
def branch() -> str:
    return f"state-{secrets.token_hex(4)}"


@pytest.fixture
def state(emulated: Emulated, branch: str) -> BranchState:
    return BranchState(emulated.client(), branch=branch, pause_s=0.01)


def test_an_empty_state_needs_no_branch(state: BranchState):
    assert state.read("attempts/a.json") is None
    assert state.list("") == []
    assert state.snapshot().list("") == []
    refuse_paused(state)


def test_the_first_write_makes_a_branch_without_history(emulated: Emulated, state: BranchState):
    state.write("attempts/a.json", "{}\n", version=None)
    assert state.read("attempts/a.json").text == "{}\n"
    head = emulated.client().head(state.branch)
    assert set(emulated.client().tree(head)) == {"README.md", "attempts/a.json"}


def test_a_document_is_written_over_the_version_that_was_read(state: BranchState):
    state.write("a.json", "1", version=None)
    found = state.read("a.json")
    state.write("a.json", "2", version=found.version)
    for stale in (found.version, None):
        with pytest.raises(Refused, match="changed by somebody else"):
            state.write("a.json", "3", version=stale)
    with pytest.raises(Refused, match="changed by somebody else"):
        state.delete("a.json", found.version)
    state.delete("a.json", state.read("a.json").version)
    assert state.read("a.json") is None
    with pytest.raises(Refused, match="changed by somebody else"):
        state.write("a.json", "4", version=found.version)


def test_of_many_who_take_one_document_one_wins(emulated: Emulated, branch: str):
    BranchState(emulated.client(), branch=branch, pause_s=0.01).write("x.json", "{}", version=None)

    def take(num: int) -> bool:
        state = BranchState(emulated.client(), branch=branch, pause_s=0.01)
        try:
            state.write("leases/a.json", f"runner {num}", version=None)
        except Refused:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = [num for num, taken in enumerate(pool.map(take, range(6))) if taken]
    assert len(won) == 1
    found = BranchState(emulated.client(), branch=branch).read("leases/a.json")
    assert found.text == f"runner {won[0]}"


def test_a_conflict_over_another_document_is_tried_again(emulated: Emulated, state: BranchState):
    """GitHub answers 409 when the branch moved, whichever file moved it."""
    state.write("a.json", "1", version=None)
    version = state.read("a.json").version
    emulated.proxy.fail("PUT", "/contents/a.json$", 409, times=2)
    state.write("a.json", "2", version=version)
    assert state.read("a.json").text == "2"
    emulated.proxy.fail("DELETE", "/contents/a.json$", 409)
    state.delete("a.json", state.read("a.json").version)
    assert state.read("a.json") is None


def test_a_conflict_without_end_is_the_infrastructure_s(emulated: Emulated, state: BranchState):
    """The document is as it was read: nobody won, and whoever asks may come again."""
    state.write("a.json", "1", version=None)
    emulated.proxy.fail("PUT", "/contents/a.json$", 409, times=99)
    with pytest.raises(InfrastructureError, match="could not be written") as told:
        state.write("a.json", "2", version=state.read("a.json").version)
    assert "409" in told.value.why
    emulated.proxy.fail("DELETE", "/contents/a.json$", 422, times=99)
    with pytest.raises(InfrastructureError, match="could not be written"):
        state.delete("a.json", state.read("a.json").version)


def test_a_write_whose_answer_was_lost_counts(emulated: Emulated, state: BranchState):
    state.write("x.json", "{}", version=None)
    emulated.proxy.fail("PUT", "/contents/a.json$", 0, after=True)
    state.write("a.json", "mine", version=None)
    emulated.proxy.fail("DELETE", "/contents/a.json$", 0, after=True)
    state.delete("a.json", blob_id(b"mine"))
    assert state.list("") == ["x.json"]


@pytest.mark.parametrize("status", [0, 500, 503])
def test_what_github_failed_over_is_tried_again(emulated: Emulated, state: BranchState, status: int):
    state.write("x.json", "{}", version=None)
    emulated.proxy.fail("PUT", "/contents/b.json$", status, times=2)
    state.write("b.json", "mine", version=None)
    emulated.proxy.fail("DELETE", "/contents/b.json$", status, times=2)
    state.delete("b.json", state.read("b.json").version)
    assert state.list("") == ["x.json"]


def test_a_github_that_is_away_is_told_soon(emulated: Emulated, state: BranchState):
    state.write("x.json", "{}", version=None)
    emulated.proxy.fail("PUT", "/contents/b.json$", 503, times=99)
    emulated.proxy.asked.clear()
    with pytest.raises(InfrastructureError, match="503"):
        state.write("b.json", "mine", version=None)
    assert sum(each.startswith("PUT") for each in emulated.proxy.asked) == 3


def test_a_snapshot_reads_thousands_in_two_requests(emulated: Emulated, state: BranchState):
    github = emulated.client()
    files = {f"attempts/{num:04}.json": b'{"n": %d}' % num for num in range(300)} | {"README.md": b"x"}
    github.commit(state.branch, files, message="Many", parent=None, on=None)
    emulated.proxy.asked.clear()
    found = state.snapshot()
    texts = [found.read(path).text for path in found.list("attempts/")]
    assert texts == [f'{{"n": {num}}}' for num in range(300)]
    ours = [each for each in emulated.proxy.asked if "_archive" not in each]
    assert len(ours) == 2
    assert len(state.list("attempts/")) == 300


def test_what_a_snapshot_writes_is_on_the_branch_and_in_it(state: BranchState):
    state.write("a.json", "1", version=None)
    found = state.snapshot()
    assert found.read("a.json") == state.read("a.json")
    found.write("a.json", "2", version=found.read("a.json").version)
    assert found.read("a.json") == state.read("a.json")
    state.write("a.json", "3", version=state.read("a.json").version)
    with pytest.raises(Refused):
        found.write("a.json", "4", version=found.read("a.json").version)
    again = state.snapshot()
    again.delete("a.json", again.read("a.json").version)
    assert again.read("a.json") is None
    assert state.read("a.json") is None


def test_whoever_lost_a_race_over_a_snapshot_sees_who_won(state: BranchState):
    """Loops that write what they read, and again after a lost race, would else lose every time."""
    state.write(attempts_path(KEY), Attempts(key=KEY, attempts=[]).model_dump_json(), version=None)
    behind, other = state.snapshot(), state.snapshot()
    attempts.record(other, attempt("2"))
    attempts.record(behind, attempt("3"))
    found, _ = load(state, attempts_path(KEY), Attempts)
    assert [each.run_id for each in found.attempts] == ["2", "3"]
    state.delete(attempts_path(KEY), state.read(attempts_path(KEY)).version)
    attempts.record(behind, attempt("4"))
    assert [each.run_id for each in load(state, attempts_path(KEY), Attempts)[0].attempts] == ["4"]


def attempt(run_id: str) -> Attempt:
    return Attempt(
        key=KEY, base="Qwen/x", revision="a" * 40, recipe="nvfp4", stage="build", what="x", run_url="",
        failure_class="infrastructure", at=datetime(2026, 11, 21, tzinfo=UTC), run_id=run_id,
    )  # fmt: skip


def test_the_kill_switch_is_a_file_on_the_branch(emulated: Emulated, state: BranchState):
    emulated.client().commit(
        state.branch, {"PAUSED": b"please stop\n"}, message="By hand", parent=None, on=None
    )
    for each in (state, state.snapshot()):
        with pytest.raises(Refused, match="paused by somebody: please stop"):
            refuse_paused(each)


def test_a_state_read_as_a_whole_sees_a_switch_that_was_set_since(state: BranchState):
    before = state.snapshot()
    refuse_paused(before)
    state.write(PAUSED, "", version=None)
    with pytest.raises(Refused, match="paused"):
        refuse_paused(before)
    assert resume(state)
    refuse_paused(before)


@pytest.mark.parametrize(
    "path", ["../x.json", "/etc/passwd", "a/../../b.json", "a b.json", "a\nb", "", "a//b"]
)
def test_a_path_stays_in_the_state(state: BranchState, path: str):
    for call in (state.read, lambda p: state.write(p, "", version=None), lambda p: state.delete(p, "x")):
        with pytest.raises(UsageError):
            call(path)


def test_a_reader_does_not_write(emulated: Emulated, branch: str):
    state = BranchState(emulated.client("eve"), branch=branch, pause_s=0.01)
    with pytest.raises(ReleaseBotError, match=r"40[34]") as refused:
        state.write("a.json", "1", version=None)
    assert isinstance(refused.value, (InputError, Refused))


def test_a_document_that_is_no_text_is_told(emulated: Emulated, state: BranchState):
    files = {"a.json": b"\xff\xfe"}
    emulated.client().commit(state.branch, files, message="By hand", parent=None, on=None)
    with pytest.raises(InputError, match="not text"):
        state.read("a.json")


def test_versions_are_the_ids_that_git_gives():
    assert blob_id(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
