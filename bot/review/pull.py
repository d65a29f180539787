"""The card's pull request: one a release, opened once, and made current by every later run.

The branch `release/<key>` holds one folder of files. Prose that a reviewer rewrote there stays; everything
else becomes what the evidence renders to. A commit is made only where a file differs, the body is written
only where it differs, so that a second run changes nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from bot import naming, prose
from bot.edges.github import GitHub, Pull, TreeFile
from bot.edges.state_branch import blob_id
from bot.errors import InputError, Refused
from bot.evidence import Evidence
from bot.models import Model
from bot.recipe import Recipe
from bot.review import body, change, decisions, labels, layout
from bot.siblings import MAX_EVIDENCE_BYTES
from bot.stages import card as carding
from bot.state import State, refuse_paused


class Offered(Model):
    """`card-pr --json`: the pull request, and whether this run opened it or changed anything."""

    key: str
    number: int
    url: str
    branch: str
    folder: str
    state: Literal["opened", "updated", "unchanged", "merged"]
    labels: list[str]


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where the card's commit goes: on `parent`, with what lies there now."""

    name: str
    head: str | None
    parent: str
    tree: dict[str, TreeFile]


def offer(github: GitHub, state: State, card: Path, *, hub_url: str) -> Offered:
    """Open or update the pull request of the card in `card`.

    Raises GateFailed for a card that does not hold, and what `bring` raises.
    """
    refuse_paused(state)
    return bring(github, state, carding.check(card), card, hub_url=hub_url)


def bring(github: GitHub, state: State, evidence: Evidence, card: Path, *, hub_url: str) -> Offered:
    """The same for a card that holds, `evidence` being what it was rendered from.

    Raises Refused for a release that a person refused, or when the branch moves at the same moment.
    """
    refuse_paused(state)
    key = evidence.release.key
    folder, name = layout.folder_of(evidence.release.target_repo), naming.branch(key)
    pulls = github.pulls(branch=name)
    if merged := next((each for each in pulls if each.state == "merged"), None):
        return _offered(merged, key, folder, "merged")
    standing = next((each for each in pulls if each.state == "open"), None)
    _refuse_refused(state, key, pulls, standing)
    branch = _branch(github, name)
    head = _commit(github, branch, evidence, card, folder)
    before = _predecessor(github, evidence, folder)
    files = f"{head}/{folder}"
    places = body.Places(
        hub=hub_url,
        files=f"{github.web_url}/raw/{files}",
        card=f"{github.web_url}/blob/{files}/README.md",
    )
    title, text = body.title(evidence), body.body(evidence, before, places)
    changed = head != branch.head
    if standing is None:
        standing, told = _open(github, name, title, text), "opened"
    else:
        told = "updated" if changed else "unchanged"
        if (standing.title, standing.body) != (title, text):
            github.edit_pull(standing.number, title=title, body=text)
            told = "updated"
    wanted = labels.of(evidence)
    github.relabel(standing, wanted, among=[*labels.OF_GATES, labels.BOT, labels.REHEARSAL, *labels.OF_END])
    return _offered(standing, key, folder, told, wanted)  # type: ignore[arg-type]


def _offered(
    pull: Pull,
    key: str,
    folder: str,
    told: Literal["opened", "updated", "unchanged", "merged"],
    added: set[str] | None = None,
) -> Offered:
    return Offered(
        key=key,
        number=pull.number,
        url=pull.url,
        branch=pull.branch,
        folder=folder,
        state=told,
        labels=sorted({*pull.labels, *(added or ())}),
    )


def _refuse_refused(state: State, key: str, pulls: list[Pull], standing: Pull | None) -> None:
    """Raises Refused where a person said no, by a word or by closing, and nobody said retry since."""
    closed = pulls and standing is None
    closed_at = max((each.closed_at for each in pulls if each.closed_at), default=None)
    said = decisions.newest(state, key)
    taken_back = said == "retry" and (closed_at is None or decisions.retried_since(state, key, closed_at))
    if said in ("refuse", "skip") or (closed and not taken_back):
        raise Refused(
            f"release {key} was refused" + (f": pull request {pulls[0].number} is closed" if closed else ""),
            where=pulls[0].url if pulls else "",
            fix="comment /retry on its pull request, or tick it on the dashboard, to take that back",
        )


def _branch(github: GitHub, name: str) -> Branch:
    head = github.head(name)
    parent = head or github.head(github.default_branch)
    if parent is None:
        raise InputError("the repository is empty", where=github.repository, fix="commit the bot first")
    return Branch(name=name, head=head, parent=parent, tree=github.tree(parent))


def _commit(github: GitHub, branch: Branch, evidence: Evidence, card: Path, folder: str) -> str:
    """Bring the card's files to the branch; returns its head, which is the old one where nothing differs."""
    files = {name: path.read_bytes() for name, path in layout.files_in(card).items()}
    words = {
        **_words(github, branch, folder),
        **carding.edited(files["README.md"].decode(), files["evidence.json"]),
    }
    files["README.md"] = carding.render(evidence, words).encode()
    there = {path: each.sha for path, each in branch.tree.items() if path.startswith(f"{folder}/")}
    wanted: dict[str, bytes | None] = {f"{folder}/{name}": data for name, data in files.items()}
    changes = {
        path: data for path, data in wanted.items() if data is None or there.get(path) != blob_id(data)
    }
    changes |= dict.fromkeys(there.keys() - wanted.keys())
    if not changes and branch.head:
        return branch.head
    message = f"Card of {body.title(evidence)}"
    return github.commit(branch.name, changes, message=message, parent=branch.parent, on=branch.head)


def _words(github: GitHub, branch: Branch, folder: str) -> dict[str, str]:
    """What reviewers wrote into the card on its branch; nothing of a predecessor's on the default branch.

    Raises Refused where the marks were broken: rendering again would lose their words.
    """
    readme, evidence = (branch.tree.get(f"{folder}/{name}") for name in ("README.md", "evidence.json"))
    if branch.head is None or readme is None or evidence is None:
        return {}
    text = github.blob(readme.sha).decode("utf-8", "replace")
    if broken := prose.find(text)[1]:
        raise Refused(
            f"the marks of the prose regions are broken: {'; '.join(broken[:3])}",
            where=f"{branch.name}: {folder}/README.md",
            why="the card cannot be rendered again without losing what was written there",
            fix="mend the marks on the branch, as the card's check says",
        )
    return carding.edited(text, github.blob(evidence.sha))


def _open(github: GitHub, branch: str, title: str, text: str) -> Pull:
    try:
        return github.open_pull(branch=branch, base=github.default_branch, title=title, body=text)
    except Refused:
        found = [each for each in github.pulls(branch=branch) if each.state == "open"]
        if not found:
            raise
        return found[0]  # another run opened it in between


# ── read back ──────────────────────────────────────────────────────────────────────────────


def evidence_at(github: GitHub, revision: str, folder: str) -> Evidence:
    """The evidence in a card's folder at a commit: data of whoever made that commit. Raises InputError."""
    return read_evidence(github, github.tree(revision), folder)


def read_evidence(github: GitHub, tree: dict[str, TreeFile], folder: str) -> Evidence:
    file = tree.get(f"{folder}/evidence.json")
    if file is None or file.mode != "100644":
        raise InputError("there is no evidence.json", where=folder)
    if file.size_bytes > MAX_EVIDENCE_BYTES:
        raise InputError(f"evidence.json has more than {MAX_EVIDENCE_BYTES:,} bytes", where=folder)
    try:
        return Evidence.model_validate_json(github.blob(file.sha))
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"evidence.json is not valid: {field}: {first['msg']}", where=folder) from e


def card_folders(tree: dict[str, TreeFile]) -> list[str]:
    """The folders in a tree that hold a card."""
    found = [path.rpartition("/")[0] for path in tree if path.endswith("/evidence.json")]
    return sorted(each for each in found if each.startswith(f"{layout.CARDS}/") and each.count("/") == 1)


def of_release(github: GitHub, pull: Pull) -> tuple[str, Evidence]:
    """The folder and the evidence of a card's pull request. Raises InputError where there is no such card."""
    key = decisions.release_of(pull)
    tree = github.tree(pull.head_sha)
    base = github.tree(github.default_branch)
    for folder in card_folders(tree):
        path = f"{folder}/evidence.json"
        if path in base and base[path].sha == tree[path].sha and pull.state != "merged":
            continue  # a card of another release, as it is on the default branch
        found = read_evidence(github, tree, folder)
        if found.release.key == key:
            return folder, found
    raise InputError(f"the branch holds no card of release {key}", where=pull.url)


def fetch_card(github: GitHub, pull: Pull, folder: str, target: Path) -> None:
    """Write the card of a pull request's head below `target`, its own files only."""
    for path, file in github.tree(pull.head_sha).items():
        name = path.removeprefix(f"{folder}/")
        if name != path and layout.is_card_path(name) and file.mode == "100644":
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(github.blob(file.sha))


def rewrite(
    github: GitHub, state: State, pull: Pull, folder: str, evidence: Evidence, *, hub_url: str
) -> Offered:
    """Render the card of an open pull request again from other evidence, a reviewer's words kept."""
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "card"
        target.mkdir()
        fetch_card(github, pull, folder, target)
        carding.render_to(target, evidence)
        return bring(github, state, evidence, target, hub_url=hub_url)


def _predecessor(github: GitHub, evidence: Evidence, folder: str) -> Evidence | None:
    """The evidence of the release that this one follows, on the default branch; None where there is none."""
    tree = github.tree(github.default_branch)
    suffix = Recipe.model_validate(evidence.release.recipe).repo_suffix
    found = change.folder_before(folder, suffix, card_folders(tree))
    if found is None:
        return None
    try:
        before = read_evidence(github, tree, found)
    except InputError:
        return None
    return before if before.release.key != evidence.release.key else None
