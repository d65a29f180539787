"""The process that scores a checkpoint: `python -m bot.serving.score_worker JOB.json …`, where vLLM is.

One engine start gives perplexity and divergence, over one set or, with several jobs of the same checkpoint
and engine, over several. Prompts go in by the batch, so that the engine always has the next one to run, and a
batch is small enough that its log-probabilities fit in memory; what they say is written out before the next.
What can be known without the engine is checked before it starts.

Scores that are NaN, infinite or absent end the measurement: the result says so, and the bot raises. The
engine's own failures are left to the log, which the bot reads.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bot.backends.report import Report
from bot.errors import InputError, ReleaseBotError
from bot.models import read_json, write_json
from bot.serving.score_divergence import compare, compared_windows, keep, opened
from bot.serving.score_engine import Garbage, Scorer, batches, parameters, rows_of, save
from bot.serving.score_job import Scored, ScoreJob, ScoreResult
from bot.serving.score_text import Text, digest, text_of
from bot.serving.store import Store
from bot.serving.windows import sliding


def error_file(job: ScoreJob) -> Path:
    """Where the worker leaves a typed error."""
    return Path(job.result_file + ".error")


def perplexity(job: ScoreJob, text: Text, scorer: Scorer, report: Report) -> Scored:
    """Losses over sliding windows, into their file. Raises InputError for a short set, Garbage."""
    assert job.perplexity_file is not None
    started = time.monotonic()
    ids = text.ids[: job.max_tokens]
    windows = sliding(len(ids), window=job.window_tokens, stride=job.stride_tokens, where=job.where)
    report.phase("perplexity", len(windows))
    nll = np.empty(sum(each.num_scored for each in windows), dtype=np.float64)
    numbers = np.repeat(np.arange(len(windows), dtype=np.int32), [each.num_scored for each in windows])
    at = 0
    for batch in batches(windows, entries_a_token=1):
        prompts = [ids[window.start : window.end] for _, window in batch]
        outputs = scorer.outputs(prompts, [parameters(0)] * len(batch))
        for (_, window), output in zip(batch, outputs, strict=True):
            scored = rows_of(output.prompt_logprobs, window.num_tokens).nll[-window.num_scored :]
            nll[at : at + len(scored)] = scored
            at += len(scored)
        report.progress(batch[-1][0] + 1)
    save(job.perplexity_file, {"nll": nll, "window": numbers})
    return Scored(
        text_sha256=text.sha256,
        tokens_sha256=digest(ids),
        num_tokens=len(ids),
        shortened=len(ids) < len(text.ids),
        wall_s=time.monotonic() - started,
    )


def work(jobs: Sequence[ScoreJob], report: Report) -> None:
    """Everything that the jobs ask for; inputs are checked before the engine starts."""
    if any(each.engine_arguments != jobs[0].engine_arguments for each in jobs):
        raise InputError(
            "the jobs of one start ask for different engines", fix="start the worker once for each"
        )
    texts = [text_of(job) for job in jobs]
    references = [_checked(job, text) for job, text in zip(jobs, texts, strict=True)]
    report.phase("starting the engine", 1)
    scorer = Scorer(jobs[0].engine_arguments)
    report.progress(1)
    for job, text, reference in zip(jobs, texts, references, strict=True):
        _score(job, text, reference, scorer, report)


def _checked(job: ScoreJob, text: Text) -> Store | None:
    """The base's store where the job compares with one. Raises InputError for a short set, Refused."""
    if job.perplexity_file:
        num_tokens = len(text.ids[: job.max_tokens])
        sliding(num_tokens, window=job.window_tokens, stride=job.stride_tokens, where=job.where)
    if job.store_file:
        compared_windows(job, text.ids)
    return opened(job, text) if job.store_file and job.store_is == "read" else None


def _score(job: ScoreJob, text: Text, reference: Store | None, scorer: Scorer, report: Report) -> None:
    result = ScoreResult(
        engine_start_s=scorer.start_s, garbage=None, perplexity=None, stored=None, divergence=None
    )
    done: dict[str, Any] = {}
    try:
        if job.perplexity_file:
            done["perplexity"] = perplexity(job, text, scorer, report)
            write_json(Path(job.result_file), result.model_copy(update=done))
        if job.store_file and reference is None:
            done["stored"] = keep(job, text, scorer, report)
        if reference is not None:
            done["divergence"] = compare(job, text, reference, scorer, report)
    except Garbage as e:
        done["garbage"] = str(e)
    write_json(Path(job.result_file), result.model_copy(update=done))


def main(argv: list[str]) -> int:
    """Do the jobs; 0 when they are done. An error is left beside the first one's result."""
    jobs = [read_json(Path(each), ScoreJob) for each in argv]
    error_file(jobs[0]).unlink(missing_ok=True)
    try:
        work(jobs, Report())
    except ReleaseBotError as e:
        fields = {"error": type(e).__name__, "what": e.what, "where": e.where, "why": e.why, "fix": e.fix}
        error_file(jobs[0]).write_text(json.dumps(fields), encoding="utf-8")
        print(e, file=sys.stderr)
        return e.exit_code
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # vLLM leaves threads behind that can hang the interpreter on its way out; all is written by now.
    os._exit(code)
