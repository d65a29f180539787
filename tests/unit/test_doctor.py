"""The doctor's rules over made-up machines, and the command on this one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot import doctor, fitness, fleet, recipe
from bot.edges import checkup
from bot.edges.checkup import Facts, HubFacts
from bot.edges.machine import Gpu
from bot.errors import InfrastructureError, UsageError
from bot.localhub import process
from bot.models import Hardware

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
RECIPES = [recipe.load(name) for name in recipe.names()]
AVX512 = frozenset({"avx2", "avx512f", "avx512_bf16"})
H200 = Gpu(name="NVIDIA H200", memory_bytes=141 * GIB, driver="595.58.03", compute_capability="9.0")
L40S = Gpu(name="NVIDIA L40S", memory_bytes=46 * GIB, driver="595.58.03", compute_capability="8.9")
B200 = Gpu(name="NVIDIA B200", memory_bytes=178 * GIB, driver="595.58.03", compute_capability="10.0")
GB10 = Gpu(name="NVIDIA GB10", memory_bytes=None, driver="595.58.03", compute_capability="12.1")
T4_OLD = Gpu(name="Tesla T4", memory_bytes=15 * GIB, driver="550.54.15", compute_capability="7.5")
P100 = Gpu(name="Tesla P100", memory_bytes=16 * GIB, driver="595.58.03", compute_capability="6.0")
TOKEN = HubFacts(
    endpoint="https://hub.test", error=None, account="alice", role="write", organizations=("release-bot",)
)


def hardware(**changes: Any) -> Hardware:
    fields: dict[str, Any] = {
        "cpu": "a CPU",
        "num_cores": 16,
        "memory_bytes": 256 * GIB,
        "gpu": None,
        "gpu_memory_bytes": None,
        "platform": "Linux x86_64",
        "python": "3.11.7",
    }
    return Hardware(**{**fields, **changes})


def machine(gpu: Gpu | None = None, **changes: Any) -> Facts:
    device = "cuda" if gpu else "cpu"
    fields: dict[str, Any] = {
        "device": device,
        "hardware": hardware(),
        "cpu_flags": AVX512,
        "gpu": gpu,
        "free_bytes": 1000 * GIB,
        "cache_bytes": 0,
        "environments": {f"quantize-{device}": 2 * GIB, f"vllm-{device}": 4 * GIB},
        "needed_bytes": {f"quantize-{device}": 3 * GIB, f"vllm-{device}": 6 * GIB},
        "organization": "release-bot",
        "hub": TOKEN,
    }
    return Facts(**{**fields, **changes})


def examined(facts: Facts) -> tuple[dict[str, doctor.Finding], dict[str, doctor.Ability], bool]:
    report = doctor.examine(facts, RECIPES)
    assert doctor.Report.model_validate_json(report.model_dump_json()) == report
    assert len({each.id for each in report.findings}) == len(report.findings)
    assert all(each.why for each in report.findings if each.status != "ok")
    assert all(each.next for each in report.findings if each.status == "missing")
    return (
        {each.id: each for each in report.findings},
        {each.recipe: each for each in report.recipes},
        report.usable,
    )


def test_a_blackwell_machine_lacks_nothing():
    findings, recipes, usable = examined(machine(B200))
    assert usable
    assert {each.status for each in findings.values()} == {"ok"}
    assert {(each.quantizes, each.serves, each.measures_speed) for each in recipes.values()} == {
        (True, "natively", True)
    }
    assert {each.limited_by for each in recipes.values()} == {"recipe"}
    assert not any(each.why for each in recipes.values())


def test_a_hopper_emulates_nvfp4_and_measures_no_speed_of_it():
    findings, recipes, _ = examined(machine(H200))
    assert findings["gpu"].status == "limited"
    assert "9.0" in findings["gpu"].what
    assert (recipes["nvfp4"].serves, recipes["nvfp4"].measures_speed) == ("emulated", False)
    assert "Blackwell" in recipes["nvfp4"].why[0]
    assert recipes["gptq-w4a16-g128"].serves == "natively"
    assert recipes["gptq-w4a16-g128"].limited_by == "recipe"


def test_an_l40s_is_too_small_for_the_27b_base():
    _, recipes, _ = examined(machine(L40S))
    found = recipes["gptq-w4a16-g128"]
    assert (found.serves, found.limited_by) == ("natively", "memory")
    assert 15e9 < found.largest_base_parameters < 27e9


def test_without_a_gpu_it_rehearses():
    findings, recipes, usable = examined(machine(hardware=hardware(memory_bytes=24 * GIB, num_cores=2)))
    assert usable
    assert findings["gpu"].status == "limited"
    assert findings["processor"].status == "ok"
    assert {each.serves for each in recipes.values()} == {"natively", "emulated"}
    assert recipes["nvfp4"].serves == "emulated"
    assert all(each.quantizes for each in recipes.values())
    assert all(each.largest_base_parameters < 12e9 for each in recipes.values())


@pytest.mark.parametrize(
    ("flags", "status", "serves"),
    [
        (frozenset({"avx2"}), "missing", {"no"}),
        (frozenset(), "missing", {"no"}),
        (frozenset({"avx2", "avx512f"}), "limited", {"natively", "emulated"}),
    ],
)
def test_a_processor_without_avx512_quantizes_and_does_not_serve(
    flags: frozenset[str], status: str, serves: set[str]
):
    findings, recipes, usable = examined(machine(cpu_flags=flags))
    assert usable
    assert findings["processor"].status == status
    assert {each.serves for each in recipes.values()} == serves
    assert all(each.quantizes for each in recipes.values())
    assert serves != {"no"} or all("AVX512" in each.why[0] for each in recipes.values())


@pytest.mark.parametrize(("flags", "told"), [(AVX512, True), (AVX512 | {"amx_tile"}, False)])
def test_a_processor_without_amx_measures_no_fp8_baseline(flags: frozenset[str], told: bool):
    findings, recipes, _ = examined(machine(cpu_flags=flags))
    assert ("baseline.fp8" in findings) is told
    assert not told or "AMX" in findings["baseline.fp8"].why
    assert all(each.serves != "no" for each in recipes.values())


def test_a_gpu_does_not_ask_for_avx512():
    findings, recipes, _ = examined(machine(B200, cpu_flags=frozenset()))
    assert "processor" not in findings
    assert {each.serves for each in recipes.values()} == {"natively"}


@pytest.mark.parametrize(("gpu", "word"), [(T4_OLD, "driver 580"), (P100, "7.5")])
def test_a_gpu_that_the_engine_cannot_use(gpu: Gpu, word: str):
    findings, recipes, usable = examined(machine(gpu))
    assert findings["gpu"].status == "missing"
    assert word in findings["gpu"].why
    assert not usable
    assert all(each.serves == "no" and len(each.why) == 2 for each in recipes.values())


def test_a_gpu_that_shares_the_cpus_memory_counts_that():
    findings, recipes, _ = examined(machine(GB10, hardware=hardware(memory_bytes=120 * GIB)))
    assert "shares" in findings["gpu"].what
    assert recipes["nvfp4"].serves == "natively"
    assert recipes["nvfp4"].largest_base_parameters > 27e9


def test_a_gpu_that_was_switched_off_is_said():
    built = {"quantize-cpu": 2 * GIB, "vllm-cpu": 4 * GIB}
    findings, recipes, _ = examined(machine(H200, device="cpu", environments=built))
    assert (findings["gpu"].status, findings["gpu"].next) == ("limited", "unset it to use the GPU")
    assert "a CPU has no" in recipes["nvfp4"].why[0]


def test_a_disk_too_small_for_the_engine_leaves_the_quantizer():
    facts = machine(free_bytes=5 * GIB, environments={"quantize-cpu": 2 * GIB, "vllm-cpu": None})
    findings, recipes, usable = examined(facts)
    assert usable
    assert findings["disk"].status == "limited"
    assert findings["environment.vllm-cpu"].status == "missing"
    assert all(each.quantizes and each.serves == "no" for each in recipes.values())
    assert all("6 GiB" in each.why[0] for each in recipes.values())


def test_a_full_disk_leaves_nothing():
    findings, recipes, usable = examined(machine(free_bytes=GIB))
    assert findings["disk"].status == "missing"
    assert not usable
    assert {each.limited_by for each in recipes.values()} == {"disk"}


def test_what_is_not_built_yet_is_no_hindrance():
    findings, recipes, _ = examined(machine(environments={"quantize-cpu": None, "vllm-cpu": None}))
    assert findings["environment.vllm-cpu"].status == "limited"
    assert all(each.quantizes and each.serves != "no" for each in recipes.values())


@pytest.mark.parametrize(
    ("change", "id", "status"),
    [
        ({"platform": "Darwin arm64"}, "system", "missing"),
        ({"platform": "Linux aarch64"}, "system", "missing"),
        ({"python": "3.10.14"}, "python", "missing"),
        ({"python": "3.13.1"}, "python", "limited"),
        ({"memory_bytes": 4 * GIB}, "memory", "missing"),
    ],
)
def test_system_python_and_memory(change: dict[str, Any], id: str, status: str):
    findings, _, usable = examined(machine(hardware=hardware(**change)))
    assert findings[id].status == status
    assert usable is (status != "missing")


@pytest.mark.parametrize(
    ("hub", "hub_status", "token_status", "words"),
    [
        ({}, "ok", "ok", ""),
        ({"error": "the Hub cannot be reached", "account": None}, "limited", "limited", "did not answer"),
        ({"account": None, "role": None}, "ok", "limited", "nothing can be uploaded"),
        ({"role": "read"}, "ok", "limited", "may not upload"),
        ({"organizations": ()}, "ok", "limited", "no member of release-bot"),
        ({"account": "release-bot", "organizations": ()}, "ok", "ok", ""),
        ({"role": "fineGrained"}, "ok", "limited", "only when it is done"),
    ],
)
def test_the_hub_and_its_token(hub: dict[str, Any], hub_status: str, token_status: str, words: str):
    facts = HubFacts(**{**TOKEN.__dict__, **hub})
    findings, _, usable = examined(machine(hub=facts))
    assert usable
    assert (findings["hub"].status, findings["token"].status) == (hub_status, token_status)
    assert words in findings["token"].why


def test_rows_say_the_same():
    report = doctor.examine(machine(H200), RECIPES)
    assert [row[0] for row in doctor.finding_rows(report)] == [each.status for each in report.findings]
    assert [row[:4] for row in doctor.recipe_rows(report)][-1] == ("nvfp4", "yes", "emulated", "not measured")


# ── held to a class of the fleet ───────────────────────────────────────────────────────────

BUILT = {"quantize-cuda": 8 * GIB, "vllm-cuda": 12 * GIB}
CLASS = fleet.RunnerClass(
    name="h200",
    labels=("gpu-h200",),
    gpu="NVIDIA H200",
    gpu_memory_gib=139,
    compute_capability="9.0",
    memory_gib=240,
    disk_gib=1500,
    count=1,
    cost_per_hour_usd=4,
    max_hours=20,
)


def lacks(facts: Facts, runner: fleet.RunnerClass = CLASS) -> set[str]:
    held = fitness.hold(doctor.examine(facts, RECIPES), facts, runner)
    found = {each.id for each in held if each.status == "missing"}
    if not found:
        fitness.require(held, runner)
        return found
    with pytest.raises(InfrastructureError) as raised:
        fitness.require(held, runner)
    assert all(f"- {each}: " in raised.value.what for each in found), "every point is named"
    assert raised.value.fix
    return found


def of_class(gpu: Gpu | None = H200, **changes: Any) -> Facts:
    return machine(gpu, **{"free_bytes": 1600 * GIB, "environments": BUILT, **changes})


def test_a_machine_that_is_as_its_class_promises_passes():
    assert lacks(of_class()) == set()
    assert lacks(of_class(B200)) == set(), "more than promised will do"
    assert lacks(of_class(free_bytes=1200 * GIB, cache_bytes=400 * GIB)) == set(), "the cache gives it back"


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"gpu": None}, {"class.gpu", *(f"class.environment.{name}" for name in BUILT)}),
        ({"gpu": L40S}, {"class.gpu_memory", "class.compute_capability"}),
        ({"gpu": replace(H200, driver="570.1")}, {"class.driver"}),
        ({"gpu": replace(H200, driver="")}, {"class.driver"}),
        ({"gpu": replace(H200, compute_capability=None)}, {"class.compute_capability"}),
        ({"gpu": replace(H200, memory_bytes=138 * GIB)}, {"class.gpu_memory"}),
        ({"free_bytes": 1000 * GIB}, {"class.disk"}),
        ({"free_bytes": 700 * GIB, "cache_bytes": 900 * GIB}, {"class.disk"}),
        ({"hardware": hardware(memory_bytes=128 * GIB)}, {"class.memory"}),
        ({"hardware": hardware(python="3.10.12")}, {"python"}),
        ({"environments": {**BUILT, "vllm-cuda": None}}, {"class.environment.vllm-cuda"}),
    ],
)
def test_each_promise_that_is_not_kept_is_named(changes: dict[str, Any], missing: set[str]):
    facts = of_class(**changes) if "gpu" not in changes or changes["gpu"] else machine(free_bytes=1600 * GIB)
    assert lacks(facts) == missing


def test_a_class_without_a_gpu_promises_memory_and_disk():
    hosted = fleet.named("hosted")
    facts = machine(hardware=hardware(memory_bytes=16 * GIB), free_bytes=20 * GIB)
    assert lacks(facts, hosted) == set()
    assert lacks(replace(facts, free_bytes=2 * GIB), hosted) == {"class.disk"}


def test_a_cache_counts_where_it_lies_on_the_disk_of_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """/dev/shm is another disk on every Linux that has it."""
    monkeypatch.delenv("RELEASE_BOT_CACHE", raising=False)
    home, other = tmp_path / "home", Path("/dev/shm")
    kept = home / "cache" / "sha256" / "ab" / ("ab" + "0" * 62)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"x" * 5000)
    assert checkup._cache_bytes(home) == 5000
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk at /dev/shm")
    with tempfile.TemporaryDirectory(dir=other) as elsewhere:
        monkeypatch.setenv("RELEASE_BOT_CACHE", elsewhere)
        shutil.copytree(home / "cache", elsewhere, dirs_exist_ok=True)
        assert checkup._cache_bytes(home) == 0
        assert checkup._cache_bytes(Path(elsewhere) / "home") == 5000


# ── on this machine ────────────────────────────────────────────────────────────────────────


def run(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bot", "doctor", *argv],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.contract
def test_the_command_looks_and_shows_no_token(tmp_path: Path):
    with process.running(tmp_path / "hub") as hub:
        done = run("--json", HF_ENDPOINT=hub.url, RELEASE_BOT_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    findings = {each["id"]: each for each in found["findings"]}
    assert findings["hub"]["status"] == findings["token"]["status"] == "ok"
    assert findings[f"environment.vllm-{found['device']}"]["status"] in ("limited", "missing")
    assert hub.token not in done.stdout + done.stderr
    assert not (tmp_path / "home" / "envs").exists()


def test_a_hub_that_is_not_there_is_a_finding(tmp_path: Path):
    done = run("--json", HF_ENDPOINT="http://127.0.0.1:9", RELEASE_BOT_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    findings = {each["id"]: each for each in json.loads(done.stdout)["findings"]}
    assert findings["hub"]["status"] == "limited"
    assert findings["system"]["what"]


def test_this_machine_is_held_to_a_class(tmp_path: Path):
    """It is no B200 here, and meets a class that asks for what it has; the summary shows the table."""
    away = {
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "RELEASE_BOT_HOME": str(tmp_path),
        "RELEASE_BOT_DEVICE": "cpu",
    }
    done = run("--for", "b200", "--json", GITHUB_STEP_SUMMARY=str(tmp_path / "s"), **away)
    assert done.returncode == InfrastructureError.exit_code
    error = json.loads(done.stdout)["error"]["what"]
    assert "class.gpu" in error
    assert "class.environment.vllm-cuda: vllm-cuda is not built" in error
    shown = run("--for", "b200", GITHUB_STEP_SUMMARY=str(tmp_path / "summary"), **away)
    assert shown.returncode == InfrastructureError.exit_code
    summary = (tmp_path / "summary").read_text()
    assert "### b200: what this machine is" in summary
    assert "| missing |" in summary
    code = "import sys; from bot import cli, fleet; small = fleet.named('hosted').model_copy("
    code += "update={'memory_gib': 0.1, 'disk_gib': 0.1}); fleet.named = lambda name: small; "
    code += "sys.exit(cli.main(['doctor', '--for', 'hosted']))"
    met = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **away}, capture_output=True, check=False
    )
    assert met.returncode == 0, met.stderr
    assert run("--for", "absent").returncode == UsageError.exit_code


def test_a_wrong_setting_is_a_usage_error():
    done = run(RELEASE_BOT_DEVICE="tpu")
    assert done.returncode == UsageError.exit_code
    assert "RELEASE_BOT_DEVICE" in done.stderr
