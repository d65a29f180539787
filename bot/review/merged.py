"""Which releases a push to the default branch publishes: cards that came in by a merged bot pull request.

A push alone is not enough: somebody could write a card to the default branch directly. The card's files must
be those of the merge commit of a pull request from `release/<key>` in this repository, unchanged since, and
an override in its evidence one that was commanded and recorded. Where the App's login is configured, it must
have opened that pull request: anybody who may push can open one from a branch of that name.
"""

from __future__ import annotations

from pathlib import Path

from bot import log, naming
from bot.edges.github import GitHub, TreeFile
from bot.edges.state_branch import blob_id
from bot.errors import InputError, Refused
from bot.evidence import Evidence
from bot.models import SCHEMA_VERSION, Model, read_json
from bot.review import decisions, layout
from bot.state import State


class Merged(Model):
    """One release to publish: `release-bot publish KEY --card DIR`."""

    key: str
    card: str
    repo: str
    number: int


class Publishable(Model):
    """`release-on-merge --json`: what to publish, and what was passed over with why."""

    schema_version: int = SCHEMA_VERSION
    releases: list[Merged]
    passed_over: dict[str, str]

    def matrix(self) -> dict[str, list[dict[str, str]]]:
        """GitHub's matrix, one job a release, since a publishing token is for one repo."""
        return {"include": [{"key": e.key, "card": e.card, "repo": e.repo} for e in self.releases]}


def publishable(github: GitHub, state: State, root: Path, changed: list[str]) -> Publishable:
    """The releases whose cards are among the `changed` paths of the checkout at `root`."""
    names = {
        each.split("/")[1] for each in changed if each.startswith(f"{layout.CARDS}/") and each.count("/") > 1
    }
    folders = [f"{layout.CARDS}/{each}" for each in sorted(names) if "--" in each]
    releases, passed_over = [], {}
    for folder in folders:
        try:
            releases.append(merged_card(github, state, root, folder))
        except (InputError, Refused) as e:
            log.warning(f"{folder} is not published: {e.what}")
            passed_over[folder] = e.what
    return Publishable(releases=releases, passed_over=passed_over)


def merged_card(github: GitHub, state: State, root: Path, folder: str) -> Merged:
    """The release of the card in `folder`. Raises Refused unless a merged bot pull request brought it."""
    files = layout.files_in(root / folder)
    evidence = read_json(files["evidence.json"], Evidence)
    release = evidence.release
    if layout.folder_of(release.target_repo) != folder:
        raise Refused(f"the evidence is of {release.target_repo}, and lies in {folder}", where=folder)
    branch = naming.branch(naming.parse_key(release.key))
    pulls = [each for each in github.pulls(branch=branch, state="closed") if each.state == "merged"]
    main = github.default_branch
    pull = next((e for e in pulls if e.base == main and e.same_repo and e.merge_sha), None)
    if pull is None or pull.merge_sha is None:
        raise Refused(f"no merged pull request of {branch} brought this card", where=folder)
    if github.login and pull.author != github.login:
        raise Refused(
            f"pull request {pull.number} was opened by {pull.author}, not by {github.login}",
            where=pull.url,
            why="a card is the bot's own; somebody else's is not what was built",
            fix="let the bot open it: comment /retry, or check RELEASE_BOT_GITHUB_LOGIN",
        )
    tree = github.tree(pull.merge_sha)
    if differing := _differing(files, tree, folder):
        raise Refused(
            f"{', '.join(differing[:3])} changed after pull request {pull.number} was merged", where=folder
        )
    if not decisions.knows_override(state, evidence):
        raise Refused(
            "the override in the evidence is none that anybody commanded here",
            where=folder,
            fix="a person with write access comments /override on the card's pull request",
        )
    return Merged(key=release.key, card=folder, repo=release.target_repo, number=pull.number)


def card_of(root: Path, key: str) -> str:
    """The folder below `root` that holds the card of release `key`. Raises InputError when none does."""
    for path in sorted((root / layout.CARDS).glob("*--*/evidence.json")):
        if read_json(path, Evidence).release.key == key:
            return f"{layout.CARDS}/{path.parent.name}"
    raise InputError(f"no card of release {key} is here", where=str(root / layout.CARDS))


def _differing(files: dict[str, Path], tree: dict[str, TreeFile], folder: str) -> list[str]:
    there = {p.removeprefix(f"{folder}/"): f.sha for p, f in tree.items() if p.startswith(f"{folder}/")}
    here = {name: blob_id(path.read_bytes()) for name, path in files.items()}
    return sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
