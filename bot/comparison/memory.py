"""The KV cache that a server had, and what the draft head takes from it."""

from __future__ import annotations

from bot.comparison.model import MemoryFigures
from bot.measurements import Examined
from bot.serving.kv import cache_of, share_lost_to_drafting


def memory_of(release: Examined, mtp_bytes: int) -> MemoryFigures | None:
    """Readings of the release's two starts; None when the engine told nothing of its cache."""
    cache = cache_of(release.load) if release.load else None
    if release.load is None or cache is None:
        return None
    plain = release.load_plain
    lost = share_lost_to_drafting(release.load, plain) if plain and release.load.drafting else None
    return MemoryFigures(
        tokens=cache.tokens,
        max_concurrency=cache.max_concurrency,
        bytes_per_token=cache.bytes_per_token,
        plain_tokens=plain.kv_cache_tokens if plain and lost is not None else None,
        share_lost=lost,
        mtp_bytes=mtp_bytes,
    )
