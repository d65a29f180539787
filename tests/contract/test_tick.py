"""A whole tick against the embedded Hub: watch, survey, plan, matrix; the second changes nothing."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd

from bot import cli, commands_watching, fleet, localhub, survey
from bot import lease as leases
from bot import recipe as recipes
from bot.commands_watching import add_parsers, card_pulls
from bot.edges.github import Pull
from bot.edges.hub import Hub
from bot.edges.state_folder import FolderState
from bot.errors import Stopped
from bot.state import (
    PAUSED,
    Attempts,
    Paused,
    Queued,
    Roster,
    Shrunk,
    attempts_path,
    load,
    save,
    watched_path,
)

pytestmark = pytest.mark.contract
NUM_RECIPES = len(recipes.names())
CONFIG = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with localhub.running(tmp_path / "hub") as server:
        found = Hub(embedded=True, endpoint=server.url, token=server.token)
        for dataset in {each.dataset for name in recipes.names() for each in recipes.load(name).sets()}:
            found.api.create_repo(dataset, repo_type="dataset")
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": server.token,
            "RELEASE_BOT_HOME": str(tmp_path / "home"),
            "RELEASE_BOT_WATCH_SETTLE_MINUTES": "0",
            "GITHUB_RUN_ID": "77",
            "GITHUB_OUTPUT": str(tmp_path / "output"),
            "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
        yield found


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path / "home" / "state")


def make(hub: Hub, name: str = "Qwen/Qwen3.6-1B", *, config: dict[str, object] = CONFIG) -> str:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    hub.api.create_repo(name)
    files = {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": b"{}",
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(8),
    }
    hub.api.create_commit(name, [CommitOperationAdd(p, d) for p, d in files.items()], commit_message="x")
    return name


def put(hub: Hub, repo_id: str, path: str, data: bytes, **options: object) -> None:
    hub.api.create_commit(repo_id, [CommitOperationAdd(path, data)], **{"commit_message": "x", **options})


def publish(hub: Hub, entry: dict[str, object], target: str) -> None:
    hub.api.create_repo(target, exist_ok=True)
    card = f"---\nlicense: mit\ntags: [nvfp4, release-{entry['key']}]\n---\n# x\n"
    put(hub, target, "README.md", card.encode())


def plan(capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    parser = argparse.ArgumentParser()
    subcommands = parser.add_subparsers()

    def command(name, handler, text):
        child = subcommands.add_parser(name)
        child.add_argument("--json", action="store_true")
        child.set_defaults(handler=handler)
        return child

    add_parsers(command)
    arguments = parser.parse_args([*options])
    assert arguments.handler(arguments) == 0
    out = capsys.readouterr().out
    return json.loads(out) if out else {}


def test_one_tick_starts_all_and_the_next_nothing(hub, state, tmp_path, capsys, monkeypatch):
    make(hub)
    make(hub, "Qwen/Qwen3.6-35B-A3B", config={**CONFIG, "model_type": "qwen3_5_moe"})
    make(hub, "Qwen/Qwen3.6-1B-FP8")
    found = plan(capsys, "plan", "--matrix")
    assert {each["recipe"] for each in found["include"]} == set(recipes.names())
    assert all(set(each["runs_on"]) & {"self-hosted", "ubuntu-24.04"} for each in found["include"])
    (line, count) = (tmp_path / "output").read_text().splitlines()
    assert json.loads(line.removeprefix("matrix=")) == found
    assert count == f"count={NUM_RECIPES}"
    summary = (tmp_path / "summary").read_text()
    assert "model_type 'qwen3_5_moe' is not one of" in summary.replace("\\", "")
    assert "1 quantized" in summary
    assert plan(capsys, "plan", "--matrix") == found  # the same run again
    monkeypatch.setenv("GITHUB_RUN_ID", "78")
    assert plan(capsys, "plan", "--matrix") == {"include": []}
    skips = plan(capsys, "plan", "--json")["skips"]
    assert {each["code"] for each in skips} == {"queued", "not_applicable"}


def test_a_dry_run_says_the_same_and_writes_nothing(hub, state, tmp_path, capsys):
    make(hub)
    found = plan(capsys, "plan", "--matrix", "--dry-run")
    assert len(found["include"]) == NUM_RECIPES
    assert state.list("") == []
    assert not (tmp_path / "output").exists()
    assert not (tmp_path / "summary").exists()


def test_what_is_published_is_told_by_the_tag_on_its_card(hub, state, capsys):
    make(hub)
    entries = plan(capsys, "plan", "--json")["entries"]
    for each in entries:
        publish(hub, each, each["target_repo"])
    found = plan(capsys, "plan", "--json")
    assert found["entries"] == []
    assert {each["code"] for each in found["skips"]} == {"published"}
    put(hub, "Qwen/Qwen3.6-1B", "chat_template.jinja", b"x")
    found = plan(capsys, "plan", "--json")
    assert {(each["kind"], each["runner_class"]) for each in found["entries"]} == {("metadata", "hosted")}
    assert {each["predecessor"] for each in found["entries"]} == {each["key"] for each in entries}


def test_what_is_staged_or_refused_on_the_hub_is_not_started(hub, state, capsys):
    make(hub)
    entries = plan(capsys, "plan", "--json")["entries"]
    for each in entries[:2]:
        hub.api.create_repo(each["target_repo"], private=True)
        put(
            hub,
            each["target_repo"],
            "x.txt",
            b"x",
            create_pr=True,
            commit_message=f"Release {each['key']}: x",
        )
    hub.api.change_discussion_status(entries[0]["target_repo"], 1, "closed")
    found = plan(capsys, "plan", "--json")
    codes = {each["key"]: each["code"] for each in found["skips"]}
    assert codes == {entries[0]["key"]: "refused", entries[1]["key"]: "staged"}
    assert len(found["entries"]) == NUM_RECIPES - 2


def test_a_dead_runner_is_recorded_and_its_release_tried_again_later(hub, state, capsys):
    make(hub)
    entry = plan(capsys, "plan", "--json")["entries"][0]
    work = leases.Work(key=entry["key"], base=entry["base"], revision=entry["revision"],
                       recipe=entry["recipe"], run_url="")  # fmt: skip
    now = datetime.now(UTC)
    leases.take(state, work, holder="run-1", now=now, ttl=timedelta(minutes=45))
    skips = {each["key"]: each for each in plan(capsys, "plan", "--json")["skips"]}
    assert skips[entry["key"]]["code"] == "building"
    leases.take(state, work, holder="run-1", now=now, ttl=-timedelta(minutes=5))
    skips = {each["key"]: each for each in plan(capsys, "plan", "--json")["skips"]}
    assert skips[entry["key"]]["code"] == "failed"
    assert skips[entry["key"]]["until"]
    found, _ = load(state, attempts_path(entry["key"]), Attempts)
    assert [each.failure_class for each in found.attempts] == ["infrastructure"]
    assert state.list("leases/") == []


def test_the_kill_switch_starts_and_writes_nothing(hub, state, capsys):
    make(hub)
    save(state, PAUSED, Paused(who="ada", why="moving house", at=datetime.now(UTC)), version=None)
    found = plan(capsys, "plan", "--json")
    assert (found["entries"], found["paused"]) == ([], "by ada: moving house")
    assert state.list("") == []


def test_the_kill_switch_set_while_it_plans_queues_nothing(hub, state, capsys, monkeypatch, tmp_path):
    make(hub)
    real = commands_watching.tick

    def tick(*arguments, **named):
        found = real(*arguments, **named)
        state.write(PAUSED, "wait", version=None)
        return found

    monkeypatch.setattr(commands_watching, "tick", tick)
    monkeypatch.setenv("GITHUB_RUN_ID", "7")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    assert cli.main(["plan", "--matrix"]) == Stopped.exit_code
    assert state.list("queued/") == []
    assert not (tmp_path / "output").exists()
    assert "paused by somebody: wait" in capsys.readouterr().err


def test_a_queue_whose_time_is_up_is_forgotten(hub, state, capsys):
    old = datetime.now(UTC) - timedelta(days=3)
    queue = Queued(run_id="1", keys=[], at=old, expires_at=old + timedelta(days=1))
    save(state, "queued/1.json", queue, version=None)
    plan(capsys, "plan", "--json")
    assert state.list("queued/") == []


def test_an_unpinned_recipe_is_unusable_on_the_real_hub_only(hub):
    real = Hub(embedded=False, endpoint=hub.endpoint, token=hub.api.token)
    assert set(survey.usable_recipes(real).unusable) == {
        name for name in recipes.names() if recipes.load(name).unpinned()
    }
    assert survey.usable_recipes(hub).unusable == {}


def test_watch_prints_what_changed(hub, state, capsys):
    make(hub)
    found = plan(capsys, "watch", "--json")
    assert [each["kind"] for each in found["changes"]] == ["new_model"]
    assert "bases" not in found
    assert plan(capsys, "watch", "--json")["changes"] == []


def test_a_person_confirms_a_listing_in_a_terminal(hub, state, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTOR", "ann")
    make(hub)
    held = Shrunk(missing=["Qwen/A"], num_known=9, since=datetime.now(UTC), seen_at=datetime.now(UTC),
                  num_seen=1, confirmed_by=None)  # fmt: skip
    save(state, watched_path("Qwen"), Roster(author="Qwen", bases=[], shrunk=held), version=None)
    seen: list[Roster] = []
    real = commands_watching._watch

    def watched(*given: object, **options: object):
        seen.append(load(state, watched_path("Qwen"), Roster)[0])
        return real(*given, **options)

    monkeypatch.setattr(commands_watching, "_watch", watched)
    plan(capsys, "watch", "--confirm", "Qwen", "--dry-run", "--json")
    plan(capsys, "watch", "--confirm", "Qwen", "--json")
    assert [each.shrunk.confirmed_by for each in seen] == [None, "ann"]
    assert load(state, watched_path("Qwen"), Roster)[0].shrunk is None  # nothing is missing any more


def test_a_hub_that_is_away_ends_as_infrastructure(hub, state, monkeypatch, capsys):
    from bot.errors import InfrastructureError

    def away(*_: object) -> None:
        raise InfrastructureError("the Hub failed (503)")

    monkeypatch.setattr("bot.edges.listing.models_of", away)
    arguments = argparse.Namespace(state=None, dry_run=False, json=False, confirm=[])
    assert commands_watching.watch_command(arguments) == InfrastructureError.exit_code
    assert state.list("") == []


def test_only_our_own_branches_are_cards():
    at = datetime(2026, 11, 21, tzinfo=UTC)

    def pull(number: int, branch: str, *, same_repo: bool = True) -> Pull:
        return Pull(
            number=number, title="x", body="", state="open", author="bot", branch=branch, head_sha="a",
            merge_sha=None, base="main", same_repo=same_repo, labels=(), url="u", closed_at=at,
        )  # fmt: skip

    key = "0123456789abcdef"
    pulls = [pull(1, f"release/{key}"), pull(2, f"release/{key}", same_repo=False), pull(3, key),
             pull(4, f"release/{key}/x"), pull(5, "main"), pull(6, "release/../x")]  # fmt: skip
    assert [(each.number, each.closed_at) for each in card_pulls(pulls)] == [(1, at)]


def test_the_fleet_that_ships_runs_every_recipe_on_what_is_watched():
    from bot import needs

    for name in recipes.names():
        picked = fleet.load().pick(needs.of_release(recipes.load(name), 27_000_000_000))
        assert isinstance(picked, fleet.RunnerClass), str(picked)
