"""Run another program, watch it, and never leave it behind.

Used for everything heavy: quantizers, pip, servers. What it gives that `subprocess.run` does not:

- its output goes line by line to a log file (secrets masked) and to a callback, not to the terminal;
- progress comes as JSON lines on a pipe of its own, whose number is in `RELEASE_BOT_EVENTS_FD`: libraries
  print what they like on standard output, so it carries no protocol;
- peak memory of the whole process tree is sampled;
- ^C, an exception of ours, a timeout or the bot's own death ends the whole tree (see `supervisor.py`);
- the environment is passed in full by the caller, and a value that is named like a secret may not stand
  on the command line, where every user of the machine could read it;
- failures are typed: a child that left an error file fails as the class named there; one that was killed is
  an `InfrastructureError`, since the same work may succeed with more memory.

The death signal is bound to the *thread* that starts the child: start and await it in the same one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from bot import errors, log
from bot.edges import failures, supervisor

EVENTS_FD = "RELEASE_BOT_EVENTS_FD"
GRACE_S = 10.0
SAMPLE_PERIOD_S = 0.5
TAIL_LINES = 25
MAX_LINE_BYTES = 64 * 1024

# What a child may inherit: paths, locale, certificates, proxies, devices. Tokens are given by name.
_INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "TERM",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
)
_INHERITED_PREFIXES = ("LC_", "SSL_", "CUDA_", "NVIDIA_", "PIP_", "REQUESTS_CA_", "CURL_CA_")
_INHERITED_SUFFIXES = ("_PROXY", "_proxy")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_SECRET_WORDS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY")

Event = dict[str, Any]


def inherited(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of our environment that a child needs to run at all; no tokens, no bot settings."""
    return {
        name: value
        for name, value in environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES) or name.endswith(_INHERITED_SUFFIXES)
    }


@dataclass(kw_only=True)
class Child:
    """A running program; `peak_memory_bytes` is the largest sum over its process tree that was sampled."""

    pid: int
    argv: list[str]
    log_file: Path
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    peak_memory_bytes: int = 0
    returncode: int | None = None

    def sample_memory(self) -> None:
        """Look at the process tree's memory now."""
        held = [_memory_bytes(pid) for pid in supervisor.descendants(self.pid)]
        now = sum(resident for resident, _ in held)
        highest = max((peak for _, peak in held), default=0)
        self.peak_memory_bytes = max(self.peak_memory_bytes, now, highest)


def _memory_bytes(pid: int) -> tuple[int, int]:
    """What a process holds now, and the most that it ever held; zeros for one that is gone."""
    found = {"VmRSS": 0, "VmHWM": 0}
    with (
        contextlib.suppress(OSError, ValueError),
        open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f,
    ):
        for line in f:
            name = line.partition(":")[0]
            if name in found:
                found[name] = int(line.split()[1]) * 1024
    return found["VmRSS"], found["VmHWM"]


def oom_kills() -> int | None:
    """How many processes the kernel has ended for want of memory; of our control group, else the machine."""
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control", "/proc/vmstat"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None


class _Lines:
    """Bytes from a pipe to complete lines; a carriage return ends one too, as progress bars use it."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            lines, self._rest = [*lines, self._rest], b""
        for line in lines:
            if line.strip():
                self._take(line.decode(errors="replace"))

    def close(self) -> None:
        self.feed(b"\n")


class Running:
    """Handle on a started program: pump its pipes with `poll`, or let `run` do it."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        events: int,
        child: Child,
        log_to: IO[str],
        on_line: Callable[[str], None] | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        self.child = child
        self._popen = popen
        self._log = log_to
        self._on_line = on_line
        self._on_event = on_event
        self._sampled = 0.0
        self._selector = selectors.DefaultSelector()
        assert popen.stdout is not None
        self._selector.register(popen.stdout.fileno(), selectors.EVENT_READ, _Lines(self._line))
        self._selector.register(events, selectors.EVENT_READ, _Lines(self._event))

    def poll(self, timeout_s: float = 0.25) -> bool:
        """Pass on what has been written, waiting at most `timeout_s`; False once the program has ended."""
        for key, _ in self._selector.select(timeout_s):
            if data := os.read(key.fd, 65536):
                key.data.feed(data)
            else:
                key.data.close()
                self._selector.unregister(key.fd)
        if time.monotonic() - self._sampled > SAMPLE_PERIOD_S:
            self.child.sample_memory()
            self._sampled = time.monotonic()
        if self._selector.get_map():
            return True
        self.child.returncode = self._popen.wait()
        return False

    def stop(self) -> None:
        """End the whole process tree: SIGTERM, then SIGKILL after the grace time."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(GRACE_S + 5)
            except subprocess.TimeoutExpired:
                for pid in [*supervisor.descendants(self._popen.pid), self._popen.pid]:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                self._popen.wait()
        self.child.returncode = self._popen.returncode

    def _line(self, line: str) -> None:
        line = log.redact(log.printable(_COLOURS.sub("", line)))
        self._log.write(line + "\n")
        self._log.flush()
        self.child.tail.append(line)
        if self._on_line:
            self._on_line(line)

    def _event(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if self._on_event and isinstance(event, dict):
            self._on_event(event)


@contextmanager
def importable() -> Iterator[str]:
    """A folder that holds the package `bot` and nothing else, for PYTHONPATH.

    The folder that the bot was imported from may be a site-packages, whose other packages would hide those
    of the child's environment.
    """
    with tempfile.TemporaryDirectory(prefix="release-bot-") as folder:
        (Path(folder) / "bot").symlink_to(Path(__file__).resolve().parents[1])
        yield folder


@contextmanager
def running(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_file: Path,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Iterator[Running]:
    """Start `argv` with `env` and a UTF-8 locale; on leaving the block it and all it started is ended.

    It gets a folder of its own for temporary files, which goes with it: engines leave sockets behind.
    """
    _refuse_secrets(argv, env)
    log.command(argv)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    guard = [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), str(GRACE_S)]
    with (
        tempfile.TemporaryDirectory(prefix="rb-", ignore_cleanup_errors=True) as scratch,
        open(log_file, "a", encoding="utf-8") as log_to,
    ):
        log_to.write(f"$ {log.redact(' '.join(argv))}\n")
        log_to.flush()
        try:
            popen = subprocess.Popen(
                [*guard, *argv],
                env={"LC_CTYPE": "C.UTF-8", **env, "TMPDIR": scratch, EVENTS_FD: str(write_end)},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[write_end],
                start_new_session=True,
            )
        except OSError as e:
            os.close(read_end)
            raise errors.InfrastructureError(
                f"{argv[0]} cannot be started: {e.strerror}", where=str(cwd or "")
            ) from e
        finally:
            os.close(write_end)
        child = Child(pid=popen.pid, argv=list(argv), log_file=log_file)
        handle = Running(popen, read_end, child, log_to, on_line, on_event)
        try:
            yield handle
        finally:
            handle.stop()
            os.close(read_end)
            if popen.stdout:
                popen.stdout.close()


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_file: Path,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    on_event: Callable[[Event], None] | None = None,
    on_tick: Callable[[], None] | None = None,
    timeout_s: float | None = None,
    error_file: Path | None = None,
    failure: type[errors.ReleaseBotError] = errors.BackendError,
) -> Child:
    """Run `argv` to its end.

    Raises what `error_file` holds when the child left one; InfrastructureError when it was killed or took
    more than `timeout_s`; `failure` with the end of its log for any other status than 0.
    """
    started = time.monotonic()
    with running(argv, env=env, log_file=log_file, cwd=cwd, on_line=on_line, on_event=on_event) as handle:
        while handle.poll():
            if on_tick:
                on_tick()
            if timeout_s is not None and time.monotonic() - started > timeout_s:
                raise errors.InfrastructureError(
                    f"{Path(argv[0]).name} took longer than {timeout_s:g} s and was ended",
                    where=str(log_file),
                    fix="look into the log for where it hangs",
                )
    if handle.child.returncode != 0:
        raise failures.of_child(handle.child, error_file=error_file, failure=failure)
    return handle.child


def _refuse_secrets(argv: Sequence[str], env: Mapping[str, str]) -> None:
    for name, value in env.items():
        secret = any(word in name.upper() for word in _SECRET_WORDS) and len(value) >= 8
        if secret and any(value in argument for argument in argv):
            raise errors.ReleaseBotError(
                f"the value of {name} stands on a command line",
                where=argv[0],
                fix="pass it in the environment",
            )
