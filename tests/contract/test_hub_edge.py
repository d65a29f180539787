"""The Hub edge: what is set before the client is imported, pins, and errors in the bot's terms."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import errors

from bot import localhub, recipe_pins
from bot import recipe as recipes
from bot.edges import hub as edge
from bot.edges.hub import Hub
from bot.errors import InfrastructureError, InputError, RecipeError, Refused

pytestmark = pytest.mark.contract
ROOT = Path(__file__).resolve().parents[2]
VARIABLES = (
    "HF_ENDPOINT", "HF_TOKEN", "HF_HOME", "HF_HUB_DISABLE_XET", "RELEASE_BOT_HF_HOME", "HF_HUB_CACHE",
    "HF_HUB_OFFLINE", "NO_PROXY", "no_proxy",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[localhub.Running]:
    with localhub.running(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture(scope="module")
def seeded(server: localhub.Running) -> Hub:
    found = Hub(embedded=True, endpoint=server.url, token=server.token)
    for dataset in {each.dataset for name in recipes.names() for each in recipes.load(name).sets()}:
        found.api.create_repo(dataset, repo_type="dataset")
    return found


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what the code sets is taken back
        monkeypatch.delenv(name)
    return monkeypatch


def test_against_the_real_hub_xet_stays_on(clean: pytest.MonkeyPatch, tmp_path: Path):
    assert edge.prepare_environment(tmp_path) is False
    assert "HF_HUB_DISABLE_XET" not in os.environ
    assert "HF_HOME" not in os.environ


def test_against_the_embedded_hub_xet_is_off_and_the_cache_apart(
    clean: pytest.MonkeyPatch, tmp_path: Path, server: localhub.Running
):
    clean.setenv("HF_ENDPOINT", server.url)
    clean.setenv("HF_HUB_CACHE", "/elsewhere")
    clean.setenv("HF_HUB_OFFLINE", "1")
    assert edge.prepare_environment(tmp_path) is True
    assert os.environ["HF_HUB_DISABLE_XET"] == "1"
    assert Path(os.environ["HF_HOME"]).is_relative_to(tmp_path)
    assert "HF_HUB_CACHE" not in os.environ
    assert os.environ["HF_TOKEN"] == localhub.DEFAULT_TOKEN
    assert "HF_HUB_OFFLINE" not in os.environ
    assert "127.0.0.1" in os.environ["NO_PROXY"]


def test_pins_are_written_from_the_hub_and_comments_kept(seeded: Hub, tmp_path: Path):
    shipped = (recipes.RECIPES_DIR / "nvfp4.yaml").read_text()
    path = tmp_path / "nvfp4.yaml"
    path.write_text(shipped)
    found = recipe_pins.pin([str(path)], seeded, update=False)
    head = seeded.head("nvidia/Nemotron-VLM-Dataset-v2", repo_type="dataset")
    assert found == {str(path): {"nvidia/Nemotron-VLM-Dataset-v2": head}}
    assert path.read_text() == shipped.replace("revision: unpinned", f"revision: {head}")
    assert recipe_pins.pin([str(path)], seeded, update=False) == {str(path): {}}
    moved = recipe_pins.pin([str(path)], seeded, update=True)[str(path)]
    assert set(moved) == {each.dataset for each in recipes.load(str(path)).sets()}


def test_nothing_is_written_when_one_data_set_is_gone(server: localhub.Running, tmp_path: Path, seeded: Hub):
    good, bad = tmp_path / "nvfp4.yaml", tmp_path / "other.yaml"
    text = (recipes.RECIPES_DIR / "nvfp4.yaml").read_text()
    good.write_text(text)
    bad.write_text(text.replace("nvidia/Nemotron-VLM-Dataset-v2", "nobody/there-is-none"))
    with pytest.raises(InputError):
        recipe_pins.pin([str(good), str(bad)], seeded, update=False)
    assert good.read_text() == text


def test_stand_ins_replace_revisions_only_where_they_are_not_to_be_had(seeded: Hub):
    recipe = recipes.load("nvfp4")
    resolved, replaced = recipe_pins.for_embedded_hub(recipe, seeded)
    assert set(replaced) == {each.dataset for each in recipe.sets()}
    assert resolved.unpinned() == []
    assert recipe_pins.for_embedded_hub(resolved, seeded) == (resolved, {})


def test_an_unpinned_recipe_is_refused_outside_the_embedded_hub(server: localhub.Running, tmp_path: Path):
    """The endpoint is taken for the real Hub when it does not say that it is embedded."""
    from bot import config, job
    from bot.demo.rehearsal import BASE, FIXTURE

    real = Hub(embedded=False, endpoint=server.url, token=server.token)
    real.api.create_repo(BASE)
    real.api.upload_folder(repo_id=BASE, folder_path=FIXTURE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        patch.setenv("HF_TOKEN", server.token)
        with pytest.raises(RecipeError, match="unpinned"):
            job.prepare(BASE, recipes.load("nvfp4"), {}, real, config.load(ROOT), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"applies_to": {"model_type": ["qwen3_5_moe"]}}, "model_type 'qwen3_5' is not one of"),
        ({"applies_to": {"min_parameters": 10**9}}, "parameters, outside"),
        ({"coverage": {"quantize": ["mlp.nothing"]}}, "none of the modules"),
        ({"coverage": {"keep": ["mtp.*"]}}, "neither quantized nor kept"),
    ],
)
def test_a_recipe_that_is_not_for_the_base_is_refused_from_headers(change, words):
    from bot import base as bases
    from bot.checkpoint.source import FolderSource
    from bot.demo.rehearsal import FIXTURE
    from bot.edges.hub import RepoState
    from bot.models import Base

    checkpoint = bases.read(FolderSource(FIXTURE))
    state = RepoState(repo_id="Qwen/x", revision="a" * 40, private=False, files={}, card={})
    found = bases.describe(checkpoint, state, base=Base(repo_id="Qwen/x", revision="a" * 40), head="a" * 40)
    assert (found.num_mtp_tensors, found.num_visual_tensors) == (15, 33)
    content = recipes.load("gptq-foem-g32").model_dump(mode="json")
    bases.refuse_unfit(checkpoint, found, recipes.Recipe.model_validate(content))
    for section, values in change.items():
        content[section] |= values
    with pytest.raises(RecipeError, match=words):
        bases.refuse_unfit(checkpoint, found, recipes.Recipe.model_validate(content))


def answer(status: int) -> errors.HfHubHTTPError:
    import httpx2

    response = httpx2.Response(status, request=httpx2.Request("GET", "http://hub/x"))
    return errors.HfHubHTTPError("the server's words", response=response)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, InputError), (401, InputError), (403, InputError), (409, Refused), (412, Refused),
     (413, InputError), (422, InputError), (408, InfrastructureError), (429, InfrastructureError),
     (500, InfrastructureError), (503, InfrastructureError)],
)  # fmt: skip
def test_the_hubs_answers_in_the_bots_terms(status: int, expected: type[Exception]):
    with pytest.raises(expected), edge.translated("somewhere"):
        raise answer(status)


def test_a_wrapped_upload_failure_keeps_its_class():
    wrapped = RuntimeError("Error while uploading")
    wrapped.__cause__ = answer(503)
    with pytest.raises(InfrastructureError), edge.translated("somewhere"):
        raise wrapped


def test_a_defect_stays_a_defect():
    with pytest.raises(ZeroDivisionError), edge.translated("somewhere"):
        raise ZeroDivisionError


def test_a_token_never_shows(server: localhub.Running, tmp_path: Path):
    token = "hf_a_real_looking_token"
    found = subprocess.run(
        [sys.executable, "-m", "bot", "--debug", "run", "Qwen/none", "--recipe", "nvfp4"],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
        env={**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": token, "RELEASE_BOT_HOME": str(tmp_path)},
    )  # fmt: skip
    assert found.returncode == 3
    assert token not in found.stdout + found.stderr
