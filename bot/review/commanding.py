"""Comments that command: `/override GATE why`, `/retry`, `/skip why`, for people with write access only.

A command stands at the beginning of a line, outside code blocks and quotes. Who may command is asked of
GitHub when the command is read, not taken from the event. Nobody else is answered, so that a stranger cannot
make the bot talk. What is honoured is recorded on the state branch with who, why and when; the same comment
read again changes nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from bot.edges.github import GitHub, Pull
from bot.errors import ReleaseBotError, UsageError
from bot.models import Model
from bot.review import decisions, words
from bot.review.comment import failure_text
from bot.review.pull import of_release, rewrite
from bot.stages import gate
from bot.state import Decision, State, refuse_paused

MAX_COMMANDS = 5
_COMMAND = re.compile(r"/(override|retry|skip)(?:[ \t]+(.*))?", re.ASCII)
_GATES = re.compile(r"([a-z][a-z0-9_.]{0,79}(?:,[a-z][a-z0-9_.]{0,79})*)(?:[ \t]+(.*))?", re.ASCII)
USAGE = "`/override GATE[,GATE] why`, `/retry [why]`, `/skip why`"


@dataclass(frozen=True, kw_only=True)
class Command:
    kind: Literal["override", "retry", "skip"]
    why: str
    gates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Said:
    """A comment as the event tells it."""

    number: int
    who: str
    text: str
    at: datetime
    by_bot: bool


class Obeyed(Model):
    """`comment-command --json`. `ignored` says why nothing was done."""

    number: int
    who: str
    key: str | None
    ignored: str | None
    done: list[str]
    failed: list[str]


def parse(text: str) -> list[Command]:
    """The commands of a comment. Raises UsageError for one that lacks what it needs."""
    found: list[Command] = []
    inside = False
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith(("```", "~~~")):
            inside = not inside
        elif not inside and (match := _COMMAND.fullmatch(line.rstrip())):
            found.append(_command(match[1], (match[2] or "").strip()))
    return found[:MAX_COMMANDS]


def _command(kind: str, rest: str) -> Command:
    if kind == "retry":
        return Command(kind="retry", why=_why(rest or "asked for in a comment"))
    if kind == "skip":
        return Command(kind="skip", why=_why(rest))
    match = _GATES.fullmatch(rest)
    if match is None:
        raise UsageError(
            "/override names a gate", fix=f"as in `/override ppl.ratio it is the base's`; {USAGE}"
        )
    return Command(kind="override", why=_why(match[2] or ""), gates=tuple(dict.fromkeys(match[1].split(","))))


def _why(text: str) -> str:
    shown = text.strip()
    if not gate.MIN_WHY_CHARS <= len(shown) <= gate.MAX_CHARS or not shown.isprintable():
        limits = f"{gate.MIN_WHY_CHARS} to {gate.MAX_CHARS:,} plain characters"
        raise UsageError(f"the reason has {len(shown)} characters, not {limits}", fix=f"say why; {USAGE}")
    return shown


def obey(github: GitHub, state: State, said: Said, *, hub_url: str) -> Obeyed:
    """Do what a comment says, and answer it. Raises Refused while writing is paused."""
    if reason := _not_asked(github, said):
        return _ignored(said, reason)
    if not github.may_write(said.who):
        return _ignored(said, f"{said.who} has no write access")
    refuse_paused(state)
    pull = github.pull(said.number)
    done, failed = [], []
    key = None
    try:
        key = decisions.release_of(pull)
        for command in parse(said.text):
            done.append(_do(github, state, pull, key, command, said, hub_url))
    except ReleaseBotError as e:
        if e.exit_code not in (UsageError.exit_code, 3, 6, 7):
            raise
        failed.append(e.what)
        github.say(said.number, f"{words.code(said.who)}: not done.\n\n{failure_text(e)}")
    if new := [each for each in done if each]:
        github.say(said.number, f"{words.code(said.who)}: " + "; ".join(new) + ".")
    return Obeyed(number=said.number, who=said.who, key=key, ignored=None, done=new, failed=failed)


def _ignored(said: Said, why: str) -> Obeyed:
    return Obeyed(number=said.number, who=said.who, key=None, ignored=why, done=[], failed=[])


def _not_asked(github: GitHub, said: Said) -> str | None:
    """Why a comment is no command at all; the bot's own never is."""
    if said.by_bot or (github.login and said.who == github.login):
        return "the bot's own comment"
    try:
        return None if parse(said.text) else "no command in it"
    except UsageError:
        return None  # a command, and a wrong one: its author is told, if it may command


def _do(
    github: GitHub, state: State, pull: Pull, key: str, command: Command, said: Said, hub_url: str
) -> str:
    """Act on one command; empty where the same comment was obeyed before."""
    if command.kind == "override":
        _override(github, state, pull, command, said, hub_url)
    decision = Decision(
        key=key, kind=command.kind, who=said.who, why=command.why, at=said.at, gates=list(command.gates)
    )
    if not decisions.record(state, decision):
        return ""
    of_gates = f" of {words.code(', '.join(command.gates))}" if command.gates else ""
    hint = " (close this pull request to refuse what is staged)" if command.kind == "skip" else ""
    return f"{command.kind}{of_gates} is recorded{hint}"


def _override(github: GitHub, state: State, pull: Pull, command: Command, said: Said, hub_url: str) -> None:
    """Bring the decision into the card's evidence, and render the card from that."""
    folder, evidence = of_release(github, pull)
    at = said.at.isoformat(timespec="seconds")
    decided = gate.decide(evidence.gates, gate_ids=command.gates, who=said.who, why=command.why, at=at)
    if decided == evidence.gates.override:
        return
    gates = evidence.gates.model_copy(update={"override": decided})
    rewrite(github, state, pull, folder, evidence.model_copy(update={"gates": gates}), hub_url=hub_url)
