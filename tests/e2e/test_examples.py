"""The programs that a card prints are run, word for word but for the address and the model's name."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from rehearsed import ROOT, Rehearsed

from bot import config
from bot import recipe as recipes
from bot.cardexamples import card_examples
from bot.edges import environment, process
from bot.evidence import Evidence
from bot.models import read_json
from bot.serving import command, pictures, server, subject
from bot.serving import engine as engines

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
SERVED = "gptq-w4a16-g128"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
# Declares two operators of torchvision, whose wheel wants CUDA; a reader's torchvision has them.
SHIMS = {"PYTHONPATH": str(ROOT / "bot" / "serving" / "site")}


def printed(demo: Rehearsed, name: str) -> dict[str, str]:
    """The programs on the published card, each found there as it stands."""
    folder = demo.snapshot(name)
    found = card_examples(read_json(folder / "evidence.json", Evidence))
    text = (folder / "README.md").read_text()
    assert found
    for code in found.values():
        assert code.strip() in text
    return found


def run(python: Path, code: str, folder: Path, env: dict[str, str]) -> str:
    program = folder / "example.py"
    program.write_text(code)
    done = subprocess.run(
        [str(python), str(program)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_the_clients_get_an_answer_from_the_served_release(demo: Rehearsed, tmp_path: Path):
    engine = engines.ready(config.load(ROOT).home)
    examples, name = printed(demo, SERVED), demo.release(SERVED)["target_repo"]
    served = subject.of_folder(
        demo.snapshot(SERVED), engine.facts, role="release", name=name, revision=None,
        serve=recipes.load(SERVED).serve,
    )  # fmt: skip
    (tmp_path / "image.png").write_bytes(base64.b64decode(pictures.image_url("red", 128).split(",")[1]))
    # The programs sample, as their readers do: a CPU's engine survives that only without drafts.
    drafting = "sampled" not in command.spared(served, engine, drafting=True)
    with server.serving(served, engine, drafting=drafting, logs=tmp_path / "logs") as running:
        for each in ("text", "image"):
            code = examples[each].replace("http://localhost:8000/v1", f"{running.url}/v1")
            assert name in code
            code = code.replace(name, running.client.model)
            answer = run(engine.environment.python, code, tmp_path, engines.variables(engine))
            assert answer, each


@pytest.mark.parametrize("name", ["gptq-w4a16-g128", "autoround-w4a16-g128"])
def test_the_checkpoint_loads_as_the_card_says(demo: Rehearsed, tmp_path: Path, name: str):
    tools = environment.ensure("quantize-cpu", config.load(ROOT).home)
    examples, repo = printed(demo, name), demo.release(name)["target_repo"]
    assert repo in examples["loading"]
    code = examples["loading"].replace(repo, str(demo.snapshot(name))).replace("256", "24")
    assert run(
        tools.python, code, tmp_path, {**process.inherited(), **OFFLINE, **SHIMS, "HF_HOME": str(tmp_path)}
    )


def test_a_format_that_transformers_does_not_load_prints_no_loader(demo: Rehearsed):
    assert set(printed(demo, "nvfp4")) == {"text", "image"}
