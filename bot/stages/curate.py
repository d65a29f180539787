"""Curate: what a public release owes to others: its place in the collection, and a word to its predecessor.

The last step of a release, with a token of its own, since a publisher's token covers one repo. It may fail
and be run again without anything being taken back. The predecessor's card gets `new_version` as a pull
request; it is merged where the token may, and else waits there for a person.

The predecessor is public, and the title of that pull request is no secret: anybody may open one like it, with
more in it than a line of the card. So one that stands there counts only where its author is one of us
(`bot.hubpulls`), and is merged only where it changes nothing but the card.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from bot import hubpulls, log, naming
from bot.edges.hub import Hub, PullRequest, RepoState, translated
from bot.errors import InfrastructureError, InputError, Refused
from bot.models import SCHEMA_VERSION, Model, Release
from bot.recipe import Recipe

_VERSIONED = re.compile(r"(?P<family>[A-Za-z]+)(?P<version>\d+(?:\.\d+)*)(?P<rest>.*)", re.ASCII)
TITLE = "Say that there is a new version"
Told = Literal["none", "proposed", "merged", "unchanged"]


class Curated(Model):
    """`release-bot curate --json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    repo_id: str
    collection: str
    predecessor: str | None
    new_version: Told


def curate(release: Release, known: Iterable[str], *, hub: Hub, collection: str) -> Curated:
    """Add the release's repo to the collection, and tell its predecessor among the `known` repos.

    Raises Refused when the repo is not public: nothing points at what nobody can see.
    """
    repo_id = release.target_repo
    if hub.state(repo_id).private:
        raise Refused(f"{repo_id} is not public yet", where=hub.url(repo_id), fix="publish it first")
    slug = hub.collect(collection, repo_id.split("/")[0], repo_id)
    before = predecessor(repo_id, Recipe.model_validate(release.recipe).repo_suffix, known)
    told: Told = "none" if before is None else _tell(hub, before, repo_id)
    return Curated(repo_id=repo_id, collection=slug, predecessor=before, new_version=told)


def predecessor(repo_id: str, suffix: str, known: Iterable[str]) -> str | None:
    """The repo of the same recipe whose base has the same name but for an older version, the newest of them.

    >>> predecessor("acme/Qwen3.6-27B-NVFP4", "NVFP4", ["acme/Qwen3.5-27B-NVFP4", "acme/Qwen3.5-9B-NVFP4"])
    'acme/Qwen3.5-27B-NVFP4'
    """
    own = _parts(repo_id, suffix)
    if own is None:
        return None
    found = [(parts[1], each) for each in known if (parts := _parts(each, suffix)) and parts[::2] == own[::2]]
    older = [each for each in found if each[0] < own[1]]
    return max(older)[1] if older else None


def _parts(repo_id: str, suffix: str) -> tuple[str, tuple[int, ...], str] | None:
    """Owner with family, version, and what follows it: `acme/Qwen`, (3, 6), `-27B`."""
    owner, _, name = repo_id.partition("/")
    base = name.removesuffix(f"-{suffix}")
    match = _VERSIONED.fullmatch(base)
    if base == name or match is None:
        return None
    version = tuple(int(each) for each in match["version"].split("."))
    return f"{owner}/{match['family'].lower()}", version, match["rest"].lower()


def _tell(hub: Hub, before: str, repo_id: str) -> Told:
    """Bring `new_version` into the predecessor's card, by a pull request of ours that stands or a new one."""
    naming.parse_base(before)
    main = hub.state(before)
    if main.card.get("new_version") == repo_id:
        return "unchanged"
    title = f"{TITLE}: {repo_id}"
    standing = _standing(hub, before, title)
    if standing and not _is_card_only(hub, main, standing):
        log.warning(f"pull request {standing.num} of {before} changes more than its card: it is not merged")
        return "proposed"
    num = standing.num if standing else _propose(hub, main, repo_id, title)
    try:
        hub.merge(before, num, comment="By release-bot.")
    except InputError:
        return "proposed"  # the token may not: whoever may write there merges it
    return "merged"


def _standing(hub: Hub, before: str, title: str) -> PullRequest | None:
    """The newest open pull request of this title that one of us made."""
    found = [each for each in hub.pull_requests(before) if each.title == title and each.status == "open"]
    ours = hubpulls.accounts(hub, before.split("/")[0]) if found else frozenset()
    return next((each for each in found if each.author.lower() in ours), None)


def _is_card_only(hub: Hub, main: RepoState, pull: PullRequest) -> bool:
    """Whether merging changes README.md at most. False also where main's files moved on since it was made."""
    there = hub.state(main.repo_id, pull.revision).files
    differing = {path for path in main.files | there if main.files.get(path) != there.get(path)}
    return differing <= {"README.md"}


def _propose(hub: Hub, main: RepoState, repo_id: str, title: str) -> int:
    """Open a pull request that adds the one line to the predecessor's card; returns its number."""
    from huggingface_hub import ModelCard

    before, revision = main.repo_id, main.revision
    with tempfile.TemporaryDirectory() as folder:
        with translated(f"{before} README.md"):
            path = Path(hub.api.hf_hub_download(before, "README.md", revision=revision, local_dir=folder))
            card = ModelCard(path.read_text(encoding="utf-8"))
        card.data["new_version"] = repo_id
        path.write_text(str(card), encoding="utf-8")
        _, num = hub.commit(before, title=title, add={"README.md": path}, parent=revision, create_pr=True)
    if num is None:
        raise InfrastructureError(f"the Hub opened no pull request on {before}", fix="run curate again")
    return num
