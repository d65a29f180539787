"""The check of cards in a pull request: no secret, no network, and everything in them is data.

A card holds when its files are a card's and nothing else, its evidence is of its schema and of the release
that its branch names, its verdicts are those of its own figures, and README.md and plots are what the
evidence renders to, prose regions apart. The verdict is left as a file, which another job reads as data.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bot import log
from bot.errors import InputError, ReleaseBotError
from bot.evidence import Evidence
from bot.job import recipe_of, require_key
from bot.models import SCHEMA_VERSION, Model, read_json
from bot.review import layout
from bot.stages import card as carding
from bot.stages import gate

MAX_CARDS = 200
MAX_PROBLEMS = 100
Line = Annotated[str, Field(max_length=1000)]


class CardVerdict(Model):
    """One card: its folder, the release it says it is of, and what is wrong with it."""

    folder: Annotated[str, Field(max_length=220)]
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None
    problems: Annotated[list[Line], Field(max_length=MAX_PROBLEMS)]


class Verdict(Model):
    """`review check --json`, and the artifact that `review comment` reads."""

    schema_version: Literal[1] = SCHEMA_VERSION
    passed: bool
    cards: Annotated[list[CardVerdict], Field(max_length=MAX_CARDS)]
    problems: Annotated[list[Line], Field(max_length=MAX_PROBLEMS)]


def check(root: Path, *, key: str | None, since: str | None) -> Verdict:
    """The verdict on cards below `root`: those changed `since` a commit, else the one of `key`, else all.

    With `key` (the branch's), that one card must be there, and with `since` nothing else may have changed.
    """
    changed = None if since is None else changed_paths(root, since)
    folders = _folders(root, key, changed)
    cards = [card_verdict(root, folder, key) for folder in folders[:MAX_CARDS]]
    problems = _scope(folders, key, changed)
    passed = not problems and not any(each.problems for each in cards)
    return Verdict(passed=passed, cards=cards, problems=problems)


def changed_paths(root: Path, since: str) -> list[str]:
    """The paths that differ between commit `since` and HEAD. Raises InputError when git cannot tell."""
    command = [
        "git",
        "-C",
        str(root),
        "diff",
        "--name-only",
        "-z",
        "--no-renames",
        "--end-of-options",
        since,
        "HEAD",
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise InputError(
            f"git cannot compare with {since!r}",
            where=str(root),
            why=log.printable(done.stderr.decode(errors="replace"))[:300].strip(),
            fix="check out with enough history: fetch-depth: 2, and --since HEAD^1",
        )
    return [each for each in done.stdout.decode(errors="surrogateescape").split("\0") if each]


def _folders(root: Path, key: str | None, changed: list[str] | None) -> list[str]:
    below = root / layout.CARDS
    if changed is not None:
        parts = [each.split("/") for each in changed]
        names = {each[1] for each in parts if each[0] == layout.CARDS and len(each) > 2 and "--" in each[1]}
    else:
        names = {each.parent.name for each in below.glob("*/evidence.json")}
    folders = [f"{layout.CARDS}/{name}" for name in sorted(names) if (below / name).is_dir()]
    if changed is None and key is not None:
        folders = [each for each in folders if _key(root / each) == key]
    return folders


def _key(folder: Path) -> str | None:
    try:
        return read_json(folder / "evidence.json", Evidence).release.key
    except (InputError, ValueError):
        return None


def _scope(folders: list[str], key: str | None, changed: list[str] | None) -> list[str]:
    """A release's branch holds its one card, and nothing beside it."""
    if key is None:
        return []
    problems = [] if folders else [f"the branch release/{key} holds no card"]
    if len(folders) > 1:
        problems.append(f"the branch release/{key} changes {len(folders)} cards: " + ", ".join(folders)[:500])
    others = [each for each in changed or [] if not any(each.startswith(f"{one}/") for one in folders)]
    if others:
        problems.append(
            f"a release's branch changes only its card, and this one also {', '.join(others)}"[:900]
        )
    return [log.printable(each.encode(errors="replace").decode()) for each in problems]


def card_verdict(root: Path, folder: str, key: str | None) -> CardVerdict:
    """The verdict on one card; whatever is wrong with it is told, none of it stops the check."""
    found: str | None = None
    try:
        files = layout.files_in(root / folder)
        evidence = read_json(files["evidence.json"], Evidence)
        found = evidence.release.key if layout.key_of(f"release/{evidence.release.key}") else None
        problems = _evidence_problems(evidence, files["evidence.json"], folder, key)
        problems += carding.problems(root / folder, evidence)
    except ReleaseBotError as e:
        problems = [" ".join(part for part in (e.what, e.where and f"({e.where})", e.why) if part)]
    except Exception as e:  # evidence that has its schema and no sense: say so instead of ending the check
        problems = [f"the card cannot be rendered from its evidence: {type(e).__name__}: {e}"]
    shown = [log.printable(each.replace(f"{root}/", "")).replace("\n", " ")[:1000] for each in problems]
    if len(shown) > MAX_PROBLEMS:
        shown = [*shown[: MAX_PROBLEMS - 1], f"and {len(shown) - MAX_PROBLEMS + 1} more"]
    return CardVerdict(folder=folder[:220], key=found, problems=shown)


def _evidence_problems(evidence: Evidence, path: Path, folder: str, key: str | None) -> list[str]:
    problems = []
    if (expected := layout.folder_of(evidence.release.target_repo)) != folder:
        problems.append(f"evidence.json is of {expected}, and lies in {folder}")
    # Fields that came later are no edit of evidence that was written without them.
    if path.read_bytes() != (evidence.model_dump_json(indent=2, exclude_unset=True) + "\n").encode():
        problems.append("evidence.json is not written as the bot writes it: it was edited or formatted")
    if key is not None and evidence.release.key != key:
        problems.append(f"evidence.json is of release {evidence.release.key}, the branch of {key}")
    try:
        require_key(evidence.release, evidence.release.key)
    except ReleaseBotError as e:
        problems.append(f"{e.what}: {e.why}")
    if evidence.upload.repo_id != evidence.release.target_repo:
        problems.append(
            f"the weights were uploaded to {evidence.upload.repo_id}, which is not this release's repo"
        )
    if not verdicts_hold(evidence):
        problems.append("the gates' verdicts are not those of the figures and limits in evidence.json")
    return problems


def verdicts_hold(evidence: Evidence) -> bool:
    """Whether judging the evidence's figures again gives the verdicts that stand in it."""
    thresholds = recipe_of(evidence.release).thresholds
    report, measured = evidence.audit.report, evidence.measurement
    again = gate.judge(
        thresholds,
        report,
        measured,
        inputs_digest=gate.inputs_of(thresholds, report, measured),
        override=evidence.gates.override,
    )
    return again == evidence.gates
