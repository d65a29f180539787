"""Making a release ready, and what its other jobs do with that, against the embedded Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cards import golden
from huggingface_hub import CommitOperationAdd

from bot import config, fleet, job, localhub, naming, pipeline, preparing, repo, survey
from bot import recipe as recipes
from bot.config import Config
from bot.edges.hub import Hub
from bot.edges.state_folder import FolderState
from bot.errors import InfrastructureError, Refused, ReleaseBotError
from bot.job import Job
from bot.lease import Work
from bot.models import Base, write_json
from bot.preparing import Prepared
from bot.review import decisions
from bot.stages import upload
from bot.state import Decision, Queued, lease_path, load, queued_path, save
from bot.steps import metadata

pytestmark = pytest.mark.contract
NOW = datetime.now(UTC)
BASE, RECIPE = "Qwen/Qwen3.6-1B", "nvfp4"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with localhub.running(tmp_path / "hub") as server:
        found = Hub(embedded=True, endpoint=server.url, token=server.token)
        for dataset in {each.dataset for name in recipes.names() for each in recipes.load(name).sets()}:
            found.api.create_repo(dataset, repo_type="dataset")
        make(found, BASE)
        yield found


@pytest.fixture
def state(tmp_path: Path) -> FolderState:
    return FolderState(tmp_path / "state")


def make(hub: Hub, name: str) -> None:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    parts = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}
    files = {
        "config.json": json.dumps(parts).encode(),
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(8),
    }
    hub.api.create_repo(name)
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    hub.api.create_commit(name, operations, commit_message="x")


def prepare(hub: Hub, state: FolderState, *, key: str = "", run: str = "run-1", base: str = BASE) -> Prepared:
    return preparing.prepare(
        base,
        RECIPE,
        settings=config.Config(),
        hub=hub,
        state=state,
        runners=fleet.load(),
        cards=None,
        work=Work(key=run, base="", revision="", recipe="", run_url=""),
        key=key,
        now=NOW,
        dry_run=False,
    )


def said(state: FolderState, key: str, kind: str, *, minutes: int) -> None:
    at = NOW + timedelta(minutes=minutes)
    decision = Decision.model_validate(
        {"key": key, "kind": kind, "who": "ann", "why": "because of it", "at": at, "gates": []}
    )
    decisions.record(state, decision)


def staged(tmp_path: Path, hub: Hub) -> Job:
    """A release whose weights are staged, as a machine sees it that did not build it."""
    found = golden("nvfp4")
    base = Base(repo_id=BASE, revision=hub.head(BASE))
    (resolved,) = survey.usable_recipes(hub, [RECIPE]).usable
    update = {
        "base": base,
        "recipe": resolved.model_dump(mode="json"),
        "recipe_digest": resolved.digest(),
        "toolchain_epoch": 1,
        "key": naming.release_key(base, resolved, 1),
        "target_repo": "release-bot/Qwen3.6-1B-NVFP4",
    }
    release = found.release.model_copy(update=update)
    hub.create_private(release.target_repo)
    weights = tmp_path / f"weights-{release.key}"
    weights.mkdir(exist_ok=True)
    (weights / "model.safetensors").write_bytes(bytes(range(256)))
    uploaded = upload.upload(release, repo.digests(weights, {}), inputs_digest="0" * 64, hub=hub)
    evidence = found.model_copy(update={"release": release, "upload": uploaded})
    card = tmp_path / f"card-{release.key}"
    card.mkdir(exist_ok=True)
    write_json(card / "evidence.json", evidence)
    made = job.reopen(release.key, hub, Config(home=tmp_path / "home"), tmp_path / "work", card=card)
    for stage in ("audit", "upload"):
        made.workspace.evidence(stage).unlink(missing_ok=True)
    return made


def close(made: Job) -> None:
    for pull in made.hub.pull_requests(made.release.target_repo):
        if pull.status == "open":
            made.hub.api.change_discussion_status(made.release.target_repo, pull.num, "closed")


# ── a retry ────────────────────────────────────────────────────────────────────────────────


def test_a_retry_of_what_was_refused_stages_it_anew(hub: Hub, state: FolderState, tmp_path: Path):
    """Closing the card closes the weights' pull request under its title: there the build found a refusal."""
    first = prepare(hub, state)
    key = first.entry.key
    assert (first.proceed, first.restage) == (True, False)
    state.delete(lease_path(key), state.read(lease_path(key)).version)
    made = staged(tmp_path, hub)
    assert made.release.key == key
    close(made)
    said(state, key, "refuse", minutes=-2)
    assert prepare(hub, state).code == "refused"
    said(state, key, "retry", minutes=-1)
    again = prepare(hub, state)
    assert (again.proceed, again.restage) == (True, True)
    with pytest.raises(Refused, match="was refused"):
        pipeline.done_elsewhere(made)
    afresh = pipeline.afresh(made)
    assert afresh.restage
    assert pipeline.done_elsewhere(afresh) is None


def test_what_was_staged_since_is_not_staged_once_more(hub: Hub, tmp_path: Path):
    made = staged(tmp_path, hub)
    assert not pipeline.afresh(made).restage
    close(made)
    upload.withdraw(made.release, hub)
    assert not pipeline.afresh(made).restage
    staged(tmp_path, hub)
    assert pipeline.done_elsewhere(pipeline.afresh(made)) == "staged"


def public(made: Job, base: Base) -> str:
    """Another release's evidence on the main branch of the same repo; its key."""
    key = naming.release_key(base, made.recipe, 2)
    release = made.release.model_copy(update={"base": base, "key": key, "toolchain_epoch": 2})
    evidence = golden("nvfp4").model_copy(update={"release": release})
    data = evidence.model_dump_json().encode()
    made.hub.api.upload_file(repo_id=release.target_repo, path_in_repo="evidence.json", path_or_fileobj=data)
    return key


def test_a_metadata_release_is_staged_anew_too(hub: Hub, tmp_path: Path):
    made = staged(tmp_path, hub)
    close(made)
    key = public(made, made.release.base)
    with pytest.raises(Refused, match="was refused"):
        metadata.build(made, key)
    with pytest.raises(ReleaseBotError) as ended:  # what is public here is no checkpoint
        metadata.build(replace(made, restage=True), key)
    assert "was refused" not in ended.value.what
    (pull,) = hub.pull_requests(made.release.target_repo)
    assert pull.title.startswith("Superseded: ")


def test_a_metadata_release_with_nothing_to_change_ends_well(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Our repo has the base's side files by now: nothing is sent, and nothing failed."""
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    made = staged(tmp_path, hub)
    close(made)
    upload.withdraw(made.release, hub)
    key, target = public(made, made.release.base), made.release.target_repo
    ours = json.loads(repo.read(hub, BASE, "config.json", "main")) | {"quantization_config": {"bits": 4}}
    config_json = json.dumps(ours).encode()
    hub.api.upload_file(repo_id=target, path_in_repo="config.json", path_or_fileobj=config_json)
    before = [(each.num, each.status) for each in hub.pull_requests(target)]
    assert metadata.build(made, key) == "nothing_to_change"
    assert [(each.num, each.status) for each in hub.pull_requests(target)] == before
    assert not made.workspace.evidence("upload").exists()


# ── what stops it ──────────────────────────────────────────────────────────────────────────


def test_a_hub_that_fails_after_the_lease_was_taken_gives_it_back(
    hub: Hub, state: FolderState, monkeypatch: pytest.MonkeyPatch
):
    """It would keep everybody else away for as long as the jobs might have lasted."""

    def away(repo_id: str) -> None:
        assert state.list("leases/") != []
        raise InfrastructureError("the Hub failed (503)")

    monkeypatch.setattr(hub, "create_private", away)
    with pytest.raises(InfrastructureError):
        prepare(hub, state)
    assert state.list("leases/") == []


def test_a_key_that_is_not_made_leaves_its_queue(state: FolderState):
    one, other = "1" * 16, "2" * 16
    queue = Queued(run_id="7", keys=[one, other], at=NOW, expires_at=NOW + timedelta(days=1))
    save(state, queued_path("7"), queue, version=None)
    for _ in range(2):
        preparing.leave_queue(state, one, run="7")
        assert load(state, queued_path("7"), Queued)[0].keys == [other]
    preparing.leave_queue(state, other, run="8")
    with ThreadPoolExecutor(6) as pool:
        many = [f"{num:016x}" for num in range(12)]
        found, version = load(state, queued_path("7"), Queued)
        save(state, queued_path("7"), found.model_copy(update={"keys": many}), version=version)
        list(pool.map(lambda key: preparing.leave_queue(state, key, run="7"), many[1:]))
    assert load(state, queued_path("7"), Queued)[0].keys == many[:1]


# ── two bases of one name ──────────────────────────────────────────────────────────────────


def test_a_target_that_holds_another_base_s_release_is_left_alone(
    hub: Hub, state: FolderState, tmp_path: Path
):
    made = staged(tmp_path, hub)
    close(made)
    upload.withdraw(made.release, hub)
    public(made, Base(repo_id="Other/Qwen3.6-1B", revision="c" * 40))
    with pytest.raises(Refused, match="holds the release of Other/"):
        prepare(hub, state)
    assert state.list("") == []


def test_side_files_are_not_put_beside_another_base_s_weights(hub: Hub, tmp_path: Path):
    made = staged(tmp_path, hub)
    close(made)
    key = public(made, Base(repo_id="Other/Qwen3.6-1B", revision="c" * 40))
    with pytest.raises(Refused, match="holds the release of Other/"):
        metadata.build(replace(made, restage=True), key)


def test_a_base_that_was_renamed_is_the_same_one(hub: Hub, tmp_path: Path):
    made = staged(tmp_path, hub)
    target = made.release.target_repo
    assert repo.other_base(hub, target, BASE) is None
    public(made, made.release.base)
    assert repo.other_base(hub, target, BASE) is None
    hub.api.move_repo(BASE, "Moved/Qwen3.6-1B")
    assert repo.other_base(hub, target, "Moved/Qwen3.6-1B") is None
    assert repo.other_base(hub, target, "Other/Qwen3.6-1B") == BASE
    hub.api.upload_file(repo_id=target, path_in_repo="evidence.json", path_or_fileobj=b"[]")
    with pytest.raises(Refused, match="does not say which base"):
        repo.other_base(hub, target, BASE)
