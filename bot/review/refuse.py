"""A card's pull request that was closed without merging: the release is refused, and its weights with it.

Recorded first, so that nothing makes it again whatever the Hub answers; then the pull request on the Hub is
closed, if it still is the one of this release. A rerun does what is left.
"""

from __future__ import annotations

from datetime import datetime

from bot.edges.github import GitHub
from bot.edges.hub import Hub, translated
from bot.errors import InputError, Refused
from bot.evidence import Evidence
from bot.models import Model
from bot.review import decisions, labels
from bot.review.pull import of_release
from bot.state import Decision, State, refuse_paused


class Refusal(Model):
    """`review refuse --json`. `hub`: what became of the staged pull request."""

    key: str
    number: int
    recorded: bool
    hub: str


def refuse(github: GitHub, state: State, hub: Hub, *, number: int, who: str, at: datetime) -> Refusal:
    """Record the refusal and close the Hub's pull request.

    Raises Refused for a pull request that is open or merged, InputError for one that is no card's.
    """
    refuse_paused(state)
    pull = github.pull(number)
    key = decisions.release_of(pull)
    if pull.state != "closed":
        raise Refused(
            f"pull request {number} is {pull.state}, not closed without merging",
            where=pull.url,
            fix="close it to refuse the release",
        )
    why = f"pull request {number} was closed without merging"
    said = Decision(key=key, kind="refuse", who=who[:200] or decisions.UNKNOWN, why=why, at=at, gates=[])
    recorded = decisions.record(state, said)
    github.relabel(pull, {labels.REFUSED}, among=labels.OF_END)
    try:
        _, evidence = of_release(github, pull)
    except InputError as e:
        return Refusal(key=key, number=number, recorded=recorded, hub=f"not closed: {e.what}")
    return Refusal(key=key, number=number, recorded=recorded, hub=_close(hub, evidence, why))


def _close(hub: Hub, evidence: Evidence, why: str) -> str:
    """Close the staged pull request, if it is this release's and open."""
    repo_id, num = evidence.upload.repo_id, evidence.upload.pr_num
    if repo_id != evidence.release.target_repo or not hub.exists(repo_id):
        return "there is none"
    staged = next((each for each in hub.pull_requests(repo_id) if each.num == num), None)
    if staged is None or not staged.title.startswith(f"Release {evidence.release.key}:"):
        return "there is none"
    if staged.status not in ("open", "draft"):
        return f"it is {staged.status} already"
    hub.before_write()
    with translated(f"{repo_id} pull request {num}"):
        hub.api.change_discussion_status(repo_id, num, "closed", comment=f"Refused: {why}.")
    return "closed"
