"""Labels of a card's pull request: its state, for people and for lists.

Nothing of a release is decided by them. `refused` also saves work: a closed card that has it is not looked at
again (`bot.review.closed`); taken away, it is, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bot import log
from bot.edges.github import GitHub, Pull
from bot.errors import ReleaseBotError
from bot.evidence import Evidence
from bot.ledger import ReleaseStatus
from bot.review.layout import key_of
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


def mark_published(github: GitHub, pulls: Iterable[Pull], releases: Iterable[ReleaseStatus]) -> list[int]:
    """Label the merged pull requests whose release is public; the numbers of those that were not yet.

    A label that cannot be set is a warning: it is for people, and the next call tries it again.
    """
    public = {each.key for each in releases if each.state == "published"}
    return [
        each.number
        for each in pulls
        if each.state == "merged"
        and each.same_repo
        and key_of(each.branch) in public
        and _ended(github, each)
    ]


def _ended(github: GitHub, pull: Pull) -> bool:
    try:
        return github.relabel(pull, {PUBLISHED}, among=OF_END)
    except ReleaseBotError as e:
        log.warning(f"pull request {pull.number} is not labelled {PUBLISHED}: {e.what}")
        return False
