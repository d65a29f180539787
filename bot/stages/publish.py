"""Publish: the reviewed card joins the weights, and only then is the repo public.

Order, each step checked before the next: refuse rehearsals and moved bases → the pull request
holds exactly the digests that the reviewed evidence names → card, evidence and plots in a
second commit → digests again → merge → digests on main → tag → public. A break anywhere leaves
a private repo (or, for a repo that was public before, its former main) and the next run goes on
from what it finds on the Hub. The collection is a last step of its own: its failure is reported
and retried, and takes nothing back.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bot import log, naming
from bot.edges.hub import Hub, PullRequest, RepoState
from bot.errors import AuditFailed, InfrastructureError, InputError, Refused, ReleaseBotError
from bot.models import BaseEvidence, PublishEvidence, Release, UploadEvidence
from bot.repo import HUB_OWN_FILES, LocalFile, is_card_file, refuse_rehearsal

# A change of these in the base does not change what was quantized.
IMMATERIAL = (".gitattributes", ".gitignore", "README.md", "LICENSE")


def tag_name(key: str) -> str:
    return f"release-{key}"


def card_files(folder: Path) -> dict[str, LocalFile]:
    """The card's files in `folder`: README.md, evidence.json, plots; anything else is refused."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if not is_card_file(name) or path.is_symlink():
            raise InputError(
                f"{name} does not belong to a card",
                where=str(folder),
                fix="a card is README.md, evidence.json and plots/",
            )
        found[name] = LocalFile.read(name, path)
    if missing := {"README.md", "evidence.json"} - found.keys():
        raise InputError(
            f"the card lacks {', '.join(sorted(missing))}",
            where=str(folder),
            fix="run `release-bot card KEY` first",
        )
    return found


def publish(
    release: Release,
    base: BaseEvidence,
    uploaded: UploadEvidence,
    card: dict[str, LocalFile],
    *,
    audit_passed: bool,
    hub: Hub,
    collection: str | None,
    before: PublishEvidence | None = None,
    after_step: Callable[[str], None] = lambda step: None,
) -> PublishEvidence:
    """Make the release public, or find that it is.

    `before` is the evidence of an earlier run that came through; a `collection` of None is left to `curate`.
    `after_step` is called with the name of each step that changed the Hub. Raises Refused when anything is
    not as it was reviewed, or when a published repo was made private since; AuditFailed for evidence that
    does not pass.
    """
    refuse_rehearsal(release, hub)
    if not audit_passed:
        raise AuditFailed(
            f"release {release.key} did not pass its audit",
            fix="mend the checkpoint; a failed audit is not published",
        )
    revision = _published(release, uploaded, hub)
    if revision is None:
        refuse_moved_base(base, hub)
        revision = _merge(release, uploaded, card, hub, after_step)
    state = hub.state(release.target_repo, revision)
    _check(state, uploaded, card, where=f"{release.target_repo}@{revision[:8]}")
    if state.private and before is not None and before.public:
        raise Refused(
            f"{release.target_repo} was published and has been made private since",
            where=hub.url(release.target_repo),
            why="someone took it back, and that is not undone by a rerun",
            fix="make it public on the Hub if that was a mistake",
        )
    if hub.tag(release.target_repo, tag_name(release.key), revision):
        after_step("tag")
    if state.private:
        hub.make_public(release.target_repo)
        after_step("public")
    slug, problem = (before and before.collection) or None, None
    if slug is None and collection is not None:
        slug, problem = _collect(release, hub, collection)
        after_step("collection")
    return PublishEvidence(
        repo_id=release.target_repo,
        pr_num=uploaded.pr_num,
        revision=revision,
        tag=tag_name(release.key),
        num_files_verified=len(uploaded.files) + len(card),
        bytes_verified=sum(f.size_bytes for f in [*uploaded.files, *(c.digest for c in card.values())]),
        public=not hub.state(release.target_repo, revision).private,
        collection=slug,
        collection_error=problem,
        published_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def refuse_moved_base(base: BaseEvidence, hub: Hub) -> None:
    """Raises Refused when the base's main branch now holds other weights, config or side files.

    A base that only changed its README is the same base. One that was released from an older
    revision on purpose is compared with what main was then.
    """
    head = hub.head(base.base.repo_id)
    if head == base.head:
        return
    before = {f.path: f.sha256 or f.blob_id for f in hub.state(base.base.repo_id, base.head).files.values()}
    after = {f.path: f.sha256 or f.blob_id for f in hub.state(base.base.repo_id, head).files.values()}
    changed = sorted(
        p for p in before.keys() | after.keys() if before.get(p) != after.get(p) and p not in IMMATERIAL
    )
    if changed:
        raise Refused(
            f"the base moved while this release was made: {', '.join(changed[:5])} changed",
            where=f"{base.base.repo_id}: {base.head[:8]} → {head[:8]}",
            why="a release of weights that are no longer the current ones would mislead",
            fix=f"run the recipe on {base.base.repo_id}@{head[:8]}",
        )
    log.info(f"the base moved to {head[:8]}, in its card only")


def _published(release: Release, uploaded: UploadEvidence, hub: Hub) -> str | None:
    """The merged revision when the pull request is merged already; None when it is open."""
    pull = _pull(release, uploaded, hub)
    if pull.status == "closed":
        raise Refused(
            f"release {release.key} was refused: pull request {pull.num} is closed",
            where=f"{hub.url(release.target_repo)}/discussions/{pull.num}",
            fix=f"to take the refusal back: `release-bot upload {release.key} --restage`",
        )
    if pull.status != "merged":
        return None
    with_tag = {t.name: t.target_commit for t in hub.api.list_repo_refs(release.target_repo).tags}
    return str(with_tag.get(tag_name(release.key)) or hub.head(release.target_repo))


def _pull(release: Release, uploaded: UploadEvidence, hub: Hub) -> PullRequest:
    for pull in hub.pull_requests(release.target_repo):
        if pull.num == uploaded.pr_num:
            if not pull.title.startswith(f"Release {release.key}:"):
                break
            return pull
    raise Refused(
        f"pull request {uploaded.pr_num} is not the one that was recorded for {release.key}",
        where=hub.url(release.target_repo),
        fix="run `release-bot upload` again",
    )


def _merge(
    release: Release,
    uploaded: UploadEvidence,
    card: dict[str, LocalFile],
    hub: Hub,
    after_step: Callable[[str], None],
) -> str:
    repo, ref = release.target_repo, f"refs/pr/{uploaded.pr_num}"
    main = hub.head(repo)
    if main != uploaded.parent:
        raise Refused(
            f"{repo} moved since the upload: main is at {main[:8]}, recorded was {uploaded.parent[:8]}",
            where=hub.url(repo),
            why="someone committed to main, or another release was merged",
            fix=_restage(release, "look at main's commits; then"),
        )
    state = hub.state(repo, ref)
    _check(state, uploaded, None, where=f"{repo} {ref}", fix=_restage(release, "do not publish this;"))
    if not _holds(state, card):
        if state.revision != uploaded.pr_head:
            raise Refused(
                f"pull request {uploaded.pr_num} moved: it is at {state.revision[:8]}, "
                f"recorded was {uploaded.pr_head[:8]}",
                where=f"{hub.url(repo)}/discussions/{uploaded.pr_num}",
                why="something was committed to it after the upload",
                fix=_restage(release, "look at its commits; if they are not ours,"),
            )
        hub.commit(
            repo,
            title=f"Card of {naming.commit_title(release.key, release.base, release.recipe_name)}",
            add={name: file.path for name, file in card.items()},
            delete=[p for p in state.files if is_card_file(p) and p not in card],
            revision=ref,
            parent=state.revision,
        )
        after_step("card")
    _check(
        hub.state(repo, ref),
        uploaded,
        card,
        where=f"{repo} {ref}",
        fix=_restage(release, "do not publish it;"),
    )
    hub.merge(repo, uploaded.pr_num, comment=f"Published by release-bot as {tag_name(release.key)}.")
    after_step("merge")
    return hub.head(repo)


def _restage(release: Release, first: str) -> str:
    return (
        f"{first} `release-bot upload {release.key} --restage` opens a new pull request from the same "
        f"checkpoint, then `release-bot card {release.key}`"
    )


def _holds(state: RepoState, card: dict[str, LocalFile]) -> bool:
    names = {p for p in state.files if is_card_file(p)}
    return names == card.keys() and all(
        state.files[n].is_same_as(f.digest, f.git_sha1) for n, f in card.items()
    )


def _check(
    state: RepoState,
    uploaded: UploadEvidence,
    card: dict[str, LocalFile] | None,
    *,
    where: str,
    fix: str = "look at the repo's commits on the Hub: it no longer holds what was merged",
) -> None:
    """The repo holds the reviewed digests and nothing else. Raises Refused."""
    problems = []
    expected = {each.path: each for each in uploaded.files}
    for path, file in expected.items():
        remote = state.files.get(path)
        if remote is None:
            problems.append(f"{path} is gone")
        elif not remote.is_same_as(file, uploaded.blob_ids.get(path, "")):
            problems.append(f"{path} changed")
    allowed = expected.keys() | set(HUB_OWN_FILES)
    problems += [
        f"{path} was added" for path in state.files if path not in allowed and not is_card_file(path)
    ]
    if card is not None and not _holds(state, card):
        problems.append("the card on the Hub is not the reviewed one")
    if problems:
        raise Refused(
            "the Hub does not hold what was reviewed: " + "; ".join(sorted(problems)[:5]),
            where=where,
            why="files were changed after the upload",
            fix=fix,
        )


def _collect(release: Release, hub: Hub, title: str) -> tuple[str | None, str | None]:
    try:
        return hub.collect(title, release.target_repo.split("/")[0], release.target_repo), None
    except ReleaseBotError as e:
        return None, e.what


def collection_failure(evidence: PublishEvidence) -> InfrastructureError:
    """The error that ends a run whose release is public and whose last step is not done."""
    return InfrastructureError(
        f"{evidence.repo_id} is published; adding it to the collection failed: {evidence.collection_error}",
        fix="run `release-bot publish` again: it does only what is left",
    )
