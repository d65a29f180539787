"""Checkpoints that went wrong in silence: each is refused, and by the gate that is there for it.

They start from a release of the demo that passed every gate, and are measured as it was, so that the base's
figures are found again and one thing at a time is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rigged
from rehearsed import Rehearsed, bot

from bot.demo.rehearsal import BASE, SCALE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
RECIPE = "gptq-foem-g32"


def measured(demo: Rehearsed, folder: Path) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Exit code, document and verdict by gate of `release-bot measure` on `folder`, beside the base."""
    settings = [f"--set={key}={value}" for key, value in SCALE[RECIPE].items()]
    done = bot(
        demo.home, "measure", str(folder), "--base", BASE, "--recipe", RECIPE, "--json", *settings,
        HF_ENDPOINT=demo.hub.url, HF_TOKEN=demo.hub.token,
    )  # fmt: skip
    assert done.stdout, done.stderr[-6000:]
    found = json.loads(done.stdout)
    assert "error" not in found, found
    return done.returncode, found, {each["id"]: each["status"] for each in found["gates"]}


@pytest.fixture
def broken(demo: Rehearsed, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the demo's release with something done to it."""

    def make(*harm: Callable[[Path], None]) -> Path:
        folder = rigged.copy(Path(demo.release(RECIPE)["work"]) / "checkpoint", tmp_path / "broken")
        for each in harm:
            each(folder)
        return folder

    return make


def test_a_dead_head_and_a_blind_tower_are_refused_although_the_text_is_right(
    demo: Rehearsed, broken: Callable[..., Path]
):
    def noise(folder: Path) -> None:
        rigged.break_mtp_noise(folder, std=0.5)

    code, found, verdict = measured(demo, broken(noise, rigged.break_vision))
    assert code == 6
    assert found["passed"] is False
    refused = {gate for gate, status in verdict.items() if status == "failed"}
    assert {"acceptance.position.0", "canary.image", "audit"} <= refused
    # The body is the release's own: what the text is measured by still passes.
    assert {"kld", "ppl.ratio", "top1", "size", "load"} <= verdict.keys() - refused
    assert found["measured"]["perplexity"]["ppl"] > 1


def test_lost_quality_is_refused(demo: Rehearsed, broken: Callable[..., Path]):
    def noise(folder: Path) -> None:
        rigged.break_body(folder, noise=0.3)

    code, _, verdict = measured(demo, broken(noise))
    assert code == 6
    assert {verdict["kld"], verdict["top1"]} == {"failed"}
    assert verdict["load"] == verdict["size"] == "passed"


def test_a_head_that_is_gone_does_not_load(demo: Rehearsed, broken: Callable[..., Path]):
    code, found, verdict = measured(demo, broken(rigged.break_mtp_missing))
    assert code == 6
    assert found["measured"]["failure"]["kind"] == "weights_missing"
    assert found["measured"]["failure"]["log_tail"]
    assert verdict["load"] == "failed"
