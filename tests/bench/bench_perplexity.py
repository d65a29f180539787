"""Perplexity through the engine against the plain sliding window of transformers: `make bench`.

The same machine, weights, dtype (bfloat16), text and windows (2,048 tokens, stride 512); the two mean losses
must agree within 1e-3, or there is nothing to compare. Counted are the tokens that go through the model, over
the time of scoring alone: neither side's start is in it. The ratio is what carries over to another machine,
and only roughly: transformers runs the linear layers in a slow reference loop where their kernels for a GPU
are missing, which is what a person without one would get.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from bot import config, log
from bot import recipe as recipes
from bot.demo.rehearsal import FIXTURE
from bot.demo.standins import library_prose
from bot.models import read_json
from bot.serving import engine as engines
from bot.serving import score_process, scoring, subject
from bot.serving.engine import Engine, variables
from bot.serving.examination import baseline_serve
from bot.serving.score_job import ScoreJob, ScoreResult
from bot.serving.store import Identity
from bot.serving.windows import sliding

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "serving" / "sliding_reference.py"
# Enough windows that the first batch, in which the engine's kernels warm up, is a small share.
WINDOW, STRIDE, TOKENS = 2048, 512, 32_768
TARGET = 3.0


def rows() -> list[str]:
    """Prose of the Python documentation; what the fixture has learnt of it makes nothing slower or faster."""
    return [row for _, text in library_prose() for row in text.split("\n\n")]


def ours(engine: Engine, folder: Path) -> tuple[np.ndarray, float]:
    """Losses, and seconds of scoring."""
    serve = baseline_serve(recipes.load("gptq-w4a16-g128").serve)
    tiny = subject.of_folder(FIXTURE, engine.facts, role="base", name="tiny", revision=None, serve=serve)
    (folder / "rows.json").write_text(json.dumps(rows()), encoding="utf-8")
    nothing = Identity(
        base="tiny",
        base_fingerprint=tiny.facts.fingerprint,
        dataset="-",
        revision="0" * 40,
        config="-",
        split="-",
        window_tokens=WINDOW,
        divergence_tokens=WINDOW,
        engine=engine.facts.version,
        environment_digest=engine.facts.environment_digest,
    )
    job = ScoreJob(
        folder=str(FIXTURE),
        name="tiny",
        engine_arguments=scoring.arguments(tiny, engine, window_tokens=WINDOW),
        vocab_size=tiny.vocab_size,
        rows_file=str(folder / "rows.json"),
        where="prose of the Python documentation",
        window_tokens=WINDOW,
        stride_tokens=STRIDE,
        max_tokens=TOKENS,
        divergence_tokens=WINDOW,
        perplexity_file=str(folder / "nll.npz"),
        divergence_file=None,
        store_file=None,
        store_is="written",
        max_full_bytes=0,
        reference=nothing,
        result_file=str(folder / "result.json"),
    )
    score_process.run([job], engine, folder)
    result = read_json(folder / "result.json", ScoreResult)
    assert result.perplexity is not None, result.garbage
    return np.load(folder / "nll.npz")["nll"], result.perplexity.wall_s


def plain(engine: Engine, folder: Path) -> tuple[np.ndarray, float, int]:
    """Losses, seconds, and tokens that went through the model; with the better of two ways to wait.

    Threads that spin while they wait are torch's own default and the faster where nothing else runs; threads
    that sleep, each on its own core, are the faster where something does.
    """
    (folder / "text.txt").write_bytes("\n\n".join(rows()).encode())
    job = {"folder": str(FIXTURE), "text_file": str(folder / "text.txt"), "dtype": "bfloat16"}
    job |= {"window": WINDOW, "stride": STRIDE, "max_tokens": TOKENS, "full_windows": 0}
    job["out"] = str(folder / "plain.npz")
    (folder / "plain.json").write_text(json.dumps(job), encoding="utf-8")
    argv = [str(engine.environment.python), str(REFERENCE), str(folder / "plain.json")]
    sleeping = {**variables(engine), "OMP_PLACES": "cores", "OMP_PROC_BIND": "spread"}
    spinning = {name: value for name, value in variables(engine).items() if name != "OMP_WAIT_POLICY"}
    best = float("inf")
    for env in (sleeping, spinning):
        subprocess.run(argv, env=env, check=True, capture_output=True)
        found = dict(np.load(folder / "plain.npz"))
        best = min(best, float(found["seconds"]))
    return found["nll"], best, int(found["num_tokens"])


def main() -> None:
    """Print tokens a second of both, and their ratio."""
    log.configure(quiet=True)
    engine = engines.ready(config.load(ROOT).home)
    with tempfile.TemporaryDirectory(prefix="bench-perplexity-") as temporary:
        found, seconds = ours(engine, Path(temporary))
        expected, plain_seconds, num_tokens = plain(engine, Path(temporary))
    windows = sliding(TOKENS, window=WINDOW, stride=STRIDE)
    assert sum(each.num_tokens for each in windows) == num_tokens
    difference = found.mean() - expected.mean()
    assert abs(difference) < 1e-3, f"mean losses differ by {difference:.2e} nats"
    ratio = plain_seconds / seconds
    print(f"{'perplexity, ' + str(len(windows)) + ' windows of 2,048':42}{'seconds':>9}{'tokens/s':>10}")
    print(f"{'transformers, one window at a time':42}{plain_seconds:9.2f}{num_tokens / plain_seconds:10.0f}")
    print(f"{'through the engine':42}{seconds:9.2f}{num_tokens / seconds:10.0f}")
    verdict = "reached" if ratio >= TARGET else "MISSED"
    print(f"ratio {ratio:.1f} (target {TARGET:g}: {verdict}); mean losses differ by {difference:+.1e} nats")


if __name__ == "__main__":
    main()
