"""The process that runs in the vLLM environment: `python -m bot.serving.bench_worker JOB.json`.

Importing vLLM costs more than a run of the bench on a small model. So one process makes a whole list of runs,
each through vLLM's own parser and main function with exactly the words that a person would type after
`vllm bench serve`: a parser of its own for each, since some defaults (the prefix of request ids) are drawn
when it is made. Seen on vLLM 0.32.0: the same words give the same prompts, tokens and drafts as the program
gives in a process of its own.

A run's result is vLLM's own file. It takes its final name only when every request was answered, so that a
later process finds what is left to do. Standard output belongs to the bench; progress goes through the pipe.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

from bot.backends.report import Report
from bot.models import Model, read_json

BENCH_FAILED: Final = 4
REQUESTS_FAILED: Final = 5


class BenchRun(Model):
    """One run: the words after `vllm bench serve`, less where its result goes."""

    title: str
    arguments: list[str]
    result_file: str


class BenchJob(Model):
    """What the process is told; `error_file` is where it leaves why it stopped."""

    runs: list[BenchRun]
    error_file: str


Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BenchResult(BaseModel):
    """The fields of vLLM's result file that are used; `spec_decode_acceptance_rate` is in percent."""

    duration: Finite
    completed: int
    failed: int
    total_output_tokens: int
    output_throughput: Finite
    total_token_throughput: Finite
    median_ttft_ms: Finite
    median_tpot_ms: Finite
    median_itl_ms: Finite
    p99_ttft_ms: Finite
    p99_tpot_ms: Finite
    p99_itl_ms: Finite
    spec_decode_acceptance_rate: Finite | None = None


class RequestsFailed(Exception):
    """Requests of a run failed; the words are those of the first."""


def main(argv: list[str]) -> int:
    """Make the runs of one job in their order, up to the first that fails; 0 when all are made."""
    job = read_json(Path(argv[0]), BenchJob)
    try:
        _make(job.runs, Report())
    except Exception as e:
        traceback.print_exc()
        _leave(Path(job.error_file), e)
        return REQUESTS_FAILED if isinstance(e, RequestsFailed) else BENCH_FAILED
    return 0


def _make(runs: list[BenchRun], report: Report) -> None:
    from vllm.benchmarks import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    report.phase("runs", len(runs))
    for done, run in enumerate(runs, start=1):
        parser = FlexibleArgumentParser(prog="vllm bench serve")
        serve.add_cli_args(parser)
        partial = f"{run.result_file}.partial"
        serve.main(parser.parse_args([*run.arguments, "--result-filename", partial]))
        accept(Path(partial), Path(run.result_file))
        report.progress(done, run.title)


def accept(partial: Path, final: Path) -> None:
    """Give a result its final name; RequestsFailed when a request of it was not answered."""
    result: dict[str, Any] = json.loads(partial.read_text(encoding="utf-8"))
    failed, answered = int(result["failed"]), int(result["completed"])
    if failed or not answered:
        words = next((each for each in result.get("errors", []) if each), "no request was answered")
        raise RequestsFailed(
            f"{failed} of {failed + answered} requests failed: {words.strip().splitlines()[-1][:300]}"
        )
    os.replace(partial, final)


def _leave(path: Path, error: Exception) -> None:
    """The error as `bot.edges.failures` reads it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    known = isinstance(error, RequestsFailed)
    fields = {
        "error": "InfrastructureError",
        "what": str(error) if known else f"vllm bench serve: {type(error).__name__}: {error}"[:500],
        "where": "" if known else f"{Path(frame.filename).name}:{frame.lineno}",
    }
    path.write_text(json.dumps(fields), encoding="utf-8")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Some of vLLM's extensions complain at length when the interpreter ends; all is written by now.
    os._exit(code)
