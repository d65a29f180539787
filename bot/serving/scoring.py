"""Perplexity, and divergence from the base, of one checkpoint in the engine that serves it.

A process in the engine's environment does the scoring (`score_worker`), so that the bot stays light and the
engine's end is only a process' end. It is given token windows and leaves per-token losses; what they mean is
worked out here. One start of the engine makes all that is missing.

The base is scored first: besides its perplexity it leaves a store of what it said at each position (`store`),
which every release of that base, set, machine and engine build is compared with. A store of anything else is
refused, never used.

What is kept when it fails: perplexity is a part as soon as it is made, whatever becomes of the divergence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bot.errors import InputError, NotServable
from bot.measurements import Divergence, Perplexity
from bot.models import read_json
from bot.serving import bootstrap, divergence, evaluation_text, score_process, store
from bot.serving import perplexity as perplexities
from bot.serving.command import engine_arguments
from bot.serving.engine import Engine
from bot.serving.examination import Examination
from bot.serving.score_job import ScoreJob, ScoreResult
from bot.serving.subject import Subject

SPARE_TOKENS = 256  # of context beyond a window: the engine keeps one for an answer


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What one start of the engine gave; `divergence` None for a base. `engine_s`: start and scoring."""

    perplexity: Perplexity
    divergence: Divergence | None
    peak_memory_bytes: int
    engine_s: float


def score(x: Examination) -> Scores:
    """Make what is missing of perplexity, divergence and, for a base, the store.

    Raises InputError for a set shorter than a window, for a tokenizer or vocabulary that is not the base's;
    Refused for a store of something else; NotServable when the checkpoint does not load or its scores are no
    numbers; EngineError when the engine fails.
    """
    job = _job(x)
    result_file = Path(job.result_file)
    result_file.unlink(missing_ok=True)
    try:
        peak = score_process.run([job], x.engine, x.logs)
    finally:
        result = read_json(result_file, ScoreResult) if result_file.is_file() else None
        if result and result.perplexity:
            x.keep("perplexity", _perplexity(x, result))
    assert result is not None
    if result.garbage:
        raise _garbage(x, result.garbage)
    found = x.read("perplexity")
    return Scores(
        perplexity=found,
        divergence=_divergence(x, result) if result.divergence else x.read("divergence"),
        peak_memory_bytes=peak,
        engine_s=result.engine_start_s
        + sum(each.wall_s for each in (result.perplexity, result.divergence) if each),
    )


@dataclass(frozen=True, kw_only=True)
class Sets:
    """What one start over several sets cost."""

    peak_memory_bytes: int
    wall_s: float


def diverge(xs: Sequence[Examination]) -> Sets | None:
    """Divergence of one checkpoint over several sets, or the base's stores: what is missing, in one start.

    `xs` are the same checkpoint in the same engine, each with an evaluation of its own. None when nothing was
    missing. Raises as `score`.
    """
    missing = [x for x in xs if (x.read("divergence") is None if x.reference else not has_store(x))]
    if not missing:
        return None
    started = time.monotonic()
    jobs = [_job(x, perplexity=False, name=f"score-result-{i}.json") for i, x in enumerate(missing)]
    for job in jobs:
        Path(job.result_file).unlink(missing_ok=True)
    peak = score_process.run(jobs, missing[0].engine, missing[0].logs)
    for x, job in zip(missing, jobs, strict=True):
        result = read_json(Path(job.result_file), ScoreResult)
        if result.garbage:
            raise _garbage(x, result.garbage)
        if result.divergence:
            x.keep("divergence", _divergence(x, result))
    return Sets(peak_memory_bytes=peak, wall_s=time.monotonic() - started)


def divergence_arrays(x: Examination) -> dict[str, NDArray[Any]]:
    """`kld`, `tail`, `nll`, `base_nll`, `agree` and `window`, each `[T]`, of a measured divergence."""
    with np.load(_arrays(x, "divergence")) as arrays:
        return {name: arrays[name] for name in arrays.files}


def has_store(x: Examination) -> bool:
    """Whether the base `x` left its store. Raises Refused for one of something else in its place."""
    path = _store_path(x)
    if not path.is_file():
        return False
    store.read(path, _identity(x))
    return True


def passages(x: Examination) -> list[str]:
    """The evaluation set in pieces of some thousand tokens, for prompts of real text. Raises InputError."""
    return list(evaluation_text.passages(evaluation_text.rows(_rows_file(x))))


# ── what is asked ──────────────────────────────────────────────────────────────────────────


def _job(x: Examination, *, perplexity: bool = True, name: str = "score-result.json") -> ScoreJob:
    plan, base = x.evaluation, x.reference or x
    wants_divergence = x.reference is not None and x.read("divergence") is None
    owes_store = x.reference is None and not has_store(x)
    if wants_divergence and not has_store(base):
        raise InputError(
            f"the log-probabilities of {base.subject.facts.name} are not there to compare with",
            where=str(_store_path(base)),
            why="the base is scored first, and its store was removed since",
            fix="measure the base again",
        )
    x.logs.mkdir(parents=True, exist_ok=True)
    return ScoreJob(
        folder=str(x.subject.folder.resolve()),
        name=x.subject.facts.name,
        engine_arguments=arguments(x.subject, x.engine, window_tokens=plan.window_tokens),
        vocab_size=x.subject.vocab_size,
        rows_file=str(_rows_file(x).resolve()),
        where=evaluation_text.where(plan),
        window_tokens=plan.window_tokens,
        stride_tokens=plan.stride_tokens,
        max_tokens=plan.max_tokens,
        divergence_tokens=plan.divergence_tokens,
        perplexity_file=str(_arrays(x, "perplexity"))
        if perplexity and x.read("perplexity") is None
        else None,
        divergence_file=str(_arrays(x, "divergence")) if wants_divergence else None,
        store_file=str(_store_path(base)) if wants_divergence or owes_store else None,
        store_is="read" if x.reference else "written",
        max_full_bytes=store.MAX_FULL_BYTES,
        reference=_identity(base),
        result_file=str((x.logs / name).resolve()),
    )


def arguments(subject: Subject, engine: Engine, *, window_tokens: int) -> dict[str, Any]:
    """The server's own settings for `vllm.LLM`, with room for one window and any number of log-probabilities.

    Raises InputError for a window that the model's context does not hold.
    """
    limit = subject.max_position_embeddings
    if window_tokens >= limit:
        raise InputError(
            f"a window of {window_tokens:,} tokens leaves no room in a context of {limit:,}",
            where=subject.facts.name,
            why="the engine keeps one token of the context for an answer",
            fix="lower evaluation.window_tokens",
        )
    return {
        **engine_arguments(subject, engine),
        "model": str(subject.folder.resolve()),
        "max_model_len": min(window_tokens + SPARE_TOKENS, limit),
        "max_logprobs": -1,
        "seed": 0,
    }


def _rows_file(x: Examination) -> Path:
    return evaluation_text.rows_file(
        x.dataset,
        x.evaluation,
        python=x.engine.environment.python,
        kept=x.home / "measured" / "texts",
        log_file=x.logs / "evaluation-set.log",
    )


def _arrays(x: Examination, part: str) -> Path:
    """The per-token arrays of a part, beside it."""
    return x.path(part).resolve().with_suffix(".npz")


def _store_path(base: Examination) -> Path:
    return base.parts.path("store", base.path("divergence").name).resolve().with_suffix(".safetensors")


def _identity(base: Examination) -> store.Identity:
    plan, facts = base.evaluation, base.engine.facts
    return store.Identity(
        base=base.subject.facts.name,
        base_fingerprint=base.subject.facts.fingerprint,
        dataset=plan.dataset,
        revision=plan.revision,
        config=plan.config,
        split=plan.split,
        window_tokens=plan.window_tokens,
        divergence_tokens=plan.divergence_tokens,
        engine=f"{facts.package} {facts.version}",
        environment_digest=facts.environment_digest,
    )


# ── what it means ──────────────────────────────────────────────────────────────────────────


def _garbage(x: Examination, what: str) -> NotServable:
    where = str(x.logs / "scoring.log")
    fix = "`release-bot audit` looks for scales and weights that are no numbers"
    return NotServable("garbage", what, log_tail=[], where=where, fix=fix)


def _perplexity(x: Examination, result: ScoreResult) -> Perplexity:
    scored, plan, file = result.perplexity, x.evaluation, _arrays(x, "perplexity")
    assert scored is not None
    with np.load(file) as arrays:
        found = perplexities.estimate(arrays["nll"], arrays["window"])
    if not math.isfinite(found.ppl):
        raise _garbage(x, f"the mean loss is {found.mean_nll:.1f} nats a token: its perplexity is no number")
    return Perplexity(
        dataset=plan.dataset,
        revision=plan.revision,
        config=plan.config,
        split=plan.split,
        joined_by=evaluation_text.JOINED_BY,
        text_sha256=scored.text_sha256,
        tokens_sha256=scored.tokens_sha256,
        window_tokens=plan.window_tokens,
        stride_tokens=plan.stride_tokens,
        num_windows=found.num_windows,
        num_tokens=scored.num_tokens,
        num_tokens_scored=found.num_tokens,
        shortened=scored.shortened,
        mean_nll=found.mean_nll,
        standard_error=found.standard_error,
        ppl=found.ppl,
        nll_file=file.name,
        wall_s=scored.wall_s,
    )


def _divergence(x: Examination, result: ScoreResult) -> Divergence:
    compared, base = result.divergence, x.reference
    assert compared is not None
    assert base is not None
    with np.load(_arrays(x, "divergence")) as arrays:
        kld_T, window_T = arrays["kld"], arrays["window"]
        found = divergence.summary(kld_T, arrays["agree"])
        difference_T = arrays["nll"] - arrays["base_nll"]
        tail_mass = float(arrays["tail"].mean())
    return Divergence(
        kind=compared.store.kind,
        k=compared.store.k,
        tail_mass=tail_mass,
        num_tokens=found.num_tokens,
        num_windows=compared.store.num_windows,
        reference=base.subject.facts.name,
        reference_fingerprint=base.subject.facts.fingerprint,
        tokens_sha256=compared.store.tokens_sha256,
        mean=found.mean,
        mean_interval=bootstrap.interval(kld_T, window_T),
        median=found.median,
        p99=found.p99,
        p999=found.p999,
        max=found.max,
        top1_agreement=found.top1_agreement,
        mean_nll_difference=float(difference_T.mean()),
        nll_difference_interval=bootstrap.interval(difference_T, window_T),
        wall_s=compared.wall_s,
    )
