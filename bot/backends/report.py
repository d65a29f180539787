"""What a quantizer subprocess tells the bot while it works: JSON lines on a pipe of their own.

Standard output belongs to the tools, which print what they like on it. `bot.edges.process` reads the pipe
whose number is in `RELEASE_BOT_EVENTS_FD`; without one (a worker started by hand) the lines go to standard
error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any


class Report:
    """Phases, progress through them, and remarks."""

    def __init__(self) -> None:
        number = os.environ.get("RELEASE_BOT_EVENTS_FD", "")
        self._fd = int(number) if number.isdigit() else sys.stderr.fileno()
        self._label = ""
        self._total = 0.0
        self._started = time.monotonic()

    def phase(self, label: str, total: float) -> None:
        """A new phase of `total` units begins."""
        self._label, self._total, self._started = label, total, time.monotonic()
        self._send({"event": "phase", "label": label, "total": total})

    def progress(self, done: float, note: str = "") -> None:
        """`done` units of the phase are finished; told to the log too."""
        self._send({"event": "progress", "done": done, "total": self._total, "note": note})
        elapsed = time.monotonic() - self._started
        left = f", {elapsed * (self._total - done) / done:.0f} s left" if 0 < done < self._total else ""
        print(f"[{self._label}] {done:g}/{self._total:g} {note} ({elapsed:.0f} s{left})", flush=True)

    def note(self, text: str) -> None:
        """Something a person should read."""
        self._send({"event": "note", "text": text})
        print(text, flush=True)

    def _send(self, event: dict[str, Any]) -> None:
        # The bot may be gone; its death ends this process by a signal, not by a broken pipe here.
        with contextlib.suppress(OSError):
            os.write(self._fd, (json.dumps(event) + "\n").encode())
