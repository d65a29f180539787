"""Medians and spreads over the runs of one load. Three runs tell a range, and no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bot.comparison.model import SpeedFigures, Spread
from bot.measurements import Speed

_SAME_LOAD = ("dataset", "drafting", "streams", "input_tokens", "output_tokens")


def figures_of(row: Speed, base: Sequence[Speed]) -> SpeedFigures:
    """The figures of one load (its runs must not be empty), beside the base's row of the same load."""
    own = _spread(row, "output_tokens_per_s")
    same = next((each for each in base if each.runs and _same_load(each, row)), None)
    theirs = _spread(same, "output_tokens_per_s").median if same else 0.0
    return SpeedFigures(
        dataset=row.dataset,
        drafting=row.drafting,
        streams=row.streams,
        max_num_seqs=row.max_num_seqs,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        num_runs=len(row.runs),
        tokens_per_s=own,
        ttft_ms=_spread(row, "ttft_ms"),
        tpot_ms=_spread(row, "tpot_ms"),
        itl_ms=_spread(row, "itl_ms"),
        ratio=own.median / theirs if theirs else None,
    )


def _same_load(one: Speed, other: Speed) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in _SAME_LOAD)


def _spread(row: Speed, figure: str) -> Spread:
    values = [float(getattr(run, figure)) for run in row.runs]
    return Spread(median=float(median(values)), low=min(values), high=max(values))
