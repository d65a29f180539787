"""What the KV cache holds, and what drafting takes from it: pure readings of two starts of a server.

vLLM fills a budget of memory with cache. The draft head has a layer of its own whose keys and values are kept
too, so that under the same budget fewer tokens fit; on a GPU its weights take from the budget as well. What a
card prints is therefore tied to the start it was read from: context length, KV dtype, sequences at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.measurements import Load


@dataclass(frozen=True, kw_only=True)
class KvCache:
    """Tokens that fit, and how many requests of full length that is; bytes where the cap is known."""

    tokens: int
    max_concurrency: float
    bytes_per_token: float | None


def cache_of(load: Load) -> KvCache | None:
    """What one start said of its cache; None when the engine did not say."""
    if not load.kv_cache_tokens:
        return None
    tokens, cap = load.kv_cache_tokens, load.kv_cache_memory_bytes
    concurrency = load.kv_max_concurrency
    return KvCache(
        tokens=tokens,
        max_concurrency=tokens / load.max_model_len if concurrency is None else concurrency,
        bytes_per_token=None if cap is None else cap / tokens,
    )


def share_lost_to_drafting(drafting: Load, plain: Load) -> float | None:
    """Share of the plain server's tokens that no longer fit with drafting, 0–1; None when not comparable.

    Comparable are two starts with the same context, KV dtype, sequences at a time and cap.
    """
    with_head, without = cache_of(drafting), cache_of(plain)
    if with_head is None or without is None or _conditions(drafting) != _conditions(plain):
        return None
    return 1 - with_head.tokens / without.tokens


def _conditions(load: Load) -> tuple[int, str, int, int | None]:
    return load.max_model_len, load.kv_cache_dtype, load.max_num_seqs, load.kv_cache_memory_bytes
