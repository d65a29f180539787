"""Gates over drafting: acceptance by position, and the soak.

Acceptance is held to the base's own head, on the same prompts. Two conditions together fail a release: its
share is under the recipe's ratio of the base's, and it is told below the base's (`bot.gates.counts`). So a
small sample does not fail a good release by chance. A sample so small that even a dead head would pass fails
for that reason: it measured nothing. So does a base whose own head drafts nothing: it has one and is asked to
draft, so the engine or the base's head is broken, and a dead head would look as good as the base's.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.gates.counts import Share, at_position, impossible, of_tokens, together, told_below
from bot.gates.excuses import undrafted
from bot.gates.gate import Facts, Finding, anomalous, failed, gate, not_applicable, passed, ratio
from bot.measurements import Acceptance, Soak
from bot.recipe_evaluation import Thresholds

MIN_DRAFTS = 50
# A quantized body drafts no better than the base's; answers that run in circles do.
MAX_ACCEPTANCE_RATIO = 1.15
DEAD = 0.05
NO_YARDSTICK = "the base's own head drafts nothing here, so nothing can be said"
IMPOSSIBLE = "not measured: the engine's counters cannot be (more accepted than drafted)"


def _positions(facts: Facts) -> Sequence[str]:
    found = [each.acceptance for each in (facts.release, facts.base) if each.acceptance]
    counts = [max(each.num_speculative_tokens, len(each.total.accepted_by_position)) for each in found]
    return [str(i) for i in range(max([1, *counts]))]


@gate(
    "acceptance.position",
    requires=("release.acceptance", "base.acceptance"),
    limits=("min_acceptance_ratio",),
    excuse=undrafted,
    parts=_positions,
)
def position(limits: Thresholds, part: str, release: Acceptance, base: Acceptance) -> Finding:
    """Drafted token {part}, counted from 0, holds at least `min_acceptance_ratio` as often as the base's.

    The head is the base's bit for bit, so a loss shows a dead head or a body that drifted away from it.
    """
    if impossible(release.total) or impossible(base.total):
        return failed(IMPOSSIBLE)
    own, head = at_position(release.total, int(part)), at_position(base.total, int(part))
    if own is None or head is None:
        return failed(f"not measured: {'release' if own is None else 'base'} has no counter of this position")
    if min(own.num, head.num) < MIN_DRAFTS:
        return failed(
            f"too few drafts: {own.num:,} of the release, {head.num:,} of the base, {MIN_DRAFTS} needed"
        )
    return _beside(own, head, limits.min_acceptance_ratio, first=part == "0")


def _beside(own: Share, head: Share, limit: float, *, first: bool) -> Finding:
    """The verdict at one position; a later one may be at 0 with a head that drafts well at the first."""
    value, both = ratio(own.value, head.value), f"{own}; base {head}"
    better = own.value > MAX_ACCEPTANCE_RATIO * head.value and told_below(head, own)
    if better:
        best = f"far better than the base's own head: {both}"
        return anomalous(best, value if head.value else None, MAX_ACCEPTANCE_RATIO)
    if not head.alive and first:
        return failed(f"{NO_YARDSTICK}: {both}")
    if not head.alive:
        return not_applicable(f"the base's own head accepts next to nothing here: {both}")
    if not told_below(Share(0.0, own.num), head):
        return failed(f"too few drafts: even a dead head would pass; {both}", value, limit)
    if value < limit and told_below(own, head):
        dead = "the MTP head is dead: " if value <= DEAD else ""
        return failed(dead + both, value, limit)
    return passed(_noted(both, value, limit), value, limit)


# ── the soak ───────────────────────────────────────────────────────────────────────────────


@gate(
    "soak.windows",
    requires=("release.soak", "base.soak"),
    limits=("min_soak_window_ratio",),
    excuse=undrafted,
)
def windows(limits: Thresholds, release: Soak, base: Soak) -> Finding:
    """In no window of the long conversation does acceptance fall under `min_soak_window_ratio` of the base's.

    Drafting that decays with the context does not show in short prompts; a decline like the base's passes.
    """
    if problem := _other_windows(release, base):
        return failed(problem)
    pairs = [(a.drafts, b.drafts) for a, b in zip(release.windows, base.windows, strict=False)]
    own, head = (together(list(side)) for side in zip(*pairs, strict=True))
    if not head.alive:
        return failed(f"{NO_YARDSTICK}: {own}, base {head}; {_length(release)}")
    if not told_below(Share(0.0, own.num), head):
        return failed(f"too few drafts: even a dead head would pass; {own}, base {head}")
    names = [f"at {window.context_tokens:,} tokens" for window in base.windows]
    sides = [(of_tokens(a), of_tokens(b), name) for (a, b), name in zip(pairs, names, strict=True)]
    return _lowest([*sides, (own, head, "over all windows")], limits.min_soak_window_ratio, _length(release))


def _other_windows(release: Soak, base: Soak) -> str | None:
    """Why the windows of the two cannot be set beside each other."""
    if len(release.windows) < len(base.windows) or not base.windows:
        return (
            f"not measured: {len(release.windows)} windows, the base {len(base.windows)}; {_length(release)}"
        )
    if any(impossible(window.drafts) for window in (*release.windows, *base.windows)):
        return IMPOSSIBLE
    contexts = [[window.context_tokens for window in soak.windows] for soak in (release, base)]
    if contexts[0][: len(contexts[1])] != contexts[1]:
        return "not compared: the windows of release and base have other contexts"
    return None


def _lowest(sides: list[tuple[Share, Share, str]], limit: float, length: str) -> Finding:
    """The verdict on the window that is lowest beside the base's; where the base is at 0, none is asked.

    The last of `sides` are all windows together, which hold where single ones are too short to tell.
    """
    held = [(ratio(own.value, head.value), own, head, name) for own, head, name in sides if head.alive]
    fallen = [each for each in held if each[0] < limit and (not each[1].num or told_below(each[1], each[2]))]
    value, own, head, name = min(fallen or held, key=lambda each: each[0])
    detail = f"lowest {name}: {own}, base {head}; {length}"
    if fallen:
        return failed(f"{len(fallen)} under the limit; {detail}", value, limit)
    return passed(_noted(detail, value, limit), value, limit)


def _noted(detail: str, value: float, limit: float) -> str:
    """`detail`, and that what passes below the limit does so because counting explains it."""
    return detail + ("; below the limit, within counting noise" if value < limit else "")


def _length(soak: Soak) -> str:
    return (
        f"soaked to {soak.reached_context_tokens:,} of {soak.target_context_tokens:,} tokens of context "
        f"({soak.limit})"
    )


@gate(
    "soak.fresh",
    requires=("release.soak", "base.soak"),
    limits=("min_soak_fresh_ratio",),
    excuse=undrafted,
)
def fresh(limits: Thresholds, release: Soak, base: Soak) -> Finding:
    """After the conversation, the opening prompts draft `min_soak_fresh_ratio` of what they did, or more.

    A server whose drafting decayed does not recover with a fresh prompt; a decline like the base's passes.
    """
    sides = (release.opening, release.fresh, base.opening, base.fresh)
    if any(impossible(drafts) for drafts in sides):
        return failed(IMPOSSIBLE)
    return _recovered(*(of_tokens(drafts) for drafts in sides), limit=limits.min_soak_fresh_ratio)


def _recovered(
    opening: Share, after: Share, base_opening: Share, base_after: Share, *, limit: float
) -> Finding:
    both = f"{after} after {opening}; base {base_after} after {base_opening}"
    if not base_opening.alive:
        return failed(f"{NO_YARDSTICK}: {both}")
    if not base_after.num or not told_below(Share(0.0, after.num), opening):
        return failed(f"too few drafts, or too few accepted, to tell a decline: {both}")
    value, own = ratio(after.value, opening.value), ratio(base_after.value, base_opening.value)
    limit = min(limit, own)
    if value < limit and told_below(after, opening, min(1.0, own)):
        return failed(both, value, limit)
    return passed(_noted(both, value, limit), value, limit)
