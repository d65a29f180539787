"""Gates over what the checkpoint answered: the canaries, agreement with the base, drafting on against off.

A canary is no exam: a small base may not know a capital or name a colour. So a release is asked for what its
base, with the same prompt in the same engine, could do. What the base could not do says nothing. But a
request that gets no answer is a failure whatever the base can do, and so is a part that the release lost.
"""

from __future__ import annotations

from typing import get_args

from bot.gates.excuses import undrafted
from bot.gates.gate import Facts, Finding, at_least, failed, gate, not_applicable, passed, ratio
from bot.measurements import Canaries, Canary, Equality
from bot.recipe_evaluation import Thresholds
from bot.serving.drafting import leading_share

CANARY_IDS: tuple[str, ...] = get_args(Canary.model_fields["id"].annotation)
# Its rule compares the checkpoint with itself, and the base may be served without prefix caching.
_STANDS_ALONE = ("prefix_cache",)
AGREEMENT = "text.agreement"
# Of the base's share of equal tokens. A head that drafts alike moves near-ties alike, and leaves it near 1.
MIN_EQUALITY_RATIO = 0.5
_SHOWN_CHARS = 80


def _canary_ids(facts: Facts) -> tuple[str, ...]:
    return CANARY_IDS


@gate("canary", requires=("release.canaries", "base.canaries"), parts=_canary_ids)
def canary(limits: Thresholds, part: str, release: Canaries, base: Canaries) -> Finding:
    """Canary {part}: answered, and right where the base's answer is.

    A part of the model that is dead (vision, chat format, long context) answers wrongly or not at all. No
    answer fails even where the base's is wrong.
    """
    own, yardstick = _row(release, part), _row(base, part)
    if own is None or yardstick is None:
        whose = " and ".join(who for who, row in (("release", own), ("base", yardstick)) if row is None)
        return failed(f"not measured: the {whose}'s canary {part}")
    if own.applicable and not own.served:
        return failed(f"the engine gave no answer: {own.detail}")
    if not yardstick.applicable:
        alone = part in _STANDS_ALONE and own.applicable
        return _right(own, None) if alone else not_applicable(yardstick.detail)
    if not own.applicable:
        return failed(f"the base can be asked for it, and the release cannot: {own.detail}")
    if not yardstick.served:
        return failed(f"not measured: the engine gave no answer with the base: {yardstick.detail}")
    if not yardstick.held:
        return not_applicable(f"answered, and the base itself does not do it: {_answer(yardstick)}")
    return _right(own, yardstick)


def _right(own: Canary, yardstick: Canary | None) -> Finding:
    if not own.held:
        return failed(_answer(own) + (f"; the base: {_answer(yardstick)}" if yardstick else ""))
    return passed(own.detail)


def _row(canaries: Canaries, part: str) -> Canary | None:
    return next((row for row in canaries.rows if row.id == part), None)


def _answer(row: Canary) -> str:
    shown = ", ".join(repr(answer[:_SHOWN_CHARS]) for answer in row.answers)
    return f"{row.detail} ({shown})" if shown else row.detail


@gate("agreement", requires=("release.canaries", "base.canaries"), limits=("min_agreement",))
def agreement(limits: Thresholds, release: Canaries, base: Canaries) -> Finding:
    """Greedy answers share at least `min_agreement` of their leading tokens with the base's.

    It needs no knowledge of the base, and a body that is broken shares none.
    """
    own, yardstick = _row(release, AGREEMENT), _row(base, AGREEMENT)
    if own is None or yardstick is None:
        return failed(f"not measured: canary {AGREEMENT} of release or base")
    if not yardstick.applicable:
        return not_applicable(yardstick.detail)
    if not any(yardstick.tokens) or len(own.tokens) != len(yardstick.tokens):
        return failed(f"not measured: {len(own.tokens)} answers beside {len(yardstick.tokens)} of the base")
    pairs = list(zip(own.tokens, yardstick.tokens, strict=True))
    shares = [leading_share(mine, theirs) for mine, theirs in pairs]
    mean = sum(shares) / len(shares)
    detail = f"{mean:.1%} of leading tokens over {len(shares)} answers, least {min(shares):.1%}"
    return at_least(mean, limits.min_agreement, detail)


@gate("equality", requires=("release.equality", "base.equality"), excuse=undrafted)
def equality(limits: Thresholds, found: Equality, base: Equality) -> Finding:
    """Drafting changes no greedy answer where promised; else they stay at least half as equal as the base's.

    Rounding moves near-ties. Answers that drafting changes early and often show that wrong drafts are
    accepted.
    """
    if not (found.num_prompts and base.num_prompts):
        return failed("not measured: no prompt of release or base was answered both ways")
    share = f"{found.num_equal} of {found.num_prompts} answers equal"
    if found.promised:
        return at_least(found.num_equal / found.num_prompts, 1.0, share)
    detail = f"{share}, {found.mean_equal_share:.1%} of leading tokens, base {base.mean_equal_share:.1%}"
    value = ratio(found.mean_equal_share, base.mean_equal_share)
    if value >= MIN_EQUALITY_RATIO:
        return passed(f"{detail}; all is not promised: {found.why}", value, MIN_EQUALITY_RATIO)
    return failed(f"wrong drafts are accepted: {detail}", value, MIN_EQUALITY_RATIO)
