"""Divergence inside the scoring process: the base's side into the store, another checkpoint's beside it.

The engine is asked for as little as will do:

- `full`: all entries of the vocabulary, from both sides;
- `lower_bound`, the base: its top k; another checkpoint: the log-probabilities at the base's ids
  (`prompt_logprob_token_ids`, which vLLM's V2 model runner has, on CUDA), or, where the runner has not got
  that, the whole vocabulary, of which those are taken.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from bot.backends.report import Report
from bot.errors import InputError
from bot.serving import divergence, store
from bot.serving.score_engine import (
    Array,
    Garbage,
    Ids,
    Rows,
    Scorer,
    batches,
    parameters,
    refuse_huge,
    rows_of,
    save,
)
from bot.serving.score_job import Compared, ScoreJob
from bot.serving.score_text import Text, digest
from bot.serving.windows import Window, separate


def compared_windows(job: ScoreJob, ids: Ids) -> list[Window]:
    """Whole windows over the first tokens of the set. Raises InputError for a short set."""
    num_tokens = min(len(ids), job.divergence_tokens)
    return separate(num_tokens, window=job.window_tokens, where=job.where)


def keep(job: ScoreJob, text: Text, scorer: Scorer, report: Report) -> store.Contents:
    """The base's side, into the store. Raises InputError for a short set, Garbage."""
    assert job.store_file is not None
    windows = compared_windows(job, text.ids)
    num_rows = sum(each.num_scored for each in windows)
    kind, k = store.kind_for(num_rows, job.vocab_size, max_full_bytes=job.max_full_bytes)
    contents = store.Contents(
        kind=kind,
        k=k,
        vocab_size=job.vocab_size,
        num_windows=len(windows),
        num_rows=num_rows,
        tokens_sha256=digest(text.ids[: windows[-1].end]),
    )
    if kind == "full":
        refuse_huge(job.window_tokens, job.vocab_size)
    report.phase("the base's distributions", len(windows))
    with store.writing(Path(job.store_file), job.reference, contents) as arrays:
        asked = parameters(-1 if kind == "full" else k)
        for batch in batches(windows, entries_a_token=k + 1):
            prompts = [text.ids[window.start : window.end] for _, window in batch]
            outputs = scorer.outputs(prompts, [asked] * len(batch))
            for (number, window), output in zip(batch, outputs, strict=True):
                _keep_window(arrays, contents, number, rows_of(output.prompt_logprobs, window.num_tokens))
            report.progress(batch[-1][0] + 1)
    return contents


def _keep_window(arrays: dict[str, Array], contents: store.Contents, number: int, rows: Rows) -> None:
    here = slice(number * len(rows.nll), (number + 1) * len(rows.nll))
    kept = rows.over(contents.vocab_size) if contents.kind == "full" else rows.logprobs[:, : contents.k]
    if kept.shape[1] != contents.k or np.isnan(kept).any():
        raise Garbage("log-probabilities of likely tokens are absent or no numbers")
    arrays["nll"][here] = rows.nll
    arrays["logprobs"][here] = kept
    if contents.kind == "lower_bound":
        arrays["ids"][here] = rows.ids[:, : contents.k]


def compare(job: ScoreJob, text: Text, reference: store.Store, scorer: Scorer, report: Report) -> Compared:
    """Divergences from the base's store, into their file. Raises Garbage."""
    assert job.divergence_file is not None
    started = time.monotonic()
    windows = compared_windows(job, text.ids)
    asks_at_ids = reference.contents.kind == "lower_bound" and scorer.scores_given_ids
    if not asks_at_ids:
        refuse_huge(job.window_tokens, job.vocab_size)
    columns: dict[str, list[Array]] = {
        name: [] for name in ("kld", "tail", "nll", "base_nll", "agree", "window")
    }
    report.phase("divergence", len(windows))
    for batch in batches(
        windows, entries_a_token=reference.contents.k + 1 if asks_at_ids else job.vocab_size + 1
    ):
        bases = [_base_rows(reference, number, window) for number, window in batch]
        asked = [parameters(1, base["ids"]) if asks_at_ids else parameters(-1) for base in bases]
        prompts = [text.ids[window.start : window.end] for _, window in batch]
        outputs = scorer.outputs(prompts, asked)
        for (number, window), base, output in zip(batch, bases, outputs, strict=True):
            found = _compare_window(base, output, window, job.vocab_size, at_ids=asks_at_ids)
            found["window"] = np.full(window.num_scored, number, dtype=np.int32)
            for name, values in found.items():
                columns[name].append(values)
        report.progress(batch[-1][0] + 1)
    save(job.divergence_file, {name: np.concatenate(values) for name, values in columns.items()})
    return Compared(store=reference.contents, wall_s=time.monotonic() - started)


def _base_rows(reference: store.Store, number: int, window: Window) -> dict[str, Array]:
    here = slice(number * window.num_scored, (number + 1) * window.num_scored)
    return {name: np.asarray(array[here]) for name, array in reference.arrays.items()}


def _compare_window(
    base: dict[str, Array], output: Any, window: Window, vocab_size: int, *, at_ids: bool
) -> dict[str, Array]:
    rows = rows_of(output.prompt_logprobs, window.num_tokens)
    if at_ids:
        logprobs = _at_ids(output, base["ids"].shape)
        highest = _highest(rows.ids[:, 0], base["ids"], logprobs)
    else:
        logprobs = rows.over(vocab_size)
        highest = rows.logprobs.max(axis=1)
        if "ids" in base:
            logprobs = np.take_along_axis(logprobs, base["ids"], axis=1)
    if "ids" in base:
        kld, tail = divergence.lower_bound(base["logprobs"], logprobs), divergence.tail_mass(base["logprobs"])
    else:
        kld, tail = divergence.full(base["logprobs"], logprobs), np.zeros(window.num_scored)
    if not np.isfinite(kld).all():
        bad = int((~np.isfinite(kld)).sum())
        raise Garbage(f"{bad:,} of {len(kld):,} tokens have log-probabilities that are no finite numbers")
    agree = divergence.agreement(base["logprobs"], logprobs, highest)
    return {"kld": kld, "tail": tail, "nll": rows.nll, "base_nll": base["nll"], "agree": agree}


def _at_ids(output: Any, shape: tuple[int, ...]) -> Array:
    found = getattr(output, "prompt_token_id_logprobs", None)
    if found is None or found.shape != shape:
        raise Garbage("the engine gave no log-probabilities at the base's ids")
    return np.asarray(found, dtype=np.float32)


def _highest(best_T: Ids, ids_TK: Ids, logprobs_TK: Array) -> Array:
    """The likeliest token's score `[T]` among those at the base's ids; infinite where it is not there.

    The engine computes the likeliest token and the scores at given ids from logits of two separate matrix
    products, whose last bits may differ. So the token is found by its id, and scores are compared only with
    scores of the same product.
    """
    is_best_TK = ids_TK == best_T[:, None]
    return np.where(is_best_TK.any(axis=1), np.where(is_best_TK, logprobs_TK, -np.inf).max(axis=1), np.inf)


def opened(job: ScoreJob, text: Text) -> store.Store:
    """The base's store, for this text. Raises Refused, and InputError where the two sides' tokens differ."""
    assert job.store_file is not None
    reference = store.read(Path(job.store_file), job.reference)
    windows = compared_windows(job, text.ids)
    mine = digest(text.ids[: windows[-1].end])
    if mine != reference.contents.tokens_sha256:
        raise InputError(
            f"the tokenizer of {job.name} gives other tokens than that of {job.reference.base}",
            where=f"{job.where}: {mine[:12]} and {reference.contents.tokens_sha256[:12]}",
            why="perplexity and divergence over different tokens cannot be compared",
            fix="take the tokenizer's files from the base",
        )
    if job.vocab_size != reference.contents.vocab_size:
        raise InputError(
            f"{job.name} has a vocabulary of {job.vocab_size:,}, and {job.reference.base} of "
            f"{reference.contents.vocab_size:,}",
            where="config.json, vocab_size",
            why="distributions over different vocabularies cannot be compared",
            fix="take config.json from the base, with the quantization_config added",
        )
    return reference
