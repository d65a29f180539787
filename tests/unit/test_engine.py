"""The engine: every variable of a vLLM process has its reason, nothing leaks in, and the real one answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bot import config
from bot.edges import machine
from bot.edges.environment import Environment
from bot.measurements import EngineFacts, OverlayItem
from bot.serving import engine as engines
from bot.serving.engine import Engine

GPU = machine.Gpu(name="NVIDIA L40S", memory_bytes=46 * 2**30, driver="595.58.03", compute_capability="8.9")
VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.19.0"}


def made_up(home: Path, device: str = "cpu") -> Engine:
    kind = "cuda" if device == "cuda" else "cpu"
    package = engines.PACKAGES[kind]
    found = Environment(
        name=f"vllm-{device}",
        python=home / "envs" / f"vllm-{device}-0123" / "bin" / "python",
        digest="0" * 64,
        versions={**VERSIONS, package: "0.32.0"},
    )
    return Engine(environment=found, facts=engines._facts(found, kind), home=home)


def items(engine: Engine) -> dict[str, OverlayItem]:
    return {item.name: item for item in engines.platform_items(engine)}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_set_without_a_reason(tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch):
    engine = made_up(tmp_path, device)
    listed = engines.platform_items(engine)
    assert len({item.name for item in listed}) == len(listed)
    assert all(item.kind == "variable" and item.why for item in listed)
    with monkeypatch.context() as patch:
        patch.setattr(engines.process, "inherited", lambda: {"PATH": "/bin"})
        assert engines.variables(engine).keys() == {"PATH"} | {item.name for item in listed}


def test_what_is_shown_holds_no_path_of_this_machine(tmp_path: Path):
    shown = " ".join(item.value for item in engines.platform_items(made_up(tmp_path)))
    assert str(tmp_path) not in shown
    assert str(engines.SITE) not in shown
    assert "{home}" in shown
    assert "{" not in " ".join(engines.variables(made_up(tmp_path)).values())


def test_tokens_and_settings_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "GITHUB_TOKEN", "VLLM_API_KEY", "PYTHONPATH", "LD_PRELOAD"):
        monkeypatch.setenv(name, "from-outside")
    found = engines.variables(made_up(tmp_path))
    assert "from-outside" not in found.values()
    assert found["HF_HUB_OFFLINE"] == found["TRANSFORMERS_OFFLINE"] == "1"
    assert found["VLLM_HOST_IP"] == "127.0.0.1"
    assert found["HF_HOME"] == str(tmp_path / "engine" / "hf")


def test_the_program_comes_first_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    engine = made_up(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    assert engines.variables(engine)["PATH"] == f"{engine.environment.python.parent}:/usr/bin"
    monkeypatch.delenv("PATH")
    assert engines.variables(engine)["PATH"] == str(engine.environment.python.parent)


def test_a_cpu_gets_shims_and_a_gpu_none(tmp_path: Path):
    cpu, cuda = made_up(tmp_path), made_up(tmp_path, "cuda")
    assert items(cpu).keys() - items(cuda).keys() == {
        "PYTHONPATH",
        "VLLM_CPU_INT4_W4A8",
        "TORCH_COMPILE_DISABLE",
        "VLLM_ENABLE_V1_MULTIPROCESSING",
    }
    assert items(cpu)["VLLM_CPU_INT4_W4A8"].quirk == "cpu-w4a8"
    assert "cpu-torchvision-operators" in items(cpu)["PYTHONPATH"].why
    assert engines._distributions(cuda) == {}


def test_the_distribution_follows_the_pin(tmp_path: Path):
    found = {
        path.relative_to(tmp_path).as_posix(): text
        for path, text in engines._distributions(made_up(tmp_path)).items()
    }
    folder = "engine/vllm-cpu-0123"
    assert found.keys() == {
        f"{folder}/vllm-0.32.0+cpu.dist-info/METADATA",
        f"{folder}/release_bot_vllm-1.0.dist-info/METADATA",
        f"{folder}/release_bot_vllm-1.0.dist-info/entry_points.txt",
    }
    assert "Version: 0.32.0+cpu" in found[f"{folder}/vllm-0.32.0+cpu.dist-info/METADATA"]


def test_the_facts_name_driver_and_capability_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "gpu", lambda: GPU)
    facts = made_up(tmp_path, "cuda").facts
    assert (facts.package, facts.version, facts.device) == ("vllm", "0.32.0", "cuda")
    assert (facts.driver, facts.compute_capability) == ("595.58.03", "8.9")
    assert (facts.hardware.gpu, facts.hardware.gpu_memory_bytes) == ("NVIDIA L40S", 46 * 2**30)
    cpu = made_up(tmp_path).facts
    assert (cpu.driver, cpu.compute_capability, cpu.hardware.gpu) == (None, None, None)
    assert EngineFacts.model_validate_json(facts.model_dump_json()) == facts


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("NVIDIA L40S, 46068, 595.58.03, 8.9", "8.9"),
        ("NVIDIA H200, 143771, 580.95.05, 9.0", "9.0"),
        ("NVIDIA L40S, 46068, 470.57.02", None),
        ("NVIDIA L40S, 46068, 470.57.02, [N/A]", None),
    ],
)
def test_the_drivers_line_is_read(line: str, expected: str | None):
    found = machine.parse_gpu(line)
    assert found is not None
    assert found.name.startswith("NVIDIA ")
    assert found.compute_capability == expected
    assert found.memory_bytes == int(line.split(", ")[1]) * 2**20


def test_a_gpu_that_shares_the_cpus_memory():
    found = machine.parse_gpu("NVIDIA GB10, [N/A], 580.95.05, 12.1")
    assert found is not None
    assert (found.memory_bytes, found.compute_capability) == (None, "12.1")


@pytest.mark.parametrize("line", ["", "No devices were found", "NVIDIA L40S, 46068"])
def test_a_line_that_says_less_is_no_gpu(line: str):
    assert machine.parse_gpu(line) is None


# ── the real one ───────────────────────────────────────────────────────────────────────────

_ASK = """
import json, sys
import vllm, torchvision.ops, pyarrow.parquet
from importlib.metadata import version
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins
from vllm.model_executor.kernels import linear
load_general_plugins()
kernels = [kernel.__name__ for kernel in linear._POSSIBLE_NVFP4_KERNELS[current_platform._enum]]
print(json.dumps({
    "version": vllm.__version__, "named": version("vllm"), "platform": current_platform.device_type,
    "kernels": kernels,
}))
"""


@pytest.mark.e2e
def test_the_real_engine_answers_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RELEASE_BOT_DEVICE", "cpu")
    engine = engines.ready(config.load().home)
    done = subprocess.run(
        [str(engine.environment.python), "-c", _ASK],
        env=engines.variables(engine),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["version"].partition("+")[0] == engine.facts.version
    assert found["named"] == f"{engine.facts.version}+cpu"
    assert found["platform"] == "cpu"
    assert found["kernels"] == ["EmulationNvFp4LinearKernel"]
    program = subprocess.run(
        [str(engine.environment.python.parent / "vllm"), "--version"],
        env=engines.variables(engine),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert engine.facts.version in program.stdout


@pytest.mark.e2e
def test_the_shims_cost_nothing_before_torchvision_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RELEASE_BOT_DEVICE", "cpu")
    engine = engines.ready(config.load().home)
    ask = "import gc, sys; assert 'sitecustomize' in sys.modules; "
    ask += "print('torch' in sys.modules, gc.get_threshold()[0])"
    done = subprocess.run(
        [str(engine.environment.python), "-c", ask],
        env=engines.variables(engine),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False 50000"


def test_the_plugin_is_what_vllm_looks_for(tmp_path: Path):
    entry = next(
        text for path, text in engines._distributions(made_up(tmp_path)).items() if path.suffix == ".txt"
    )
    assert entry.splitlines()[0] == "[vllm.general_plugins]"
    module, _, function = entry.splitlines()[1].partition(" = ")[2].partition(":")
    assert f"def {function}(" in (engines.SITE / f"{module}.py").read_text()
