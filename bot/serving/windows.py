"""Which tokens are scored after which: an evaluation set cut into windows.

Perplexity takes sliding windows: each window is a prompt of its own, `stride` tokens after the one before,
and scores only what no window before it has scored, so that every token but the first is scored once, all but
the first window's with at least `window - stride` tokens before it. That is the loop of transformers' page
"Perplexity of fixed-length models", whose figures cards are compared with.

Divergence takes windows that do not overlap: each position of the set is looked at once, and what the base
said is stored once.

A token at the very start of a prompt has nothing before it, so the engine gives it no log-probability. It is
never scored: with `stride == window` the first token of every window is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from bot.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Window:
    """Tokens `start` to `end` (exclusive) are one prompt; those from `score_from` on are scored."""

    start: int
    end: int
    score_from: int

    @property
    def num_tokens(self) -> int:
        return self.end - self.start

    @property
    def num_scored(self) -> int:
        return self.end - self.score_from


def sliding(num_tokens: int, *, window: int, stride: int, where: str = "") -> list[Window]:
    """The windows of perplexity over `num_tokens` tokens; the last one is cut where the set ends.

    Raises InputError when the set, described by `where`, is shorter than one window.
    """
    _require_one(num_tokens, window, where)
    found, scored = [], 1
    for start in range(0, num_tokens, stride):
        end = min(start + window, num_tokens)
        score_from = max(scored, start + 1)
        if score_from < end:
            found.append(Window(start=start, end=end, score_from=score_from))
        if end == num_tokens:
            break
        scored = end
    return found


def separate(num_tokens: int, *, window: int, where: str = "") -> list[Window]:
    """Whole windows side by side; what is left at the end is not used. Raises InputError as `sliding`."""
    _require_one(num_tokens, window, where)
    starts = range(0, num_tokens - window + 1, window)
    return [Window(start=start, end=start + window, score_from=start + 1) for start in starts]


def _require_one(num_tokens: int, window: int, where: str) -> None:
    if window < 2:
        raise InputError(f"a window of {window} token scores nothing", where=where, fix="use 2 or more")
    if num_tokens < window:
        raise InputError(
            f"the evaluation set has {num_tokens:,} tokens, and one window has {window:,}",
            where=where,
            why="a figure over less than one window could not be compared with any other",
            fix="name a larger set, raise evaluation.max_tokens or divergence_tokens, "
            "or lower evaluation.window_tokens",
        )
