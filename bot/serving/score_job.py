"""What the bot asks of the scoring process, and what that leaves: two small files.

Arrays do not travel in them: per-token losses and divergences lie in files beside, named here.
"""

from __future__ import annotations

from typing import Any, Literal

from bot.models import Model, Sha256
from bot.serving.store import Contents, Identity


class ScoreJob(Model):
    """One checkpoint in one engine; a file that is None is not asked for.

    `reference`: which base's store is to be written (from the base itself), or compared with.
    """

    folder: str
    name: str
    engine_arguments: dict[str, Any]
    vocab_size: int
    rows_file: str
    where: str
    window_tokens: int
    stride_tokens: int
    max_tokens: int | None
    divergence_tokens: int
    perplexity_file: str | None
    divergence_file: str | None
    store_file: str | None
    store_is: Literal["written", "read"]
    max_full_bytes: int
    reference: Identity
    result_file: str


class Scored(Model):
    """Perplexity's losses are in their file: `nll` F64 [T] and `window` I32 [T]."""

    text_sha256: Sha256
    tokens_sha256: Sha256
    num_tokens: int
    shortened: bool
    wall_s: float


class Compared(Model):
    """Divergences are in their file: `kld`, `tail`, `nll`, `base_nll`, `agree` and `window`, each [T]."""

    store: Contents
    wall_s: float


class ScoreResult(Model):
    """Written anew after each measurement, so that one that fails takes none with it.

    `garbage` says why the checkpoint's scores are none: NaN, infinite or absent.
    """

    engine_start_s: float
    garbage: str | None
    perplexity: Scored | None
    stored: Contents | None
    divergence: Compared | None
