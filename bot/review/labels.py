"""Labels of a card's pull request: its state, for people and for lists. Nothing is decided by them."""

from __future__ import annotations

from typing import Final

from bot.evidence import Evidence
from bot.stages import gate

BOT: Final = "release-bot"
REHEARSAL: Final = "rehearsal"
PASSED, FAILED, OVERRIDDEN = "gates: passed", "gates: failed", "gates: overridden"
CHECKED, PROBLEMS = "card: checked", "card: problems"
PUBLISHED, REFUSED = "published", "refused"
OF_GATES: Final = (PASSED, FAILED, OVERRIDDEN)
OF_CARD: Final = (CHECKED, PROBLEMS)
OF_END: Final = (PUBLISHED, REFUSED)


def of(evidence: Evidence) -> set[str]:
    """The labels that a card's evidence decides."""
    if gate.blocking(evidence.gates):
        verdict = FAILED
    else:
        verdict = OVERRIDDEN if evidence.gates.override else PASSED
    return {BOT, verdict} | ({REHEARSAL} if evidence.release.rehearsal else set())
