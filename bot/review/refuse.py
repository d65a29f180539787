"""A card's pull request that was closed without merging: the release is refused, and its weights with it.

Recorded first, so that nothing makes it again whatever the Hub answers; then the pull request on the Hub is
closed, if it still is the one of this release; the label comes last, and says that all of it is done. A rerun
does what is left.

The evidence on the card's branch tells which pull request on the Hub it is. Where that cannot be read, as
when people or a conflict left the card in pieces, it is looked for under the release's key, in the repos that
the branch has cards of.
"""

from __future__ import annotations

from datetime import datetime

from bot import hubpulls
from bot.edges.github import GitHub, Pull
from bot.edges.hub import Hub, PullRequest, translated
from bot.errors import InputError, Refused
from bot.models import Model
from bot.review import decisions, labels, layout
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
    gone = "" if github.head(pull.branch) else "; its branch is gone"
    why = f"pull request {number} was closed without merging{gone}"
    said = Decision(key=key, kind="refuse", who=who[:200] or decisions.UNKNOWN, why=why, at=at, gates=[])
    recorded = decisions.record(state, said)
    try:
        told = _close(hub, *_staged(github, hub, pull, key), why)
    except InputError as e:  # for good: it cannot be read, or this token may not close it
        told = f"not closed: {e.what}"
    github.relabel(pull, {labels.REFUSED}, among=labels.OF_END)
    return Refusal(key=key, number=number, recorded=recorded, hub=told)


def _staged(github: GitHub, hub: Hub, pull: Pull, key: str) -> tuple[str, PullRequest | None]:
    """The repo and the pull request on the Hub that hold the release's weights; raises InputError."""
    try:
        _, evidence = of_release(github, pull)
    except InputError:
        return _by_key(github, hub, pull, key)
    repo_id, num = evidence.upload.repo_id, evidence.upload.pr_num
    if repo_id != evidence.release.target_repo or not hub.exists(repo_id):
        return repo_id, None
    found = next((each for each in hub.pull_requests(repo_id) if each.num == num), None)
    return repo_id, found if found and found.title.startswith(f"Release {key}:") else None


def _by_key(github: GitHub, hub: Hub, pull: Pull, key: str) -> tuple[str, PullRequest | None]:
    """The same where no evidence tells: by the key, in the repos of the cards that the branch changed."""
    there, here = github.tree(pull.head_sha), github.tree(github.default_branch)
    changed = {path for path, file in there.items() if path not in here or here[path].sha != file.sha}
    for repo_id in sorted(filter(None, map(layout.repo_of, changed))):
        if hub.exists(repo_id) and (found := hubpulls.of_release(hub, repo_id, key)):
            return repo_id, found[0]
    raise InputError(f"no pull request of release {key} is found on the Hub", where=pull.url)


def _close(hub: Hub, repo_id: str, staged: PullRequest | None, why: str) -> str:
    """Close the staged pull request, if there is one and it is open."""
    if staged is None:
        return "there is none"
    if staged.status not in ("open", "draft"):
        return f"it is {staged.status} already"
    hub.before_write()
    with translated(f"{repo_id} pull request {staged.num}"):
        hub.api.change_discussion_status(repo_id, staged.num, "closed", comment=f"Refused: {why}.")
    return "closed"
