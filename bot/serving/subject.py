"""A checkpoint that is to be served: its folder, its name on the card, and what its files say of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bot.measurements import SubjectFacts
from bot.recipe import Serve


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One checkpoint. `max_position_embeddings` and `vocab_size` are those of the language model."""

    folder: Path
    serve: Serve
    facts: SubjectFacts
    max_position_embeddings: int
    vocab_size: int
