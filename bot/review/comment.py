"""The one comment under a card's pull request: the check's verdict, and whether the Hub holds the weights.

It runs with a token, after the check and apart from it, and takes nothing on trust: which pull request it is
about is asked of GitHub by the commit that was checked, the verdict is parsed by its schema and shown as
text, and the evidence is read from that commit for what is compared with the Hub and with the state: digests,
and whether somebody with write access decided what it calls an override.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from bot import log
from bot.edges.github import MAX_TEXT_CHARS, Comment, GitHub, Pull
from bot.edges.hub import Hub
from bot.errors import InputError, ReleaseBotError
from bot.models import Model, UploadEvidence
from bot.repo import HUB_OWN_FILES, is_card_file
from bot.review import decisions, labels, words
from bot.review.check import Verdict
from bot.review.layout import key_of
from bot.review.pull import of_release
from bot.state import State, refuse_paused

MARKER = "<!-- release-bot:card-review -->"
MAX_VERDICT_BYTES = 2**20


class Commented(Model):
    """`review comment --json`."""

    number: int | None
    passed: bool
    state: Literal["commented", "updated", "unchanged", "no_pull_request"]
    digests: list[str]


def comment(
    github: GitHub, state: State, hub: Hub, *, head_sha: str, branch: str, verdict_file: Path
) -> Commented:
    """Bring the comment up to date for the commit that was checked.

    A check that left no verdict is told as one that does not hold: else the comment before it would stand.
    """
    refuse_paused(state)
    pull = _pull_of(github, head_sha, branch)
    if pull is None:
        log.info("no card's open pull request of this repository is at that commit: nothing to comment")
        return Commented(number=None, passed=False, state="no_pull_request", digests=[])
    try:
        verdict = read_verdict(verdict_file)
    except InputError as e:
        verdict = Verdict(passed=False, cards=[], problems=[e.what, f"{e.why}: {e.fix}"])
    digests = _record_problems(github, state, hub, pull)
    passed = verdict.passed and not digests
    told = _keep_one(github, pull, text(verdict, digests, head_sha))
    wanted = {labels.CHECKED if passed else labels.PROBLEMS}
    github.relabel(pull, wanted, among=labels.OF_CARD)
    return Commented(number=pull.number, passed=passed, state=told, digests=digests)


def read_verdict(path: Path) -> Verdict:
    """The artifact of the check, which code of the pull request may have written. Raises InputError."""
    try:
        if path.is_symlink() or path.stat().st_size > MAX_VERDICT_BYTES:
            raise InputError("the verdict is too large, or no plain file", where=str(path))
        return Verdict.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as e:
        raise InputError(
            f"the check left no verdict that can be read: {type(e).__name__}",
            where=str(path),
            why="it ended before its end, or the pull request changed it",
            fix="look at the job that checked",
        ) from e


def _pull_of(github: GitHub, head_sha: str, branch: str) -> Pull | None:
    """A card's open pull request at that commit; the event's own word for it would be the pull request's."""
    if key_of(branch) is None:
        return None
    found = github.pulls(branch=branch, state="open")
    return next((each for each in found if each.head_sha == head_sha and each.branch == branch), None)


def _record_problems(github: GitHub, state: State, hub: Hub, pull: Pull) -> list[str]:
    """How the Hub and the state differ from what the evidence says of them."""
    try:
        _, evidence = of_release(github, pull)
        problems = digest_problems(hub, evidence.upload)
        if not decisions.knows_override(state, evidence):
            problems.append("the override in the evidence is none that anybody commanded here")
        return problems
    except InputError as e:
        return [f"{e.what}: {e.why}" if e.why else e.what]


def digest_problems(hub: Hub, uploaded: UploadEvidence) -> list[str]:
    """Every file that the Hub holds otherwise than the evidence says. Raises InfrastructureError."""
    try:
        state = hub.state(uploaded.repo_id, f"refs/pr/{uploaded.pr_num}")
    except InputError as e:
        return [f"the staged pull request {uploaded.pr_num} of {uploaded.repo_id} cannot be read: {e.what}"]
    problems = []
    expected = {each.path: each for each in uploaded.files}
    for path, file in sorted(expected.items()):
        remote = state.files.get(path)
        if remote is None:
            problems.append(f"{path} is gone from the Hub")
        elif not remote.is_same_as(file, uploaded.blob_ids.get(path, "")):
            problems.append(f"{path} has another digest on the Hub")
    added = state.files.keys() - expected.keys() - set(HUB_OWN_FILES)
    problems += [f"{path} was added on the Hub" for path in sorted(added) if not is_card_file(path)]
    if _is_closed(hub, uploaded):
        problems.append(f"the staged pull request {uploaded.pr_num} was closed on the Hub")
    if not problems and state.revision != uploaded.pr_head:
        problems.append(
            f"the staged pull request is at {state.revision[:12]}, recorded was {uploaded.pr_head[:12]}"
        )
    return problems


def _is_closed(hub: Hub, uploaded: UploadEvidence) -> bool:
    return any(
        each.num == uploaded.pr_num and each.status == "closed"
        for each in hub.pull_requests(uploaded.repo_id)
    )


def text(verdict: Verdict, digests: list[str], head_sha: str) -> str:
    """The comment. Problems stand in fenced blocks: they quote the card, and a card is text from outside."""
    good = verdict.passed and not digests
    lines = [
        MARKER,
        f"### The card {'holds' if good else 'does not hold'}",
        "",
        f"Checked at {words.code(head_sha[:12])}.",
        "",
    ]
    for each in verdict.cards:
        found = (
            f"{len(each.problems)} problems"
            if each.problems
            else "re-rendered from its evidence, the same to the byte"
        )
        lines += [f"- {words.code(each.folder)}: {found}"]
    if not verdict.cards and not verdict.problems:
        lines += ["- no card was found"]
    weights = "not what the evidence says" if digests else "every digest as in the evidence"
    lines += [f"- on the Hub and in the records: {weights}"]
    problems = [*verdict.problems, *(line for each in verdict.cards for line in each.problems), *digests]
    if problems:
        lines += ["", words.block(problems)]
    return "\n".join(lines)[:MAX_TEXT_CHARS]


def _keep_one(github: GitHub, pull: Pull, body: str) -> Literal["commented", "updated", "unchanged"]:
    """Write the comment, over our earlier one if there is one; somebody else's with our mark is none."""
    mine = [
        each
        for each in github.comments(pull.number)
        if each.body.startswith(MARKER) and _is_ours(github, each)
    ]
    if not mine:
        github.say(pull.number, body)
        return "commented"
    if mine[0].body == body:
        return "unchanged"
    github.say(pull.number, body, instead_of=mine[0].id)
    return "updated"


def _is_ours(github: GitHub, found: Comment) -> bool:
    return found.author == github.login if github.login else found.by_bot


def failure_text(error: ReleaseBotError) -> str:
    """An error in a reply: its own words, which may quote text from outside."""
    return words.block([each for each in (error.what, error.why, error.fix) if each])
