"""The engine that measures: vLLM in its pinned environment, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bot.edges.environment import Environment
from bot.measurements import EngineFacts


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A ready engine; `home` is the bot's, below which its caches lie."""

    environment: Environment
    facts: EngineFacts
    home: Path
