"""Workflows under act that start no engine: what ends early, what people say, and what stops everything."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chain as chains
import pytest
from acting import RECIPE
from chain import Chain

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "github"))

from carded import Carded, carded, evidence_of, stage

from bot.demo import rehearsal
from bot.edges.hub import Hub
from bot.edges.state_branch import BranchState
from bot.review.pull import bring

BASE = rehearsal.BASE


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("runs")
    with chains.running(folder, folder / "home", publishers=[]) as found:
        yield found


@pytest.fixture
def offered(chain: Chain, tmp_path: Path) -> tuple[Carded, Any]:
    """A card under review whose weights are staged with the build job's own token."""
    evidence = evidence_of()
    chain.hub.create_private(evidence.release.target_repo)
    builder = Hub(embedded=True, endpoint=chain.hub.endpoint, token=chains.token_of("HUB_BUILD_TOKEN"))
    one = carded(tmp_path, stage(tmp_path, builder, evidence))
    client = chain.github.client()
    number = bring(client, BranchState(client), one.evidence, one.card, hub_url=chain.hub.endpoint).number
    return one, client._repo.get_pull(number)


def document(chain: Chain, path: str) -> Any:
    return json.loads(chain.documents()[path])


def test_a_lost_runner_is_recorded_gives_its_lease_back_and_is_tried_later(chain: Chain):
    ran = chain.by_hand(BASE, has_gpu=False)
    assert ran.jobs == {"prepare": "success", "finish": "success"}
    (path,) = [each for each in chain.documents() if each.startswith("attempts/")]
    (attempt,) = document(chain, path)["attempts"]
    assert (attempt["failure_class"], attempt["recipe"]) == ("infrastructure", RECIPE)
    assert not any(each.startswith("leases/") for each in chain.documents())
    later = chain.tick(has_gpu=False)
    assert later.jobs == {"plan": "success", "refuse": "success", "dashboard": "success"}
    assert "again at" in later.log


def test_a_card_is_checked_and_commented_once(chain: Chain, offered: tuple[Carded, Any]):
    _, pull = offered
    for _ in range(2):
        checked, said = chain.review(pull)
        assert checked.jobs == {"check": "success"}
        assert said.jobs == {"comment": "success", "closed": "success"}
    comments = [each.body for each in chain.github.client().comments(pull.number)]
    assert ["The card holds" in each for each in comments] == [True]


def test_an_edited_figure_fails_the_check_and_is_explained(chain: Chain, offered: tuple[Carded, Any]):
    one, pull = offered
    readme = f"{one.folder}/README.md"
    client = chain.github.client()
    data, blob = client.read(readme, one.branch)
    client.put(readme, data.replace(b" MiB", b" GiB"), branch=one.branch, message="Larger", replaces=blob)
    checked, said = chain.review(client._repo.get_pull(pull.number))
    assert checked.jobs == {"check": "failure"}
    assert checked.results("check")["Leave the verdict"] == "success"
    assert said.jobs == {"comment": "success", "closed": "success"}
    (comment,) = [each.body for each in client.comments(pull.number)]
    assert "The card does not hold" in comment


def test_closing_without_merging_refuses_the_release_on_both_sides(chain: Chain, offered: tuple[Carded, Any]):
    one, pull = offered
    checked, followed = chain.close(pull)
    assert checked.jobs == {"closed": "success"}
    assert followed.jobs["closed"] == "success"
    (decision,) = document(chain, f"decisions/{one.key}.json")["decisions"]
    assert (decision["kind"], decision["who"]) == ("refuse", "ann")
    (staged,) = chain.hub.pull_requests(one.evidence.release.target_repo)
    assert staged.status == "closed"


def test_a_card_that_was_closed_without_an_event_is_refused_by_the_next_tick(
    chain: Chain, offered: tuple[Carded, Any]
):
    """GitHub starts nothing for a pull request that conflicts, nor for its closing."""
    one, pull = offered
    pull.edit(state="closed")
    ran = chain.tick(has_gpu=False)
    assert ran.results("refuse")["Refuse the releases whose cards were closed"] == "success"
    (decision,) = document(chain, f"decisions/{one.key}.json")["decisions"]
    assert (decision["kind"], decision["who"]) == ("refuse", "unknown")
    (staged,) = chain.hub.pull_requests(one.evidence.release.target_repo)
    assert staged.status == "closed"


def test_only_people_with_write_access_command(chain: Chain, offered: tuple[Carded, Any], tmp_path: Path):
    one, pull = offered
    hostile = f"/skip because I say so, $(touch {tmp_path}/ran) `touch {tmp_path}/ran`"
    assert chain.say(pull, "eve", hostile).jobs == {"comment": "success"}
    assert not (tmp_path / "ran").exists()
    assert f"decisions/{one.key}.json" not in chain.documents()
    assert chain.say(pull, "ann", "/skip it waits for its base").jobs == {"comment": "success"}
    (decision,) = document(chain, f"decisions/{one.key}.json")["decisions"]
    assert (decision["kind"], decision["who"], decision["why"]) == ("skip", "ann", "it waits for its base")


def test_a_ticked_box_starts_publishing(chain: Chain):
    chain.tick(has_gpu=False)
    key = "0123456789abcdef"
    assert chain.tick_box("eve", f"approve:{key}").results("dashboard")["Do what was ticked"] == "success"
    assert chain.github.proxy.dispatched == []
    ran = chain.tick_box("ann", f"approve:{key}")
    assert ran.results("dashboard")["Publish what was approved"] == "success"
    assert chain.github.proxy.dispatched == [{"ref": "main", "inputs": {"key": key}}]


def test_a_push_that_no_merged_pull_request_brought_publishes_nothing(
    chain: Chain, offered: tuple[Carded, Any]
):
    _, pull = offered
    before, after = chain.bring(pull.head.sha, "main")
    assert chain.push(before, after).jobs == {"select": "success"}


def test_the_kill_switch_stops_everything(chain: Chain):
    paused = {"who": "ann", "why": "something is wrong", "at": "2026-11-21T12:00:00Z"}
    state = chain.state()
    state.write("PAUSED", json.dumps(paused), version=None)
    before = chain.documents()
    ran = chain.tick(has_gpu=False)
    assert ran.jobs["plan"] == "success"
    assert "prepare" not in ran.jobs
    assert chain.by_hand(BASE, has_gpu=False).jobs == {"prepare": "failure", "finish": "success"}
    assert chain.documents() == before
    found = state.read("PAUSED")
    assert found is not None
    state.delete("PAUSED", found.version)
