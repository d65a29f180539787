"""What a person sees while the bot works: steps, commands, progress with time left, tables.

Everything goes to standard error, so that `--json` on standard output stays one object. In a
terminal, progress is one line redrawn; in a log (CI) it is a line every ten seconds, which a
reader can follow and a search can find. Under GitHub Actions a step is a `::group::`.

Secrets: `hide` registers a value, and whatever is written here afterwards has it masked.
Text from outside is stripped of control characters, so that it can neither redraw the
terminal nor forge a workflow command.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from bot.cardtext import markdown

LOG_PERIOD_S = 10.0

_secrets: set[str] = set()
_quiet = False


def configure(*, quiet: bool) -> None:
    """Silence steps and progress (warnings and errors still appear)."""
    global _quiet
    _quiet = quiet


def hide(secret: str | None) -> None:
    """Mask `secret` in everything written from now on."""
    if secret and len(secret) >= 4:
        _secrets.add(secret)


def redact(text: str) -> str:
    """`text` with every hidden value masked."""
    for secret in _secrets:
        text = text.replace(secret, "***")
    return text


def append(variable: str, text: str) -> None:
    """Add to a file that GitHub names in the environment (outputs, the job summary); secrets masked.

    Outputs are JSON or of one line: a line break in one could begin another.
    """
    if path := os.environ.get(variable):
        with open(path, "a", encoding="utf-8") as file:
            file.write(redact(text))


def printable(text: str) -> str:
    """`text` without control characters other than newline and tab; outside text is data."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


def _write(line: str, *, end: str = "\n") -> None:
    sys.stderr.write(redact(line) + end)
    sys.stderr.flush()


def _on_github() -> bool:
    return os.environ.get("GITHUB_ACTIONS") == "true"


def _safe(text: str) -> str:
    """A line that cannot be a workflow command."""
    text = printable(text)
    return re.sub(r"(?m)^(\s*)::", r"\1: :", text) if _on_github() else text


def info(text: str) -> None:
    """A line of plain progress."""
    if not _quiet:
        _write(_safe(text))


def warning(text: str) -> None:
    """Something a person should know although the work goes on."""
    _write(("::warning::" if _on_github() else "warning: ") + _safe(text).replace("\n", " "))


def error(title: str, text: str) -> None:
    """The end of a run that failed."""
    text = _safe(text)
    _write(f"::error title={title}::{text.splitlines()[0]}" if _on_github() else f"error ({title}): {text}")
    if _on_github():
        _write(text)


def command(argv: Sequence[str]) -> None:
    """Echo a command before it runs, quoted so that it can be pasted."""
    info("  $ " + shlex.join(argv))


@contextmanager
def step(title: str) -> Iterator[None]:
    """A named piece of work, closed with a tick or a cross and its seconds."""
    started = time.monotonic()
    if not _quiet:
        _write(f"::group::{_safe(title)}" if _on_github() else f"→ {_safe(title)}")
    mark = "✗"
    try:
        yield
        mark = "✓"
    finally:
        if not _quiet:
            if _on_github():
                _write("::endgroup::")
            _write(f"{mark} {_safe(title)} ({duration(time.monotonic() - started)})")


def duration(seconds: float) -> str:
    """`75` → `1m 15s`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02d}m" if hours else f"{minutes}m {rest:02d}s"


class Progress:
    """Progress through `total` units of `label`, with the time left.

    >>> with Progress("layers", total=4) as progress:
    ...     progress.update(1, note="layer 0")
    """

    def __init__(self, label: str, *, total: float, unit: str = "") -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self._started = time.monotonic()
        self._shown = 0.0
        self._tty = sys.stderr.isatty()
        self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._drawn:
            _write("")
            self._drawn = False

    def update(self, done: float, *, note: str = "") -> None:
        """Say that `done` of `total` is finished."""
        now = time.monotonic()
        last = done >= self.total
        period = 0.2 if self._tty else LOG_PERIOD_S
        if _quiet or (now - self._shown < period and not last):
            return
        self._shown = now
        line = self._line(done, now - self._started, _safe(note))
        if self._tty:
            _write("\r\x1b[K" + line, end="")
            self._drawn = True
        else:
            _write(line)

    def _line(self, done: float, elapsed_s: float, note: str) -> str:
        share = min(1.0, done / self.total) if self.total else 1.0
        left = duration(elapsed_s * (1 - share) / share) + " left" if 0 < share < 1 else ""
        filled = round(share * 20)
        bar = "█" * filled + "·" * (20 - filled)
        amount = f"{_amount(done, self.unit)}/{_amount(self.total, self.unit)}"
        parts = [f"  {self.label} {bar} {share:4.0%} {amount}", duration(elapsed_s), left, note]
        return "  ".join(part for part in parts if part)[:160]


def _amount(value: float, unit: str) -> str:
    return f"{value / 2**20:.1f} MiB" if unit == "bytes" else f"{value:g}{unit}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> str:
    """A plain text table; also appended as Markdown to the job summary under GitHub Actions."""
    body = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(r[i]) for r in [list(columns), *body]) for i in range(len(columns))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in [columns, *body]]
    lines.insert(1, "  ".join("─" * w for w in widths))
    _summary(columns, body, title)
    return "\n".join(([title, ""] if title else []) + lines)


def _summary(columns: Sequence[str], body: list[list[str]], title: str) -> None:
    """Secrets are masked before cells are escaped: an escaped one would not be found."""
    if not os.environ.get("GITHUB_STEP_SUMMARY"):
        return
    cells = [[markdown(redact(cell)) for cell in row] for row in [list(columns), *body]]
    lines = [f"### {markdown(redact(title))}", ""] if title else []
    lines += ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(len(lines) - len(body), "|" + " --- |" * len(columns))
    append("GITHUB_STEP_SUMMARY", "\n".join(lines) + "\n\n")
