"""What AutoRound says in its log, read as facts: progress, losses, and what must not happen.

The tool has no callback and returns no losses; each finished layer is one line of its log. It goes on after
a calibration forward that failed or a parameter that it does not know, with a warning: those are kept as
errors.
"""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path

from bot.backends.report import Report
from bot.errors import BackendError
from bot.models import write_atomically

# What the tool says when it goes on after something that must not happen.
_FATAL = re.compile(
    r"Calibration forward pass failed|unsupported runtime kwargs|is ignored|Insufficient number of"
)
_BLOCK_DONE = re.compile(
    r"quantized (\d+)/(\d+) layers in the block, loss iter 0: (\S+) -> iter (\d+): (\S+)"
)


class Watch(logging.Handler):
    """Reads the tool's log: progress and loss of each layer, and what must not happen."""

    def __init__(self, file: Path, total: int, report: Report) -> None:
        super().__init__(logging.INFO)
        self.losses: dict[int, float] = {}
        self.trained = 0
        self._file, self._total, self._report = file, total, report
        self._fatal: list[str] = []
        self._next = 0
        if file.is_file():
            self.losses = {int(k): v for k, v in json.loads(file.read_text(encoding="utf-8")).items()}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if match := re.search(r"resuming after (\d+)/", message):
            self._next = int(match[1])
            self._report.note(f"AutoRound goes on after layer {self._next} of {self._total}")
        elif message.startswith("caching done"):
            self._report.phase("layers", self._total)
        elif match := _BLOCK_DONE.search(message):
            self._done(float(match[3]), int(match[4]), float(match[5]))
        elif record.levelno >= logging.WARNING and _FATAL.search(message):
            self._fatal.append(message)

    def _done(self, first: float, step: int, last: float) -> None:
        loss = last if math.isfinite(first) else first
        self.losses[self._next] = loss
        self._next += 1
        self.trained += 1
        write_atomically(self._file, json.dumps(self.losses).encode())
        self._report.progress(
            self._next, f"layer {self._next - 1}, loss {first:.2e} → {loss:.2e} (step {step})"
        )

    def check(self) -> None:
        """Raise BackendError when the tool only warned of what must not happen."""
        if self._fatal:
            raise BackendError(
                f"AutoRound went on after: {self._fatal[0][:300]}",
                why=f"{len(self._fatal)} such warnings; the tool treats them as passing",
                fix="see its log",
            )
        if sorted(self.losses) != list(range(self._total)):
            raise BackendError(
                f"AutoRound trained {len(self.losses)} of {self._total} layers", fix="see its log"
            )
