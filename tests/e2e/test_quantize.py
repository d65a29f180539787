"""The real quantizers on the tiny fixture, scaled down: coverage, what is seen, resuming, and bad input.

Nothing is mocked: the environment is the pinned one, the calibration sets come from the embedded Hub, a
kill is a SIGKILL. Tensors are compared as raw bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot import config, localhub
from bot import recipe as recipes
from bot.demo import standins
from bot.demo.rehearsal import FIXTURE
from bot.edges import environment, supervisor
from bot.edges.environment import Environment
from bot.errors import BackendError, InfrastructureError, InputError, RecipeError
from bot.models import Base, QuantizeEvidence, Release
from bot.recipe import Recipe
from bot.stages.quantize import quantize

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
ROOT = Path(__file__).resolve().parents[2]
NUM_LAYERS = json.loads((FIXTURE / "config.json").read_text())["text_config"]["num_hidden_layers"]
SMALL = {"calibration.sets.*.num_samples": "6", "calibration.sets.*.lengths.max_tokens": "128"}
SCALE = {
    "gptq-foem-g32": SMALL | {"calibration.sets.*.lengths.min_tokens": "32"},
    "gptq-w4a16-g128": SMALL,
    "autoround-w4a16-g128": SMALL
    | {
        "calibration.sets.*.lengths.min_tokens": "128",
        "method.iterations": "12",
        "method.batch_size": "2",
        "method.torch_compile": "false",
    },
    "nvfp4": SMALL,
}


@dataclass(frozen=True)
class Place:
    """Where the tests quantize: an environment, and a Hub with the stand-ins of the calibration sets."""

    environment: Environment
    hub_env: dict[str, str]
    revisions: dict[str, str]

    def recipe(self, name: str, **more: str) -> Recipe:
        text = (recipes.RECIPES_DIR / f"{name}.yaml").read_text(encoding="utf-8")
        scale = SCALE[name] | {key.replace("__", "."): value for key, value in more.items()}
        return recipes.parse(text, where=name, name=name, overrides=scale).with_revisions(self.revisions)

    def quantize(self, recipe: Recipe, work: Path, base: Path = FIXTURE) -> QuantizeEvidence:
        work.mkdir(parents=True, exist_ok=True)
        release = Release(
            key="0123456789abcdef",
            base=Base(repo_id="Qwen/Qwen3.5-tiny", revision="1" * 40),
            recipe_name=recipe.name,
            recipe_digest=recipe.digest(),
            recipe=recipe.model_dump(mode="json"),
            toolchain_epoch=1,
            overrides={},
            rehearsal=True,
            repinned={},
            target_repo="release-bot/tiny",
            endpoint_kind="embedded",
        )
        return quantize(
            release,
            recipe,
            base_folder=base,
            work=work,
            environment=self.environment,
            extra_env=self.hub_env,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    from huggingface_hub import HfApi

    tools = environment.ensure("quantize-cpu", config.load(ROOT).home)
    folder = tmp_path_factory.mktemp("hub")
    written = standins.write_standins(folder / "standins")
    with localhub.running(folder / "hub") as hub:
        api = HfApi(endpoint=hub.url, token=hub.token)
        revisions = {}
        for repo_id, source in written.items():
            api.create_repo(repo_id, repo_type="dataset")
            api.upload_folder(repo_id=repo_id, folder_path=source, repo_type="dataset")
            revisions[repo_id] = str(api.dataset_info(repo_id).sha)
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(folder / "hf")}
        yield Place(tools, env | {"HF_HUB_DISABLE_XET": "1"}, revisions)


@pytest.fixture(scope="module")
def whole(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, QuantizeEvidence]]:
    """One uninterrupted run of each recipe, made when first asked for."""
    done: dict[str, tuple[Path, QuantizeEvidence]] = {}

    def run(name: str) -> tuple[Path, QuantizeEvidence]:
        if name not in done:
            work = tmp_path_factory.mktemp(name)
            done[name] = (work, place.quantize(place.recipe(name), work))
        return done[name]

    return run


def tensors(folder: Path) -> dict[str, bytes]:
    """Name → dtype, shape and bytes of every tensor in a folder; a name twice is a failure."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, spec in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                assert name not in found, f"{name} twice"
                start, end = (8 + length + offset for offset in spec["data_offsets"])
                found[name] = f"{spec['dtype']} {spec['shape']} ".encode() + data[start:end]
    return found


def covered(recipe: Recipe) -> set[str]:
    names = [name.removesuffix(".weight") for name in tensors(FIXTURE)]
    prefix = "model.language_model.layers."
    return {n for n in names if n.startswith(prefix) and n.split(".", 4)[4] in recipe.coverage.quantize}


@pytest.mark.parametrize("name", recipes.faithful())
def test_quantizes_the_coverage_and_nothing_else(place: Place, whole: Callable, name: str):
    work, evidence = whole(name)
    recipe, result = place.recipe(name), evidence.result
    base, made = tensors(FIXTURE), tensors(work / "quantized")
    wanted = covered(recipe)
    assert wanted
    assert {each.name for each in result.modules} == wanted
    kept = {tensor for tensor in base if tensor.removesuffix(".weight") not in wanted}
    assert [tensor for tensor in kept if made.get(tensor) != base[tensor]] == []
    assert any(tensor.startswith("mtp.") for tensor in kept)
    packed = "weight_scale_2" if name == "nvfp4" else "qweight"
    assert {tensor.removesuffix(f".{packed}") for tensor in made if tensor.endswith(f".{packed}")} == wanted


@pytest.mark.parametrize("name", recipes.faithful())
def test_evidence_holds_what_the_tool_saw(place: Place, whole: Callable, name: str):
    _, evidence = whole(name)
    recipe, result = place.recipe(name), evidence.result
    assert [use.num_samples_seen for use in result.calibration] == [6] * len(recipe.calibration.sets)
    assert all(use.max_tokens <= 128 and use.num_tokens > 0 for use in result.calibration)
    assert [use.num_images for use in result.calibration] == (
        [6, 0] if name == "nvfp4" else [0] * len(result.calibration)
    )
    assert all(each.loss >= 0 for each in result.modules)
    assert any(each.loss > 0 for each in result.modules)
    assert {each.parameter for each in result.parameters} == set(recipe.method.stated()) - {"backend"}
    assert (
        result.num_layers
        == json.loads((FIXTURE / "config.json").read_text())["text_config"]["num_hidden_layers"]
    )
    assert 100 * 2**20 < result.peak_memory_bytes < 4 * 2**30
    assert result.resumed_layers == 0
    assert evidence.environment_digest == place.environment.digest


def test_nvfp4s_errors_are_those_of_a_naive_oracle(whole: Callable):
    work, evidence = whole("nvfp4")
    base, made = tensors(FIXTURE), tensors(work / "quantized")
    for each in evidence.result.modules[:3]:
        packed, scales = (array(made[f"{each.name}.{part}"]) for part in ("weight", "weight_scale"))
        scale = float(array(made[f"{each.name}.weight_scale_2"])[()])
        want = array(base[f"{each.name}.weight"])
        got = np.zeros_like(want)
        for row in range(0, want.shape[0], 17):
            for column in range(want.shape[1]):
                nibble = int(packed[row, column // 2]) >> (4 * (column % 2)) & 15
                value = [0, 0.5, 1, 1.5, 2, 3, 4, 6][nibble & 7] * (-1 if nibble & 8 else 1)
                got[row, column] = value * scales[row, column // 16] * scale
        error = np.linalg.norm(got[::17] - want[::17]) / np.linalg.norm(want[::17])
        assert error == pytest.approx(each.loss, rel=0.1)  # of a 17th of the rows


def array(tensor: bytes) -> np.ndarray[Any, Any]:
    """A tensor as floats (or bytes), from what `tensors` returns."""
    kind, rest = tensor.split(b" ", 1)
    shape, data = rest.split(b"] ", 1)
    size = json.loads(shape + b"]")
    if kind == b"BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(size)
    if kind == b"F8_E4M3":
        bits = np.frombuffer(data, np.uint8).astype(int)
        exponent, fraction = bits >> 3 & 15, bits & 7
        value = np.where(exponent == 0, fraction / 512, (1 + fraction / 8) * 2.0 ** (exponent - 7))
        return np.where(bits & 128, -value, value).reshape(size)
    return np.frombuffer(data, {b"U8": np.uint8, b"F32": "<f4"}[kind]).reshape(size)


def test_an_unchanged_release_is_not_made_again(place: Place, whole: Callable):
    work, evidence = whole("nvfp4")
    started = time.monotonic()
    assert place.quantize(place.recipe("nvfp4"), work) == evidence
    assert time.monotonic() - started < 5
    assert not (work / "resume").exists()


# ── interruption ───────────────────────────────────────────────────────────────────────────


def kill_worker_when(ready: Callable[[], bool]) -> threading.Thread:
    """SIGKILL the quantizing process (not its supervisor) as soon as `ready()`."""

    def watch() -> None:
        while not ready():
            time.sleep(0.02)
        for pid in supervisor.descendants(os.getpid()):
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if line[1:4] == [b"-m", b"bot.backends.worker", b"quantize"]:
                    os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def finished_layers(work: Path, name: str) -> int:
    """How many layers the tool's own manifest says are finished."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        if name == "nvfp4":
            manifest = work / "resume/modelopt/layers/manifest.json"
            return int(json.loads(manifest.read_text())["last_completed_layer"]) + 1
        manifest = work / "resume/autoround/layers/group_0/resume_manifest.json"
        return len(json.loads(manifest.read_text())["completed_blocks"])
    return 0


@dataclass(frozen=True)
class Killed:
    """A run that was killed: its work folder, the layers that were finished, and how it was left."""

    work: Path
    done: int
    kept: Path

    def restore(self) -> Path:
        """The work folder as the kill left it; another place would be another run to the tools."""
        shutil.rmtree(self.work)
        return Path(shutil.copytree(self.kept, self.work))


@pytest.fixture(scope="module")
def killed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Killed]:
    """A run that was killed when so many layers were finished, made when first asked for."""
    made: dict[tuple[str, int], Killed] = {}

    def run(name: str, layers: int) -> Killed:
        if (name, layers) not in made:
            work = tmp_path_factory.mktemp(f"killed-{name}") / "work"
            killer = kill_worker_when(lambda: finished_layers(work, name) >= layers)
            with pytest.raises(InfrastructureError, match="killed by SIGKILL"):
                place.quantize(place.recipe(name), work)
            killer.join()
            assert not (work / "quantized").exists()
            kept = Path(shutil.copytree(work, work.with_name("kept")))
            made[name, layers] = Killed(work, finished_layers(work, name), kept)
        return made[name, layers]

    return run


@pytest.mark.parametrize(("name", "layers"), [("autoround-w4a16-g128", 2), ("nvfp4", 2), ("nvfp4", -1)])
def test_a_killed_run_resumes_bit_for_bit(
    place: Place, whole: Callable, killed: Callable[[str, int], Killed], name: str, layers: int
):
    layers %= NUM_LAYERS  # -1: only the last layer is left, whose inputs are read back from disk
    found = killed(name, layers)
    evidence = place.quantize(place.recipe(name), found.work)
    assert evidence.result.resumed_layers == found.done >= layers
    assert evidence.result.can_resume
    work, uninterrupted = whole(name)
    assert tensors(found.work / "quantized") == tensors(work / "quantized")
    assert evidence.result.modules == uninterrupted.result.modules
    assert evidence.result.calibration == uninterrupted.result.calibration
    assert not (found.work / "resume").exists()


def test_autoround_goes_on_from_what_a_kill_left_inconsistent(
    place: Place, whole: Callable, killed: Callable[[str, int], Killed]
):
    """Shards under their final names, a cut one, and one that holds a layer for the second time."""
    name = "autoround-w4a16-g128"
    found = killed(name, 2)
    work = found.restore()
    (folder,) = (work / "resume/autoround/output").iterdir()
    first, second = sorted(folder.glob("model-shard-*"))[:2]
    shutil.copy(second, folder / "model-shard-00008.safetensors")
    (folder / "model-shard-00009.safetensors").write_bytes(second.read_bytes()[:-64])
    first.rename(folder / "model-00001-of-00009.safetensors")
    evidence = place.quantize(place.recipe(name), work)
    assert evidence.result.resumed_layers == found.done
    assert tensors(work / "quantized") == tensors(whole(name)[0] / "quantized")


def test_a_killed_gptqmodel_run_leaves_nothing_half_and_starts_over(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    log = tmp_path / "logs" / "quantize.log"
    killer = kill_worker_when(lambda: log.is_file() and "[layers] 1/" in log.read_text(errors="replace"))
    with pytest.raises(InfrastructureError, match="killed by SIGKILL"):
        place.quantize(place.recipe("gptq-w4a16-g128"), tmp_path)
    killer.join()
    assert not (tmp_path / "quantized").exists()
    assert supervisor.descendants(os.getpid()) == [] or not any_worker()
    evidence = place.quantize(place.recipe("gptq-w4a16-g128"), tmp_path)
    assert evidence.result.resumed_layers == 0
    assert not evidence.result.can_resume
    said = capsys.readouterr().err
    assert "GPTQModel cannot resume" in said
    assert "kept from an earlier run" in said


def any_worker() -> bool:
    for pid in supervisor.descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if b"bot.backends.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
    return False


# ── bad input ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of the fixture to spoil."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "base"))


def test_a_tokenizer_without_chat_template_is_refused(place: Place, base: Path, tmp_path: Path):
    (base / "chat_template.jinja").unlink()
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="no chat template"):
        place.quantize(place.recipe("gptq-w4a16-g128"), tmp_path / "work", base)
    assert not (tmp_path / "work" / "quantized").exists()


def test_too_few_samples_say_how_many_there_are(place: Place, tmp_path: Path):
    recipe = place.recipe(
        "autoround-w4a16-g128",
        calibration__sets__0__num_samples="40",
        calibration__sets__0__lengths__min_tokens="300000",
        calibration__sets__0__lengths__max_tokens="300000",
    )
    with pytest.raises(
        InputError, match=r"gives 0 calibration samples, and the recipe asks for 40"
    ) as caught:
        place.quantize(recipe, tmp_path)
    assert "shorter than 300000 tokens" in str(caught.value)


def test_a_missing_data_set_is_an_input_error(place: Place, tmp_path: Path):
    recipe = place.recipe("autoround-w4a16-g128", calibration__sets__0__dataset="nobody/nothing")
    with pytest.raises(InputError, match="calibration set cannot be read"):
        place.quantize(recipe, tmp_path)


def test_a_hub_that_is_away_is_infrastructure(place: Place, tmp_path: Path):
    away = Place(place.environment, place.hub_env | {"HF_ENDPOINT": "http://127.0.0.1:9"}, place.revisions)
    with pytest.raises(InfrastructureError):
        away.quantize(away.recipe("nvfp4"), tmp_path)


@pytest.mark.parametrize("name", ["gptq-w4a16-g128", "autoround-w4a16-g128", "nvfp4"])
def test_nan_in_the_base_is_an_error_not_a_log_line(place: Place, base: Path, tmp_path: Path, name: str):
    spoil(base, "model.language_model.layers.1.mlp.down_proj.weight")
    with pytest.raises(BackendError):
        place.quantize(place.recipe(name), tmp_path / "work", base)
    assert not (tmp_path / "work" / "quantized").exists()


def spoil(base: Path, tensor: str) -> None:
    """Write a BF16 NaN as the tensor's first value."""
    for path in base.glob("*.safetensors"):
        with path.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            if tensor in header:
                assert header[tensor]["dtype"] == "BF16"
                file.seek(8 + length + header[tensor]["data_offsets"][0])
                file.write(b"\xc0\x7f")
                return
    raise AssertionError(f"no tensor {tensor}")


def test_a_coverage_that_the_base_lacks_is_refused(place: Place, tmp_path: Path):
    recipe = place.recipe("nvfp4", coverage__quantize="[mlp.no_such_module]")
    with pytest.raises(InputError, match="none of the base's tensors"):
        place.quantize(recipe, tmp_path)


def test_samples_that_do_not_fill_batches_are_refused(place: Place, tmp_path: Path):
    with pytest.raises(RecipeError, match="batch_size 4 does not divide"):
        place.quantize(place.recipe("autoround-w4a16-g128", method__batch_size="4"), tmp_path)


def test_a_narrower_coverage_is_kept_to(place: Place, tmp_path: Path):
    recipe = place.recipe("gptq-w4a16-g128", coverage__quantize="[mlp.down_proj]")
    evidence = place.quantize(recipe, tmp_path)
    assert {each.name for each in evidence.result.modules} == covered(recipe)
    made = tensors(tmp_path / "quantized")
    assert {name for name in made if name.endswith(".qweight")} == {f"{n}.qweight" for n in covered(recipe)}
