"""Everything that one checkpoint shows, in three starts of the engine.

1. *drafting*: the server as the card prints it: canaries, acceptance, soak, greedy answers, speed.
2. *plain*: the same server without drafting: greedy answers again, speed.
3. *scoring*: the engine in a process of its own, token ids in, log-probabilities out: perplexity, divergence.

A sitting makes only the parts that are missing, and starts no engine when there is none. A part is kept as
soon as it is made, so what stops half-way goes on from the next measurement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import BaseModel

from bot import log
from bot.errors import EngineError, NotServable
from bot.measurements import Failure, Sitting
from bot.serving import canaries, command, drafting, prompts, scoring, server, soak, speed
from bot.serving.examination import Examination, sitting_path
from bot.serving.server import Server

Measure = Callable[[Examination, Server], BaseModel]


def with_drafting(x: Examination) -> Failure | None:
    """The first sitting. Returns why the checkpoint does not serve. Raises EngineError."""
    steps: dict[str, Measure] = {"canaries": _canaries, "greedy": _greedy}
    if x.subject.facts.drafts:
        steps |= {"acceptance": _acceptance, "soak": _soak}
    return _served(x, "drafting", {**steps, "speed": _speed}, drafts=x.subject.facts.drafts)


def drafts_alone(x: Examination) -> Failure | None:
    """What the first sitting counts of drafts, and nothing else of it: what `tests.bench.heads` compares."""
    return _served(x, "drafting", {"acceptance": _acceptance, "soak": _soak}, drafts=True)


def without_drafting(x: Examination) -> Failure | None:
    """The second sitting, which drafting is held against; none for a checkpoint without an MTP head."""
    if not x.subject.facts.drafts:
        return None
    return _served(x, "plain", {"greedy_plain": _greedy, "speed_plain": _plain_speed}, drafts=False)


def scored(x: Examination) -> Failure | None:
    """The third sitting. Raises InputError for an evaluation set or tokenizer that does not do."""
    wanted = ["perplexity", *(["divergence"] if x.reference else [])]
    missing = [name for name in wanted if x.is_missing(name)]
    if not missing and not _owes_store(x):
        return None
    log.info(f"  scoring {x.subject.facts.name}: {', '.join(missing) or 'the store for divergences'}")
    with _failures() as found, _recorded(x, "scoring") as record:
        scores = scoring.score(x)
        record.peak_memory_bytes = scores.peak_memory_bytes
        if scores.divergence:
            x.keep("divergence", scores.divergence)
    return found.failure


def _owes_store(x: Examination) -> bool:
    return x.reference is None and not scoring.has_store(x)


# ── one server, several measurements ───────────────────────────────────────────────────────


def _served(x: Examination, name: str, steps: Mapping[str, Measure], *, drafts: bool) -> Failure | None:
    load = "load" if name == "drafting" else "load_plain"
    missing = {step: measure for step, measure in steps.items() if x.is_missing(step)}
    if not missing and not x.is_missing(load):
        return None
    log.info(f"  serving {x.subject.facts.name} for {', '.join(missing) or load}")
    with (
        _failures() as found,
        _recorded(x, name) as record,
        server.serving(x.subject, x.engine, drafting=drafts, logs=x.logs) as running,
    ):
        x.keep(load, running.load)
        for step, measure in missing.items():
            with log.step(f"{x.subject.facts.name}: {step.replace('_', ' ')}"), _deaths(x, step):
                x.keep(step, measure(x, running))
        record.peak_memory_bytes = running.peak_memory_bytes
    return found.failure


def _canaries(x: Examination, running: Server) -> BaseModel:
    set_flags = command.settings(x.subject, x.engine, drafting=x.subject.facts.drafts)
    caching = "--no-enable-prefix-caching" not in set_flags  # the engine's own default is on
    spared = command.spared(x.subject, x.engine, drafting=x.subject.facts.drafts)
    return canaries.run(running.client, x.subject, prefix_caching=caching, spared=spared)


def _greedy(x: Examination, running: Server) -> BaseModel:
    return drafting.greedy(running.client, x.evaluation.drafting.output_tokens)


def _acceptance(x: Examination, running: Server) -> BaseModel:
    return drafting.acceptance(
        running.client,
        num_speculative_tokens=x.subject.serve.num_speculative_tokens,
        output_tokens=x.evaluation.drafting.output_tokens,
    )


def _soak(x: Examination, running: Server) -> BaseModel:
    texts = scoring.passages(x)
    return soak.run(running.client, texts, x.evaluation.soak, max_model_len=x.max_model_len)


def _speed(x: Examination, running: Server) -> BaseModel:
    return _bench(x, running, drafting=x.subject.facts.drafts)


def _plain_speed(x: Examination, running: Server) -> BaseModel:
    return _bench(x, running, drafting=False)


def _bench(x: Examination, running: Server, *, drafting: bool) -> BaseModel:
    return speed.measure(
        running,
        x.engine,
        x.evaluation.speed,
        subject=x.subject,
        drafting=drafting,
        kinds=prompts.kinds(),
        folder=x.logs / f"bench-{'drafting' if drafting else 'plain'}",
    )


# ── what a sitting cost, and how it failed ─────────────────────────────────────────────────


@dataclass
class _Found:
    failure: Failure | None = None


@contextmanager
def _failures() -> Iterator[_Found]:
    """A checkpoint that does not serve is a finding, kept as evidence; the engine's own faults are raised."""
    found = _Found()
    try:
        yield found
    except NotServable as e:
        log.warning(str(e))
        found.failure = Failure(kind=e.kind, what=e.what, log_tail=e.log_tail)


@contextmanager
def _deaths(x: Examination, step: str) -> Iterator[None]:
    """An engine that dies twice at what its base survived is the checkpoint's doing, not a passing fault."""
    try:
        yield
    except EngineError as e:
        path = x.path(step).with_suffix(".died")
        survived = x.reference is not None and x.reference.read(step) is not None
        if e.kind == "died" and survived and path.exists():
            what = f"the engine died at {step.replace('_', ' ')} again, which it survived with the base"
            raise NotServable("dies", what, log_tail=e.fix.splitlines()[-25:]) from e
        if e.kind == "died":
            path.touch()
        raise


@dataclass
class _Record:
    peak_memory_bytes: int = 0


@contextmanager
def _recorded(x: Examination, name: str) -> Iterator[_Record]:
    """Add this start to the record of its sitting, whatever becomes of it."""
    record, wall, own = _Record(), time.monotonic(), time.process_time()
    try:
        yield record
    finally:
        before = x.parts.read(sitting_path(x, name), Sitting)
        x.parts.write(
            sitting_path(x, name),
            Sitting(
                num_starts=(before.num_starts if before else 0) + 1,
                wall_s=(before.wall_s if before else 0) + time.monotonic() - wall,
                overhead_s=(before.overhead_s if before else 0) + time.process_time() - own,
                peak_memory_bytes=max(before.peak_memory_bytes if before else 0, record.peak_memory_bytes),
            ),
        )
