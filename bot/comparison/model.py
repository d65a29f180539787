"""The derived figures, as one frozen document; what is None is absent, with why beside it."""

from __future__ import annotations

from typing import Literal

from bot.models import Model

SideKind = Literal["release", "base", "fp8", "sibling", "other"]


class Spread(Model):
    """A figure over the runs of one load: its median, and the lowest and the highest."""

    median: float
    low: float
    high: float


class SpeedFigures(Model):
    """One load; `ratio` is the median of output tokens a second over the base's at the same load."""

    dataset: str
    drafting: bool
    streams: int
    max_num_seqs: int
    input_tokens: int | None
    output_tokens: int
    num_runs: int
    tokens_per_s: Spread
    ttft_ms: Spread
    tpot_ms: Spread
    itl_ms: Spread
    ratio: float | None


class Side(Model):
    """One checkpoint as a column of the table. Ratios and changes are over the base's figure.

    `absent` says why a group of figures is missing: size, perplexity, divergence, acceptance, speed.
    """

    kind: SideKind
    title: str
    repo_id: str
    passed: bool | None
    emulated: str | None
    total_bytes: int | None
    size_ratio: float | None
    bits_per_weight: float | None
    quantized_bits_per_weight: float | None
    ppl: float | None
    ppl_standard_error: float | None
    ppl_ratio: float | None
    ppl_change: float | None
    kld: float | None
    kld_low: float | None
    kld_high: float | None
    kld_is_full: bool
    top1_agreement: float | None
    num_speculative_tokens: int | None
    acceptance_length: float | None
    acceptance_rate: float | None
    acceptance_by_position: list[float]
    acceptance_ratio: float | None
    speeds: list[SpeedFigures]
    plain_speeds: list[SpeedFigures]
    absent: dict[str, str]


class Position(Model):
    """Share of drafts whose token at this position was accepted; positions count from 1 here."""

    position: int
    rate: float | None
    base_rate: float | None
    ratio: float | None


class Kind(Model):
    """Acceptance on one kind of prompts, over all positions."""

    kind: str
    num_prompts: int
    rate: float
    length: float
    base_rate: float | None
    ratio: float | None


class SoakPoint(Model):
    """Acceptance in one window of the soak, or over its short prompts before and after."""

    where: Literal["opening", "window", "fresh"]
    context_tokens: int
    rate: float | None
    base_rate: float | None
    ratio: float | None


class Speedup(Model):
    """Tokens a second with drafting over those without, medians at the same load."""

    dataset: str
    streams: int
    drafting: float
    plain: float
    ratio: float


class MemoryFigures(Model):
    """The KV cache of the server as the card prints it, and what drafting takes from it."""

    tokens: int
    max_concurrency: float
    bytes_per_token: float | None
    plain_tokens: int | None
    share_lost: float | None
    mtp_bytes: int


class Advice(Model):
    """What the figures say is best by one measure; more than one winner where they cannot tell.

    The best comes first. `total_bytes` is the least size of those that were looked at for their size.
    """

    measure: Literal["closest", "closest_of_size", "smallest", "fastest"]
    winners: list[str]
    value: float
    streams: int | None
    total_bytes: int | None


class Verdicts(Model):
    """How many said what: gates, or the audit's checks. `blocking` are not overridden."""

    passed: int
    failed: int
    not_applicable: int
    blocking: int


class Comparison(Model):
    """All derived figures of one release."""

    release: Side
    base: Side
    fp8: Side | None
    siblings: list[Side]
    positions: list[Position]
    kinds: list[Kind]
    soak: list[SoakPoint]
    tested_context_tokens: int
    speedups: list[Speedup]
    memory: MemoryFigures | None
    advice: list[Advice]
    gates: Verdicts
    checks: Verdicts
    interval_percent: int = 95

    @property
    def sides(self) -> list[Side]:
        """Every column, this release first, then what it is held against."""
        return [self.release, self.base, *([self.fp8] if self.fp8 else []), *self.siblings]
