"""The process that runs in the quantizer environment: `python -m bot.backends.worker PHASE JOB.json`.

Two phases, each a process of its own. `calibrate` draws the samples, with network and the reading token.
`quantize` has neither: it runs third-party code over downloaded files, offline, and writes the checkpoint
to a temporary folder that takes its final name only when everything was right. A result file is left on
success, an error file with a typed error otherwise; the bot turns that back into the same exception.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from bot.backends import BACKENDS, Backend
from bot.backends.report import Report
from bot.errors import BackendError, InfrastructureError, ReleaseBotError
from bot.models import BackendJob, read_json, write_json
from bot.recipe import Recipe


def error_file(job: BackendJob) -> Path:
    """Where a worker leaves its typed error."""
    return Path(job.result_file + ".error")


def calibrate(job: BackendJob, recipe: Recipe, report: Report) -> None:
    """Draw and keep the calibration samples."""
    from bot.backends.calibration import describe, prepare

    print(describe(prepare(job, recipe, report)))


def quantize(job: BackendJob, recipe: Recipe, report: Report) -> None:
    """Quantize into a temporary folder and rename it to the job's output folder."""
    import torch

    from bot.backends.calibration import prepare

    if job.device == "cuda" and not torch.cuda.is_available():
        raise InfrastructureError(
            "the job asks for a GPU, and torch sees none",
            why="no driver, no device, or a CPU build of torch",
            fix="run it on a runner with a GPU, or with --device cpu",
        )
    torch.set_num_threads(job.num_threads)
    calibration = prepare(job, recipe, report)
    final = Path(job.output_folder)
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    backend: Backend = importlib.import_module(BACKENDS[job.backend][0])  # type: ignore[assignment]
    result = backend.quantize(
        job.model_copy(update={"output_folder": str(partial)}), recipe, calibration, report
    )
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    write_json(Path(job.result_file), result)


PHASES: dict[str, Callable[[BackendJob, Recipe, Report], None]] = {
    "calibrate": calibrate,
    "quantize": quantize,
}


def _typed(error: BaseException) -> ReleaseBotError:
    if isinstance(error, ReleaseBotError):
        return error
    name = type(error).__name__
    text = f"{name}: {str(error).strip() or 'no message'}"[:500]
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        return InfrastructureError(
            text, why="the machine or its GPU has too little memory", fix="use a larger runner"
        )
    if isinstance(error, OSError) and error.errno == 28:
        return InfrastructureError(
            text, where=str(error.filename or ""), why="the disk is full", fix="free some space"
        )
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return BackendError(
        text, where=f"{Path(frame.filename).name}:{frame.lineno}", fix="the log has the traceback"
    )


def main(argv: list[str]) -> int:
    """Run one phase of one job; 0 when it is done."""
    phase, job = argv[0], read_json(Path(argv[1]), BackendJob)
    error_file(job).unlink(missing_ok=True)
    try:
        PHASES[phase](job, Recipe.model_validate(job.recipe), Report())
    except Exception as e:
        traceback.print_exc()
        typed = _typed(e)
        fields = {"error": type(typed).__name__, "what": typed.what, "where": typed.where}
        error_file(job).write_text(
            json.dumps({**fields, "why": typed.why, "fix": typed.fix}), encoding="utf-8"
        )
        return typed.exit_code
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The tools leave threads behind that can crash the interpreter on its way out; all is written by now.
    os._exit(code)
