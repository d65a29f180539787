"""One vLLM server: started as the card's command and its overlay, watched, and always ended.

A thread owns the process: it starts it, passes its log on, looks at its memory and ends it, since the signal
that ends a child with the bot is bound to the thread that started it. So nothing stays behind: not after ^C
or an exception, not when the bot itself is killed.

A server is believed only when it answers to a name that was made up for this start. Another program on the
port cannot know it; the port was free when it was picked, and one that was taken in between is picked again.

Memory: the KV cache is capped by the command, and the process tree is ended as out of memory when it holds
more than its limit, before the kernel picks a victim of its own.
"""

from __future__ import annotations

import re
import secrets
import shlex
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bot import log
from bot.edges import machine, process
from bot.errors import EngineError, ReleaseBotError
from bot.measurements import Load
from bot.serving import command, symptoms
from bot.serving.client import Client
from bot.serving.engine import Engine, variables
from bot.serving.subject import Subject

START_TIMEOUT_S: Final = 20 * 60.0  # 27B of weights from a cold disk, and CUDA graphs
MEMORY_SHARE: Final = 0.9
PORT_ATTEMPTS: Final = 3
HEALTH_PERIOD_S: Final = 0.25
KEPT_LINES: Final = 4000
# What a log line shows to have begun, and the usual share of the start that lies behind it then.
PHASES: Final = (
    (0, "importing", re.compile(r"")),
    (25, "reading the config", re.compile(r"non-default args")),
    (45, "starting the engine", re.compile(r"Initializing a V1 LLM engine")),
    (75, "loading weights", re.compile(r"Starting to load model")),
    (80, "loading the draft head", re.compile(r"Loading drafter model")),
    (90, "warming up", re.compile(r"KV cache size")),
    (99, "listening", re.compile(r"Application startup complete")),
)
_TRACKED = re.compile(r"non-default args.*'enable_weights_track': True")


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers; `load` says how it was started."""

    client: Client
    load: Load
    log_file: Path
    _keeper: _Keeper

    @property
    def url(self) -> str:
        return self.client.url

    @property
    def pid(self) -> int:
        """The process that all of the server's are below."""
        assert self._keeper.child is not None
        return self._keeper.child.pid

    @property
    def peak_memory_bytes(self) -> int:
        """The most main memory that its processes held, as sampled until now."""
        return self._keeper.child.peak_memory_bytes if self._keeper.child else 0


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((command.HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    subject: Subject,
    engine: Engine,
    *,
    drafting: bool,
    logs: Path,
    start_timeout_s: float = START_TIMEOUT_S,
    memory_limit_bytes: int | None = None,
    pick_port: Callable[[], int] = free_port,
) -> Iterator[Server]:
    """A server of `subject` that answers; it and all it started are ended on leaving the block.

    `memory_limit_bytes` bounds the main memory of its processes (default: 90% of what this process may use).
    The log goes to `logs`, one file a start. Raises NotServable when the checkpoint does not load,
    EngineError when the engine hangs, dies, finds no port or takes too much memory.
    """
    limit = memory_limit_bytes or int(machine.memory_limit_bytes() * MEMORY_SHARE)
    for attempt in range(1, PORT_ATTEMPTS + 1):
        port, name = pick_port(), f"{subject.facts.role}-{secrets.token_hex(4)}"
        argv = command.argv(subject, engine, port=port, served_name=name, drafting=drafting)
        log_file = _log_file(logs, "drafting" if drafting else "plain")
        keeper = _Keeper(argv, variables(engine), log_file, limit)
        client = Client(url=f"http://{command.HOST}:{port}", model=name, alive=keeper.check)
        started_at = datetime.now(UTC)
        keeper.start()
        try:
            try:
                load_s = _await_answer(keeper, client, start_timeout_s)
            except EngineError as e:
                if e.kind != "port" or attempt == PORT_ATTEMPTS:
                    raise
                log.warning(f"port {port} was taken before the server had it; trying another")
                continue
            load = _load(subject, engine, drafting, keeper, client, load_s, started_at)
            keeper.serving = True
            yield Server(client=client, load=load, log_file=log_file, _keeper=keeper)
            return
        finally:
            keeper.stop()


def _log_file(logs: Path, name: str) -> Path:
    """A new file each start: `drafting.log`, `drafting-2.log`, …"""
    number = 1
    while (path := logs / (f"{name}.log" if number == 1 else f"{name}-{number}.log")).exists():
        number += 1
    return path


def _await_answer(keeper: _Keeper, client: Client, timeout_s: float) -> float:
    """Seconds until the server answered; raises the typed error of a start that failed."""
    started = time.monotonic()
    with log.Progress("starting vLLM", total=100, unit="%") as progress:
        while not client.answers():
            if keeper.ended.wait(HEALTH_PERIOD_S):
                raise keeper.failure()
            share, name, _ = PHASES[keeper.phase]
            progress.update(share, note=name)
            if time.monotonic() - started > timeout_s:
                raise symptoms.hung(keeper.lines, timeout_s=timeout_s, where=str(keeper.log_file))
        progress.update(100, note="ready")
    return time.monotonic() - started


def _load(
    subject: Subject,
    engine: Engine,
    drafting: bool,
    keeper: _Keeper,
    client: Client,
    load_s: float,
    started_at: datetime,
) -> Load:
    """What this start shows; the limits as the server itself states them."""
    tokens, concurrency = client.kv_cache()
    settings = command.settings(subject, engine, drafting=drafting)
    cap = settings.get("--kv-cache-memory-bytes")
    drafts = command.drafts(subject)
    return Load(
        drafting=drafting and drafts,
        command=shlex.join(command.printed(subject.serve, subject.facts.name, drafting=drafts)),
        overlay=command.overlay(subject, engine, drafting=drafting),
        quirks=[each.id for each in command.quirks_of(subject, engine, drafting=drafting)],
        load_s=load_s,
        max_model_len=int(client.models()[0]["max_model_len"]),
        max_num_seqs=int(settings["--max-num-seqs"] or 0),
        kv_cache_dtype=subject.serve.kv_cache_dtype,
        kv_cache_tokens=tokens,
        kv_max_concurrency=concurrency,
        kv_cache_memory_bytes=int(cap) if cap else None,
        weights_tracked=any(_TRACKED.search(line) for line in list(keeper.lines)),
        started_at=started_at.isoformat(timespec="seconds"),
    )


class _Keeper(threading.Thread):
    """Owns one server process from its start to its end; everything here is read by other threads."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], log_file: Path, memory_limit_bytes: int
    ) -> None:
        super().__init__(name="vllm", daemon=True)  # it must not keep a bot alive that wants to end
        self.log_file = log_file
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.phase = 0
        self.serving = False
        self.ended = threading.Event()
        self.child: process.Child | None = None
        self._argv = argv
        self._env = env
        self._memory_limit_bytes = memory_limit_bytes
        self._over_memory = False
        self._oom_kills = process.oom_kills()
        self._wanted = True
        self._error: ReleaseBotError | None = None

    def run(self) -> None:
        try:
            with process.running(
                self._argv, env=self._env, log_file=self.log_file, on_line=self._line
            ) as handle:
                self.child = handle.child
                while self._wanted and handle.poll():
                    if handle.child.peak_memory_bytes > self._memory_limit_bytes:
                        self._over_memory = True
                        break
        except ReleaseBotError as e:
            self._error = e
        finally:
            self.ended.set()

    def stop(self) -> None:
        """End the process tree, and come back when it is gone."""
        self._wanted = False
        self.join()

    def check(self) -> None:
        """Raise the typed error when the server has ended, or is being ended for its memory."""
        if self._over_memory or self.ended.is_set():
            raise self.failure()

    def failure(self) -> ReleaseBotError:
        """Why it ended."""
        if self._error is not None:
            return self._error
        where = str(self.log_file)
        lines = list(self.lines)
        if self._over_memory:
            held = self.child.peak_memory_bytes if self.child else 0
            limit = self._memory_limit_bytes
            return symptoms.too_much_memory(lines, held_bytes=held, limit_bytes=limit, where=where)
        return symptoms.of_end(
            lines,
            status=self.child.returncode if self.child else None,
            serving=self.serving,
            killed_for_memory=self._killed_for_memory(),
            where=where,
        )

    def _killed_for_memory(self) -> bool | None:
        now = process.oom_kills()
        return None if now is None or self._oom_kills is None else now > self._oom_kills

    def _line(self, line: str) -> None:
        self.lines.append(line)
        for index, (_, _, pattern) in enumerate(PHASES[self.phase + 1 :], start=self.phase + 1):
            if pattern.search(line):
                self.phase = index
