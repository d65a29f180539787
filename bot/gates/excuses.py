"""Why a gate may have nothing to ask, decided by the base and the machine, never by the release.

A release that lost its head or its speed must not be excused for that.
"""

from __future__ import annotations

from bot.gates.gate import Facts


def undrafted(facts: Facts) -> str | None:
    """The base has no MTP head, or the recipe serves it without drafting."""
    if not facts.base.subject.drafts:
        return "the base has no MTP head"
    load = facts.base.load
    if load is not None and "--speculative-config" not in load.command:
        return "the command that the card prints does not draft"
    return None


def no_kernel(facts: Facts) -> str | None:
    """The machine runs no kernel of the kind whose speed the card is about."""
    if facts.release.engine.device != "cuda":
        return "a CPU says nothing about a GPU's kernels"
    emulated = facts.release.subject.emulated
    return f"emulated: {emulated}" if emulated else None
