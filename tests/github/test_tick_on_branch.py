"""A tick and a worker over the state branch: two requests to read it, and two runners of which one wins."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta

import pytest
from huggingface_hub import CommitOperationAdd

from bot import config, fleet, lease, outcome, preparing, survey
from bot import plan as planning
from bot import recipe as recipes
from bot.commands_watching import card_pulls, tick
from bot.config import Watch
from bot.edges.github import GitHub
from bot.edges.hub import Hub
from bot.edges.state_branch import BranchState
from bot.errors import Refused
from bot.lease import Work
from bot.outcome import Failure
from bot.state import attempts_path, lease_path, watched_path
from bot.watch import watch

pytestmark = pytest.mark.contract


@pytest.fixture
def author(hub: Hub) -> str:
    """An author with one base, and the data sets that recipes name."""
    name = f"author{secrets.token_hex(4)}"
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    parts = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}
    files = {
        "config.json": json.dumps(parts).encode(),
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(8),
    }
    for dataset in {each.dataset for known in recipes.names() for each in recipes.load(known).sets()}:
        hub.api.create_repo(dataset, repo_type="dataset", exist_ok=True)
    hub.api.create_repo(f"{name}/Qwen3.6-1B")
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    hub.api.create_commit(f"{name}/Qwen3.6-1B", operations, commit_message="x")
    return name


def settings(author: str) -> config.Config:
    return config.Config(organization=f"org-{author}", watch=Watch(authors=[author], settle_minutes=0))


def plan(author: str, hub: Hub, state: BranchState, github: GitHub) -> planning.Plan:
    chosen, snapshot = settings(author), state.snapshot()
    watched = watch(chosen.watch, hub, snapshot, now=datetime.now(UTC) + timedelta(minutes=1))
    cards = card_pulls(github.pulls())
    return tick(chosen, hub, snapshot, watched, fleet.load(), cards=cards, write=True)


def work(entry: planning.PlanEntry) -> Work:
    return Work(key=entry.key, base=entry.base, revision=entry.revision, recipe=entry.recipe, run_url="")


def test_what_was_seen_stands_on_the_branch_and_is_read_in_two_requests(author, hub, state, github, emulated):
    first = plan(author, hub, state, github)
    assert len(first.entries) == len(recipes.names())
    assert watched_path(author) in state.list("")
    emulated.proxy.asked.clear()
    again = plan(author, hub, state, github)
    assert again.entries == first.entries
    switch = [each for each in emulated.proxy.asked if each.endswith("/PAUSED")]
    assert len(switch) == 2, "before it watches and before it plans"
    rest = len(emulated.proxy.asked) - len(switch)
    assert rest <= 4, emulated.proxy.asked  # the branch, its archive, pull requests


def test_two_runners_race_and_the_loser_leaves_no_trace(author, hub, state, github):
    entry = plan(author, hub, state, github).entries[0]
    _take(state, entry, "run-1")
    before = state.list("")
    with pytest.raises(Refused, match="worked on by run-1"):
        _take(state, entry, "run-2")
    assert not _finish(state, entry, "run-2", "success").given_back
    assert state.list("") == before
    codes = {each.key: each.code for each in plan(author, hub, state, github).skips}
    assert codes[entry.key] == "building"
    assert _finish(state, entry, "run-1", "success").given_back
    assert lease_path(entry.key) not in state.list("")


def test_a_failure_is_on_the_branch_and_quarantines(author, hub, state, github):
    entry = plan(author, hub, state, github).entries[0]
    _take(state, entry, "run-1")
    lost = Failure(stage="quantize", failure_class="backend", what="the loss is NaN").model_dump_json()
    _finish(state, entry, "run-1", "failure", failure=lost)
    assert attempts_path(entry.key) in state.list("")
    skip = next(each for each in plan(author, hub, state, github).skips if each.key == entry.key)
    assert (skip.code, skip.reason) == ("quarantined", "backend in quantize: the loss is NaN")


def test_a_dead_runner_ends_its_lease_with_its_run_and_the_other_goes_on(author, hub, state, github):
    """Minutes after GitHub missed it, and not when the lease would have run out, days later."""
    entry = plan(author, hub, state, github).entries[0]
    _take(state, entry, "run-1")
    found = _finish(state, entry, "run-1", "failure")  # the job said nothing: its machine is gone
    assert (found.recorded.failure_class, found.given_back) == ("infrastructure", True)
    skip = next(each for each in plan(author, hub, state, github).skips if each.key == entry.key)
    assert (skip.code, skip.until is not None) == ("failed", True)
    _take(state, entry, "run-2")
    assert lease_path(entry.key) in state.list("")


def _take(state: BranchState, entry: planning.PlanEntry, holder: str) -> None:
    lease.take(state, work(entry), holder=holder, now=datetime.now(UTC), ttl=preparing.term(entry))


def _finish(
    state: BranchState, entry: planning.PlanEntry, holder: str, result: str, **outputs: str
) -> outcome.Finished:
    """The run's last job, which GitHub starts however the build ended."""
    needs = {"build": outcome.JobResult(result=result, outputs=outputs)}
    return outcome.finish(state, work(entry), needs, holder=holder, now=datetime.now(UTC))


def test_survey_asks_for_staged_weights_only_where_they_may_be(author, hub, state, github):
    entry = plan(author, hub, state, github).entries[0]
    world = survey.world(hub, state, settings(author).organization, cards=[], figures={})
    assert survey.with_staged(world, hub, [entry]).staged == {}
    hub.api.create_repo(entry.target_repo, private=True)
    title = f"Release {entry.key}: x"
    operations = [CommitOperationAdd("x.txt", b"x")]
    hub.api.create_commit(entry.target_repo, operations, commit_message=title, create_pr=True)
    world = survey.world(hub, state, settings(author).organization, cards=[], figures={})
    assert survey.with_staged(world, hub, [entry]).staged[entry.key].number == 1
