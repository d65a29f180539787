"""Speed of a served checkpoint, as vLLM's own bench measures it.

The loads are those of `bench_loads`. Each is warmed up by a discarded run of one prompt a stream: the first
requests of a server compile kernels (six seconds in a run of half a second on the tiny model). Then come its
runs, three or more, whose median and range are what a reader gets: on a shared machine a single run says
little. A range, since quartiles of three figures are no more than a guess.

A run that is kept in the folder for the same server, prompts, engine and machine is not made again within a
day. Speed of a format that this machine only emulates is not measured at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bot import comparable, log
from bot.edges import failures, process
from bot.errors import EngineError, InfrastructureError
from bot.measurements import Load, Speed, SpeedRun, Speeds
from bot.models import write_atomically, write_json
from bot.recipe_evaluation import SpeedPlan
from bot.serving import symptoms
from bot.serving.bench_loads import BenchLoad, Target, arguments, check_fits, plan_runs, shown_command
from bot.serving.bench_worker import REQUESTS_FAILED, BenchJob, BenchResult, BenchRun
from bot.serving.engine import Engine, variables
from bot.serving.server import Server
from bot.serving.subject import Subject

START_S: Final = 300.0  # importing vLLM from a cold disk
STALL_S: Final = 900.0  # no request finished for so long: it hangs
PROBE_S: Final = 60.0
LOG_LINES: Final = 400


# ── what is measured ───────────────────────────────────────────────────────────────────────


def measure(
    server: Server,
    engine: Engine,
    plan: SpeedPlan,
    *,
    subject: Subject,
    drafting: bool,
    kinds: Mapping[str, Sequence[str]],
    folder: Path,
    stall_s: float = STALL_S,
) -> Speeds:
    """Every load of the plan on a running server; finished runs stay in `folder`.

    `wall_s` is that of this call, `started_at` not after the oldest run that is in a row. Raises RecipeError
    when the plan does not fit into the context, EngineError when the server died, hung (no request finished
    for `stall_s`) or refused requests, InfrastructureError when the bench itself failed.
    """
    started, now = time.monotonic(), datetime.now(UTC)
    if subject.facts.emulated is not None:
        reason = subject.facts.emulated
        return Speeds(rows=[], not_measured=reason, command="", started_at=_shown(now), wall_s=0.0)
    check_fits(plan, server.load.max_model_len)
    loads = plan_runs(plan, max_num_seqs=server.load.max_num_seqs, kinds=kinds)
    kept = folder / digest_of(loads, server.load, engine, subject)[:16]
    target = Target(url=server.url, model=server.client.model, tokenizer=str(subject.folder))
    if runs := missing_runs(loads, target, kept):
        _bench(server, engine, runs, kept, stall_s)
    return Speeds(
        rows=[_row(load, kept, drafting=drafting) for load in loads],
        not_measured=None,
        command=shown_command(loads[0], subject.facts.name),
        started_at=_shown(min([now, *(_made_at(file) for file in _result_files(loads, kept))])),
        wall_s=time.monotonic() - started,
    )


def _shown(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def digest_of(loads: Sequence[BenchLoad], load: Load, engine: Engine, subject: Subject) -> str:
    """sha256 over what a run's figures depend on."""
    overlay = [each.model_dump_json() for each in load.overlay]
    server = [load.command, overlay, load.drafting, load.max_model_len, load.max_num_seqs]
    content = [subject.facts.fingerprint, engine.facts.model_dump_json(), server, [repr(e) for e in loads]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def missing_runs(loads: Sequence[BenchLoad], target: Target, kept: Path) -> list[BenchRun]:
    """The runs that are not kept, each load's after a warm-up; writes the real prompts' files."""
    runs = []
    for load in loads:
        prompts = kept / f"{load.dataset}.jsonl"
        if load.prompts:
            lines = [json.dumps({"prompt": each}) + "\n" for each in load.prompts]
            write_atomically(prompts, "".join(lines).encode())
        numbers = [i for i in range(1, load.num_runs + 1) if _kept(_result_file(kept, load, i)) is None]
        for number in [0, *numbers] if numbers else []:
            words = arguments(
                load,
                target,
                seed=load.first_seed + number,
                num_prompts=load.num_prompts if number else load.streams,
                dataset_file=str(prompts),
            )
            title = f"{load.name} {f'run {number}' if number else 'warm-up'}"
            file = str(_result_file(kept, load, number))
            runs.append(BenchRun(title=title, arguments=words, result_file=file))
    return runs


def _result_file(kept: Path, load: BenchLoad, number: int) -> Path:
    """Where a run's result lies; number 0 is the warm-up's, which nobody reads."""
    return kept / f"{load.name}-{number}.json"


def _result_files(loads: Sequence[BenchLoad], kept: Path) -> list[Path]:
    return [_result_file(kept, load, number) for load in loads for number in range(1, load.num_runs + 1)]


def _made_at(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, UTC)


def _row(load: BenchLoad, kept: Path, *, drafting: bool) -> Speed:
    return Speed(
        dataset=load.dataset,
        drafting=drafting,
        streams=load.streams,
        max_num_seqs=load.max_num_seqs,
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        runs=[_run(load, file) for file in _result_files([load], kept)],
    )


# ── one run's result ───────────────────────────────────────────────────────────────────────


def _kept(file: Path) -> BenchResult | None:
    """The result in `file`; None when there is none, or it is older than speeds stay comparable."""
    try:
        if not comparable.fresh(_made_at(file).isoformat(), datetime.now(UTC)):
            return None
        return BenchResult.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as e:
        log.warning(f"{file.name} is no result of the bench, and that run is made again: {type(e).__name__}")
        return None


def _run(load: BenchLoad, file: Path) -> SpeedRun:
    """The figures of one run; EngineError when it did less work than its load is."""
    result = _kept(file)
    if result is None:
        raise InfrastructureError(
            "a run left no result", where=str(file), fix="look into bench.log beside it, then run it again"
        )
    asked = load.num_prompts * load.output_tokens
    if result.completed != load.num_prompts or result.total_output_tokens != asked:
        file.unlink()
        raise EngineError(
            "refused_request",
            f"{load.name}: {result.completed} requests gave {result.total_output_tokens} tokens; "
            f"{load.num_prompts} with {asked} were asked for",
            why="an answer was cut short although it was to ignore the end token",
            fix="look whether prompts and answers fit into max_model_len",
        )
    rate = result.spec_decode_acceptance_rate
    return SpeedRun(
        output_tokens_per_s=result.output_throughput,
        total_tokens_per_s=result.total_token_throughput,
        ttft_ms=result.median_ttft_ms,
        tpot_ms=result.median_tpot_ms,
        itl_ms=result.median_itl_ms,
        ttft_p99_ms=result.p99_ttft_ms,
        tpot_p99_ms=result.p99_tpot_ms,
        itl_p99_ms=result.p99_itl_ms,
        num_requests=result.completed,
        num_failed=result.failed,
        duration_s=result.duration,
        acceptance_rate=None if rate is None else rate / 100,
    )


# ── the process that makes the runs ────────────────────────────────────────────────────────


def _bench(server: Server, engine: Engine, runs: Sequence[BenchRun], kept: Path, stall_s: float) -> None:
    """Make `runs` in one process of the engine's environment; raises the typed error of what went wrong."""
    job = BenchJob(runs=list(runs), error_file=str(kept / "error.json"))
    Path(job.error_file).unlink(missing_ok=True)
    write_json(kept / "job.json", job)
    with _worker(engine, job, kept) as (handle, watch):
        while handle.poll():
            if watch.quiet_s() > (stall_s if watch.begun else START_S):
                raise _hung(server, watch.quiet_s())
    child = handle.child
    if child.returncode == REQUESTS_FAILED:
        raise _refused(server, failures.read_error(Path(job.error_file)).what)
    if child.returncode != 0:
        server.client.alive()
        raise failures.of_child(child, error_file=Path(job.error_file), failure=InfrastructureError)


@contextmanager
def _worker(engine: Engine, job: BenchJob, kept: Path) -> Iterator[tuple[process.Running, _Watch]]:
    """The running worker, ended on leaving; a proxy of the environment is not asked for loopback."""
    env = variables(engine)
    argv = [str(engine.environment.python), "-m", "bot.serving.bench_worker", str(kept / "job.json")]
    with (
        process.importable() as folder,
        log.Progress("bench", total=len(job.runs), unit=" runs") as progress,
    ):
        watch = _Watch(progress)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, env.get("PYTHONPATH"))))
        env["NO_PROXY"] = env["no_proxy"] = "127.0.0.1,localhost,::1"
        log_file = kept / "bench.log"
        with process.running(
            argv, env=env, log_file=log_file, cwd=kept, on_line=watch.line, on_event=watch.event
        ) as handle:
            yield handle, watch


class _Watch:
    """When the worker last showed that requests finish (a line of its progress bar), and how far it is."""

    def __init__(self, progress: log.Progress) -> None:
        self.begun = False
        self._seen = time.monotonic()
        self._progress = progress

    def line(self, _: str) -> None:
        self._seen = time.monotonic()

    def event(self, event: process.Event) -> None:
        self.begun, self._seen = True, time.monotonic()
        if event.get("event") == "progress":
            self._progress.update(float(event["done"]), note=str(event["note"]))

    def quiet_s(self) -> float:
        return time.monotonic() - self._seen


def _hung(server: Server, quiet_s: float) -> EngineError:
    server.client.alive()
    return symptoms.hung(_engine_log(server), timeout_s=round(quiet_s), where=str(server.log_file))


def _refused(server: Server, what: str) -> EngineError:
    """The error for requests that failed: that of a server which is gone, else its refusal."""
    dataclasses.replace(server.client, timeout_s=PROBE_S).complete("a", max_tokens=1)
    last = "\n".join(f"    {line}" for line in symptoms.tail(_engine_log(server)))
    return EngineError(
        "refused_request",
        f"vllm bench serve: {what}",
        where=str(server.log_file),
        why="the server is well and did not take these requests, most likely for their length",
        fix=f"look whether prompts and answers fit into max_model_len. The engine's log ends with:\n{last}",
    )


def _engine_log(server: Server) -> list[str]:
    return server.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
