"""Siblings: which releases may stand beside this one, from folders and from a Hub that is not trusted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cards import golden, judged
from measured import changed, divergence, engine, load, measurement, perplexity

from bot import naming, siblings
from bot.errors import InfrastructureError
from bot.evidence import Evidence
from bot.measurements import Failure
from bot.models import write_json
from bot.recipe import Recipe
from bot.workspace import Workspace

OWN = "gptq-foem-g32"
OTHER = "gptq-w4a16-g128"


def release_of(recipe: str, **changes: Any) -> Evidence:
    return judged(measurement(**changes), recipe=recipe)


def candidate(found: Evidence) -> siblings.Candidate:
    return siblings._candidate(found.release, found.audit.report, found.measurement, found.gates)


def chosen(*others: Evidence, own: Evidence | None = None) -> list[str]:
    one = own or release_of(OWN)
    found = siblings.chosen(map(candidate, others), one.release, one.measurement.release)
    return [each.recipe_name for each in found]


def test_the_same_base_engine_machine_and_tokens_make_a_sibling():
    assert chosen(release_of(OTHER), release_of("nvfp4")) == [OTHER, "nvfp4"]


def edited(found: Evidence, **release: Any) -> Evidence:
    return found.model_copy(update={"release": changed(found.release, **release)})


@pytest.mark.parametrize(
    "other",
    [
        lambda: release_of(OWN),
        lambda: edited(release_of(OTHER), base={"repo_id": "Qwen/Other", "revision": "0" * 40}),
        lambda: edited(
            release_of(OTHER),
            base={**golden(OTHER).release.base.model_dump(), "revision": "0" * 40},
        ),
        lambda: edited(release_of(OTHER), rehearsal=not golden(OTHER).release.rehearsal),
        lambda: release_of(OTHER, release={"engine": engine(version="0.33.0")}),
        lambda: release_of(OTHER, release={"engine": engine(environment_digest="1" * 64)}),
        lambda: release_of(OTHER, release={"engine": engine("cpu")}),
        lambda: release_of(OTHER, release={"engine": engine(driver="1.0")}),
        lambda: release_of(OTHER, release={"engine": engine(hardware=engine("cpu").hardware)}),
        lambda: release_of(OTHER, release={"perplexity": perplexity(7.2, tokens_sha256="0" * 64)}),
        lambda: release_of(OTHER, release={"perplexity": perplexity(7.2, window_tokens=1024)}),
        lambda: release_of(OTHER, release={"divergence": divergence(tokens_sha256="0" * 64)}),
        lambda: release_of(OTHER, release={"divergence": divergence(kind="lower_bound", k=128)}),
        lambda: release_of(OTHER, release={"divergence": divergence(reference_fingerprint="0" * 64)}),
        lambda: release_of(OTHER, release={"perplexity": perplexity(7.2, mean_nll=float("inf"))}),
    ],
)
def test_what_differs_is_no_sibling(other: Callable[[], Evidence]):
    assert chosen(other()) == []


def test_a_release_that_failed_is_kept_and_marked():
    failure = Failure(kind="did_not_load", what="it stopped", log_tail=[])
    broken = release_of(OTHER, release={"failure": failure, "perplexity": None, "divergence": None})
    one = release_of(OWN)
    (found,) = siblings.chosen([candidate(broken)], one.release, one.measurement.release)
    assert found.passed is False


def test_of_two_of_one_recipe_the_later_counts():
    early = release_of(OTHER, release={"load": load(started_at="2026-11-20T00:00:00+00:00")})
    late = release_of(OTHER, release={"load": load(started_at="2026-11-21T00:00:00+00:00", load_s=99.0)})
    one = release_of(OWN)
    for order in ([early, late], [late, early]):
        (found,) = siblings.chosen(map(candidate, order), one.release, one.measurement.release)
        assert found.measured.load is not None
        assert found.measured.load.load_s == 99.0


# ── folders ────────────────────────────────────────────────────────────────────────────────


def put(work: Path, found: Evidence) -> Workspace:
    space = Workspace(work / found.release.key)
    write_json(space.job, found.release)
    for stage, part in {"audit": found.audit, "measure": found.measurement, "gate": found.gates}.items():
        write_json(space.evidence(stage), part)
    return space


def local(work: Path) -> list[str]:
    one = release_of(OWN)
    return [each.recipe_name for each in siblings.of_folders(work, one.release, one.measurement.release)]


def test_neighbours_are_found_when_they_are_measured_and_judged(tmp_path: Path):
    for name in (OWN, OTHER, "nvfp4"):
        put(tmp_path, release_of(name))
    (tmp_path / "notes").mkdir()
    assert local(tmp_path) == [OTHER, "nvfp4"]
    Workspace(tmp_path / golden(OTHER).release.key).evidence("gate").unlink()
    assert local(tmp_path) == ["nvfp4"]


def test_a_neighbour_that_cannot_be_read_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    space = put(tmp_path, release_of(OTHER))
    space.evidence("measure").write_text("{", encoding="utf-8")
    assert local(tmp_path) == []
    assert f"the release in {space.root.name} is not compared with" in capsys.readouterr().err


# ── the Hub ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The embedded Hub, with nothing on it."""
    from bot import localhub
    from bot.edges.hub import Hub

    with localhub.running(tmp_path_factory.mktemp("hub")) as running:
        yield Hub(embedded=True, endpoint=running.url, token=running.token)


def publish(
    hub: Any, found: Evidence, edit: Callable[[dict[str, Any]], object] = lambda content: None
) -> None:
    content = json.loads(found.model_dump_json())
    edit(content)
    data = json.dumps(content).encode()
    repo = found.release.target_repo
    hub.api.create_repo(repo, exist_ok=True)
    hub.api.upload_file(path_or_fileobj=data, path_in_repo="evidence.json", repo_id=repo)


def remote(hub: Any) -> list[str]:
    one = release_of(OWN)
    return [each.recipe_name for each in siblings.of_hub(hub, one.release, one.measurement.release)]


def test_published_evidence_is_read_and_what_does_not_hold_is_not(hub: Any):
    assert remote(hub) == []
    publish(hub, release_of(OTHER))
    assert remote(hub) == [OTHER]
    wrong: list[Callable[[dict[str, Any]], object]] = [
        lambda content: content["release"].update(key="0" * 16),
        lambda content: content["release"].update(target_repo="release-bot/other"),
        lambda content: content["release"]["recipe"]["method"].update(group_size=64),
        lambda content: content["audit"]["report"].update(passed=False),
        lambda content: content.update(surprise=1),
        lambda content: content["measurement"]["release"]["perplexity"].update(ppl="a lot"),
        lambda content: content["release"].update(recipe={}),
    ]
    for edit in wrong:
        publish(hub, release_of(OTHER), edit)
        assert remote(hub) == []
    publish(hub, release_of(OTHER))
    assert remote(hub) == [OTHER]


def test_evidence_that_is_too_large_is_not_read(hub: Any, monkeypatch: pytest.MonkeyPatch):
    publish(hub, release_of("nvfp4"))
    assert "nvfp4" in remote(hub)
    monkeypatch.setattr(siblings, "MAX_EVIDENCE_BYTES", 1000)
    assert remote(hub) == []


def test_a_folder_comes_before_the_hub(hub: Any, tmp_path: Path):
    publish(hub, release_of(OTHER))
    put(tmp_path, release_of(OTHER, release={"load": load(load_s=77.0)}))
    one = release_of(OWN)
    found = siblings.of(one.release, one.measurement, work=tmp_path, hub=hub)
    assert [
        each.measured.load.load_s for each in found if each.recipe_name == OTHER and each.measured.load
    ] == [77.0]


def test_a_hub_that_does_not_answer_is_no_reason_to_leave_siblings_out():
    from bot.edges.hub import Hub
    from bot.serving.server import free_port

    silent = Hub(embedded=True, endpoint=f"http://127.0.0.1:{free_port()}", token="x")
    with pytest.raises(InfrastructureError):
        remote(silent)


def test_keys_of_the_goldens_are_those_of_their_content():
    for name in (OWN, OTHER, "nvfp4"):
        release = golden(name).release
        recipe = Recipe.model_validate(release.recipe)
        assert naming.release_key(release.base, recipe, release.toolchain_epoch) == release.key
