"""The dashboard: one issue with every base × recipe, whose checkboxes are commands.

The issue is found by a label, which only people with rights here can give, and by a mark in its text. Ticking
a box edits the issue, and GitHub tells who did: the event's sender. Boxes that were ticked by that edit are
that person's commands, if they may write here; whatever else the edit changed is written over. A box found
ticked without such an event has no author, and is emptied.

GitHub takes 65,536 characters: published releases give way first, and how many are left out is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bot import naming
from bot.edges.github import MAX_TEXT_CHARS, GitHub, Issue
from bot.errors import InputError
from bot.ledger import ReleaseStatus
from bot.models import Model
from bot.overview import Notice, Overview
from bot.review import decisions, words
from bot.state import Decision, State, refuse_paused
from bot.watching import shrunk

LABEL = "release-bot-dashboard"
MARKER = "<!-- release-bot:dashboard -->"
TITLE = "Releases"
Kind = Literal["retry", "skip", "approve"]
_BOX = re.compile(
    r"- \[(?P<ticked>[ xX])\] <!-- (?:(?P<kind>retry|skip|approve):(?P<key>[0-9a-f]{16})"
    r"|confirm:(?P<author>[A-Za-z0-9][\w.-]{0,95})) -->",
    re.ASCII,
)
# Which boxes stand beside a release in which state.
BOXES: dict[str, tuple[Kind, ...]] = {
    "quarantined": ("retry", "skip"),
    "failed": ("retry", "skip"),
    "refused": ("retry",),
    "skipped": ("retry",),
    "planned": ("skip",),
    "waiting_for_publisher": ("approve", "retry"),
    "in_review": (),
    "staged": ("skip",),
    "building": (),
    "nothing_to_change": ("retry",),
    "published": (),
}
MEANING = {
    "retry": "try it again",
    "skip": "leave it out",
    "approve": "its publisher is set: publish it",
    "confirm": "that is true: go on with what is listed",
}


@dataclass(frozen=True, kw_only=True)
class Edit:
    """An edit of the issue as the event tells it: who, when, and its text before and after."""

    number: int
    who: str
    before: str
    after: str
    at: datetime


class Shown(Model):
    """`dashboard --json`. `ignored` says why ticks were not acted on."""

    number: int
    url: str
    state: Literal["opened", "updated", "unchanged"]
    num_releases: int
    num_left_out: int
    done: list[str]
    approved: list[str]
    ignored: str | None


def show(github: GitHub, state: State, found: Overview, *, done: list[str], ignored: str | None) -> Shown:
    """Bring the issue up to date. Raises Refused while writing is paused."""
    refuse_paused(state)
    text, left = body(found)
    issue = find(github)
    if issue is None:
        issue, told = github.open_issue(title=TITLE, body=text, label=LABEL), "opened"
    elif same(issue.body, text):
        told = "unchanged"
    else:
        github.edit_issue(issue.number, body=text)
        told = "updated"
    return Shown(
        number=issue.number,
        url=issue.url,
        state=told,  # type: ignore[arg-type]
        num_releases=len(found.releases),
        num_left_out=left,
        done=done,
        approved=_approved(found, done),
        ignored=ignored,
    )


def _approved(found: Overview, done: list[str]) -> list[str]:
    """The keys to publish: those approved, and those whose publishing failed and is to be tried again."""
    waiting = {each.key for each in found.releases if each.state == "waiting_for_publisher"}
    asked = [each.partition(" ") for each in done]
    keys = [key for kind, _, key in asked if kind == "approve" or (kind == "retry" and key in waiting)]
    return list(dict.fromkeys(keys))


def find(github: GitHub) -> Issue | None:
    """The dashboard: the oldest open issue with the label and the mark."""
    marked = [each for each in github.issues(label=LABEL) if each.body.startswith(MARKER)]
    return min(marked, key=lambda each: each.number, default=None)


def same(one: str, other: str) -> bool:
    """Whether two bodies say the same, but for when they were written."""
    return re.sub(r"(?m)^Seen at .*$", "", one) == re.sub(r"(?m)^Seen at .*$", "", other)


# ── the text ───────────────────────────────────────────────────────────────────────────────


def body(found: Overview) -> tuple[str, int]:
    """The issue's text, and how many releases it has no room for."""
    head = [MARKER, *_head(found)]
    room = MAX_TEXT_CHARS - len("\n".join(head)) - 600
    entries: list[str] = []
    for each in found.releases:
        text = entry(each)
        room -= len(text) + 30
        if room < 0:
            break
        entries.append((f"\n### {each.state.replace('_', ' ')}\n\n" if _begins(found, each) else "") + text)
    left = len(found.releases) - len(entries)
    tail = [f"\n{left} more are not shown here; `release-bot status` shows them all."] if left else []
    return "\n".join([*head, *entries, *tail]) + "\n", left


def _begins(found: Overview, status: ReleaseStatus) -> bool:
    return next(each for each in found.releases if each.state == status.state) is status


def _head(found: Overview) -> list[str]:
    counts = ", ".join(f"{num} {state.replace('_', ' ')}" for state, num in found.counts().items())
    return [
        f"Seen at {found.at:%Y-%m-%d %H:%M} UTC",
        "",
        counts or "No watched base has a recipe that is for it.",
        "",
        *(line for each in found.notices for line in _notice(each)),
        "A ticked box is a command; it counts for people with write access.",
    ]


def _notice(found: Notice) -> list[str]:
    """What a person should know, with its box where their word is waited for."""
    box = [f"  - [ ] <!-- confirm:{found.confirm} --> {MEANING['confirm']}"] if found.confirm else []
    return [f"- **{words.plain(found.text, most=600)}**", *box, ""]


def entry(status: ReleaseStatus) -> str:
    """One release: a line with what is known of it, then its boxes."""
    links = [
        f"[{words.plain(name)}]({_address(link)})" for name, link in status.links.items() if _address(link)
    ]
    figures = [f"{words.plain(name)} {words.plain(value)}" for name, value in status.figures.items()]
    kind = ["metadata release: the public weights stay"] if status.kind == "metadata" else []
    tries = [f"tried {status.num_attempts}×"] if status.num_attempts else []
    detail = [words.plain(status.detail, most=200)] if status.detail else []
    parts = [*kind, *tries, *figures, *detail, *links]
    name = f"{words.code(status.base)} at {words.code(status.revision[:8])} by {words.code(status.recipe)}"
    boxes = [f"  - [ ] <!-- {kind}:{status.key} --> {MEANING[kind]}" for kind in BOXES[status.state]]
    return "\n".join([f"- {name}" + (f": {'; '.join(parts)}" if parts else ""), *boxes])


def _address(link: str) -> str:
    """A link that cannot end its parenthesis; http and https only."""
    from bot.cardtext import url

    return url(link).replace("(", "%28").replace(")", "%29")


# ── its boxes ──────────────────────────────────────────────────────────────────────────────


def ticked(before: str, after: str) -> list[tuple[Kind, str]]:
    """The releases' boxes that an edit ticked, each as command and key."""
    return [(kind, key) for kind, key in _newly(before, after) if kind != "confirm"]


def confirmed(before: str, after: str) -> list[str]:
    """The authors whose listing an edit's ticks confirm."""
    return [author for kind, author in _newly(before, after) if kind == "confirm"]


def _newly(before: str, after: str) -> list[tuple[Kind | Literal["confirm"], str]]:
    was = _boxes(before)
    return [box for box, is_ticked in _boxes(after).items() if is_ticked and not was.get(box, False)]


def _boxes(text: str) -> dict[tuple[Kind | Literal["confirm"], str], bool]:
    """Each box by what it says and of what: a release's key, or an author."""
    found: dict[tuple[Kind | Literal["confirm"], str], bool] = {}
    for line in text.split("\n"):
        if match := _BOX.match(line.strip()):
            box = (match["kind"], match["key"]) if match["kind"] else ("confirm", match["author"])
            found[box] = match["ticked"] != " "  # type: ignore[index]
    return found


def obey(github: GitHub, state: State, edit: Edit) -> tuple[list[str], str | None]:
    """Do what an edit's ticks say; what was done, or why nothing was. Raises Refused while paused."""
    refuse_paused(state)
    wanted, authors = ticked(edit.before, edit.after), confirmed(edit.before, edit.after)
    if not wanted and not authors:
        return [], "no box was ticked"
    if github.login and edit.who == github.login:
        return [], "the bot's own edit"
    dashboard = find(github)
    if dashboard is None or dashboard.number != edit.number:
        return [], f"issue {edit.number} is not the dashboard"
    if not github.may_write(edit.who):
        return [], f"{edit.who} has no write access"
    done = [f"confirm {each}" for each in authors if shrunk.confirm(state, each, who=edit.who)]
    for kind, key in wanted:
        why = f"ticked on the dashboard, issue {edit.number}"
        said = Decision(key=_known(key), kind=kind, who=edit.who, why=why, at=edit.at, gates=[])
        if decisions.record(state, said):
            done.append(f"{kind} {key}")
    return done, None


def _known(key: str) -> str:
    if not naming.is_key(key):
        raise InputError(f"{key!r} is no release's key", where="the dashboard")
    return key
