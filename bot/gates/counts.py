"""When two shares of accepted drafts differ by more than counting explains.

A share `p` of `n` drafts is known to about its binomial standard error √(p(1 − p)/n). The error of a
difference of two independent shares is the root of the sum of both squares. A share is *told* below another
when the difference is more than `NOISE` = 2 such errors. Of releases that draft exactly as well as their
base, about one in forty is told below it by chance; a gate asks for a margin besides.

Two details. The errors are taken at (np + 1)/(n + 2), not at p (Laplace), since 0 of 3 is not known for
certain. And a mean of values between 0 and 1, such as the share of a draft's tokens that held, varies no more
than a 0-or-1 value of the same mean: so the formula, with the number of *drafts* as n, is an upper bound
there, although a draft's tokens are not independent.

At 2 errors the comparison is monotonic: fewer accepted drafts of as many never turn "told below" off. (The
error's own growth takes at most NOISE/2 · √(n/(n + 1)) < 1 of what the difference gains.)

What is not covered: drafts of one answer resemble each other, so the true noise is somewhat larger than this.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bot.measurements import Drafts

NOISE = 2.0


@dataclass(frozen=True)
class Share:
    """A share in 0–1, and the number of drafts that it was counted over."""

    value: float
    num: int

    @property
    def variance(self) -> float:
        """The squared standard error; infinite where nothing was counted."""
        if not self.num:
            return math.inf
        p = (self.value * self.num + 1) / (self.num + 2)
        return p * (1 - p) / self.num

    @property
    def alive(self) -> bool:
        """Whether it is told above nothing at all of as many drafts."""
        return told_below(Share(0.0, self.num), self)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.num:,} drafts)"


def told_below(one: Share, other: Share, scale: float = 1.0) -> bool:
    """Whether `one` is below `scale` times `other` by more than noise."""
    error = math.sqrt(one.variance + scale**2 * other.variance)
    return scale * other.value - one.value > NOISE * error


def at_position(drafts: Drafts, position: int) -> Share | None:
    """The share of drafts whose token at `position` held; None when no such token was drafted."""
    if position >= len(drafts.accepted_by_position):
        return None
    return Share(drafts.by_position[position], drafts.num_drafts)


def of_tokens(drafts: Drafts) -> Share:
    """The share of drafted tokens that held, over the number of drafts."""
    return Share(drafts.rate, drafts.num_drafts)


def together(each: list[Drafts]) -> Share:
    """The share of drafted tokens that held, over all of these."""
    tokens = sum(drafts.num_draft_tokens for drafts in each)
    accepted = sum(drafts.num_accepted_tokens for drafts in each)
    return Share(accepted / tokens if tokens else 0.0, sum(drafts.num_drafts for drafts in each))


def impossible(drafts: Drafts) -> bool:
    """Whether counters cannot be: negative ones, or more accepted than drafted."""
    counts = [drafts.num_drafts, drafts.num_accepted_tokens, *drafts.accepted_by_position]
    return (
        min(counts) < 0
        or drafts.num_accepted_tokens > drafts.num_draft_tokens
        or any(each > drafts.num_drafts for each in drafts.accepted_by_position)
    )
