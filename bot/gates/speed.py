"""The gate over speed: one stream, drafting on, random prompts, against the base in the same run.

Only where kernels of the kind that users run were run: not on a CPU, and not where the format is emulated.
"""

from __future__ import annotations

from statistics import median

from bot.gates.excuses import no_kernel
from bot.gates.gate import Finding, anomalous, at_least, failed, gate, ratio
from bot.measurements import Speed, Speeds
from bot.recipe_evaluation import Thresholds

# A quarter of the bytes to read a token is at most four times as fast.
MAX_SPEED_RATIO = 4.0
_SAME_LOAD = ("drafting", "streams", "input_tokens", "output_tokens")


@gate("speed", requires=("release.speed", "base.speed"), limits=("min_speed_ratio",), excuse=no_kernel)
def speed(limits: Thresholds, release: Speeds, base: Speeds) -> Finding:
    """At the smallest load (one stream) it writes `min_speed_ratio` of the base's tokens a second, or more.

    Fewer bytes are read a token, so a release that is slower took another kernel than it should.
    """
    own, yardstick = _single(release), _single(base)
    if own is None or yardstick is None:
        reasons = {who: each.not_measured for who, each in (("release", release), ("base", base))}
        told = [f"{who}: {why}" for who, why in reasons.items() if why]
        return failed(f"not measured: a run of random prompts ({'; '.join(told) or 'no such row'})")
    if differs := [name for name in _SAME_LOAD if getattr(own, name) != getattr(yardstick, name)]:
        return failed(f"not compared: another {', '.join(differs)}")
    return _beside(own, yardstick, limits.min_speed_ratio)


def _beside(own: Speed, yardstick: Speed, limit: float) -> Finding:
    if lost := sum(run.num_failed for run in (*own.runs, *yardstick.runs)):
        return failed(f"not measured: {lost} requests failed")
    mine, theirs = _tokens_per_s(own), _tokens_per_s(yardstick)
    value = ratio(mine, theirs)
    streams = f"{own.streams} stream{'s' if own.streams > 1 else ''}"
    detail = (
        f"{streams}: {mine:.1f} tokens/s beside the base's {theirs:.1f}, medians of {len(own.runs)} runs, "
        f"drafting {'on' if own.drafting else 'off'}"
    )
    if value > MAX_SPEED_RATIO:
        return anomalous(f"far faster than fewer bytes can make it: {detail}", value, MAX_SPEED_RATIO)
    return at_least(value, limit, detail)


def _single(speeds: Speeds) -> Speed | None:
    rows = [row for row in speeds.rows if row.dataset == "random" and row.runs]
    return min(rows, key=lambda row: row.streams, default=None)


def _tokens_per_s(row: Speed) -> float:
    return median(run.output_tokens_per_s for run in row.runs)
