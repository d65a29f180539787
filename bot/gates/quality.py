"""Gates over quality: perplexity against the base's, divergence from the base, and the likeliest token.

Perplexity asks whether the text became less likely; it can fall by chance although the model changed. The
divergence asks how far each prediction moved, and cannot hide that. Both are of the same tokens, in the same
engine. A lower bound of the divergence is held to the same limit: above it, the release is surely above it.
"""

from __future__ import annotations

from bot.gates.gate import Finding, anomalous, at_least, at_most, failed, gate, ratio
from bot.gates.structure import text_differences
from bot.measurements import Divergence, Perplexity, SubjectFacts
from bot.recipe_evaluation import Thresholds

# BF16 arithmetic alone moves a prediction by more than this: below it, nothing was quantized.
MIN_KLD = 1e-6


@gate(
    "ppl.ratio",
    requires=("release.perplexity", "base.perplexity"),
    limits=("max_ppl_ratio", "min_ppl_ratio"),
)
def ppl(limits: Thresholds, release: Perplexity, base: Perplexity) -> Finding:
    """Perplexity is at most `max_ppl_ratio` of the base's, and not below `min_ppl_ratio` of it.

    Rounding costs a little; a large loss is a defect, and a gain is an error of measurement.
    """
    if differs := text_differences(release, base):
        return failed(f"not compared: release and base were scored on another {', '.join(differs)}")
    if min(release.ppl, base.ppl) < 1 or not release.num_tokens_scored:
        return failed(f"no perplexity: {release.ppl:.4g}, base {base.ppl:.4g}; it is never below 1")
    value = ratio(release.ppl, base.ppl)
    detail = f"{release.ppl:.4f} beside the base's {base.ppl:.4f} over {release.num_tokens_scored:,} tokens"
    detail += "; the set was shortened" if release.shortened else ""
    if value < limits.min_ppl_ratio:
        return anomalous(f"far better than the base: {detail}", value, limits.min_ppl_ratio)
    return at_most(value, limits.max_ppl_ratio, detail)


@gate("kld", requires=("release.divergence", "base.subject"), limits=("max_kld",))
def kld(limits: Thresholds, divergence: Divergence, base: SubjectFacts) -> Finding:
    """The mean divergence from the base, in nats a token, is at most `max_kld`.

    It sees every prediction that moved, those too that a perplexity averages away.
    """
    if problem := _unusable(divergence, base):
        return failed(problem)
    label = "" if divergence.kind == "full" else (
        f"lower bound: the base's top {divergence.k:,}, {divergence.tail_mass:.2%} of its mass outside; "
    )  # fmt: skip
    detail = f"{label}{divergence.mean:.5f} nats over {divergence.num_tokens:,} tokens"
    if divergence.mean < MIN_KLD:
        nothing = f"{detail}: nothing was quantized, or the base was compared with itself"
        return anomalous(nothing, divergence.mean, MIN_KLD)
    return at_most(divergence.mean, limits.max_kld, detail)


@gate("top1", requires=("release.divergence", "base.subject"), limits=("min_top1_agreement",))
def top1(limits: Thresholds, divergence: Divergence, base: SubjectFacts) -> Finding:
    """The likeliest token is the base's in at least `min_top1_agreement` of places.

    It is what greedy answers are made of, and says what a reader would notice.
    """
    if problem := _unusable(divergence, base):
        return failed(problem)
    share = divergence.top1_agreement
    if not 0 <= share <= 1:
        return failed(f"no share: {share:g}")
    return at_least(share, limits.min_top1_agreement, f"{share:.1%} of {divergence.num_tokens:,} tokens")


def _unusable(divergence: Divergence, base: SubjectFacts) -> str | None:
    if not divergence.num_tokens:
        return "not measured: a divergence over no token"
    if divergence.reference_fingerprint != base.fingerprint:
        return (
            f"not compared: the divergence is from another base ({divergence.reference}, "
            f"{divergence.reference_fingerprint[:12]}, not {base.fingerprint[:12]})"
        )
    return None
