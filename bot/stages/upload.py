"""Upload: the checkpoint as one pull request on the private target repo.

The repo's main branch is not touched. One commit holds the weights, the side files, the recipe,
the build evidence and SHA256SUMS, and removes what an earlier release left that this one does
not have; the card comes later, in a commit of its own, and is therefore not in SHA256SUMS.
What arrived is proven by reading the Hub's own digests back.

A rerun finds the pull request by the release key in its title: equal digests are a no-op,
different ones are refused, since what a person may already be reviewing is never replaced.
"""

from __future__ import annotations

import time

from bot import hubpulls, log, naming
from bot.edges.hub import Hub, PullRequest, RepoState
from bot.errors import InfrastructureError, InputError, Refused
from bot.models import Release, UploadEvidence
from bot.repo import HUB_OWN_FILES, LocalFile, differences, is_card_file, refuse_rehearsal


def upload(release: Release, files: dict[str, LocalFile], *, inputs_digest: str, hub: Hub) -> UploadEvidence:
    """Bring `files` to the Hub as one pull request, or find them there.

    Raises Refused when the release was refused or published before with other content, and
    InfrastructureError when the Hub fails; what arrived is then kept for the next attempt.
    """
    refuse_rehearsal(release, hub)
    started = time.monotonic()
    if not hub.exists(release.target_repo):  # a token that only opens pull requests cannot create it
        hub.create_private(release.target_repo)
    main = hub.state(release.target_repo)
    existing = standing(release, hub)
    removed: list[str] = []
    if existing:
        num, parent = existing.num, parent_of(hub, release.target_repo, existing, main)
    else:
        num, removed = _open(release, files, main, hub)
        parent = main.revision
    state = hub.state(
        release.target_repo, f"refs/pr/{num}" if not existing or existing.status != "merged" else None
    )
    if found := differences(state, files):
        raise _mismatch(release, num, found, fresh=existing is None)
    return UploadEvidence(
        inputs_digest=inputs_digest,
        repo_id=release.target_repo,
        pr_num=num,
        parent=parent,
        pr_head=state.revision,
        files=[each.digest for each in files.values()],
        blob_ids={path: each.git_sha1 for path, each in files.items()},
        removed=removed,
        wall_s=round(time.monotonic() - started, 3),
    )


def standing(release: Release, hub: Hub) -> PullRequest | None:
    """Our pull request for this key, open or merged, if there is one.

    Raises Refused when it is closed: a person said no.
    """
    newest = next(iter(_ours(release, hub)), None)
    if newest is None:
        return None
    if newest.status == "closed":
        raise Refused(
            f"release {release.key} was refused: its pull request {newest.num} is closed",
            where=f"{hub.url(release.target_repo)}/discussions/{newest.num}",
            fix=f"to take the refusal back: `release-bot upload {release.key} --restage`",
        )
    log.info(f"  pull request {newest.num} already holds this release ({newest.status})")
    return newest


def is_refused(release: Release, hub: Hub) -> bool:
    """Whether our newest pull request for this key is closed: a person said no."""
    newest = next(iter(_ours(release, hub)), None)
    return newest is not None and newest.status == "closed"


def withdraw(release: Release, hub: Hub) -> None:
    """Take our pull requests for this key out of the way, so that it can be staged afresh.

    Raises Refused when one is merged: what is published is not staged again; and when one is another
    member's, which this token may not rename.
    """
    for pull in _ours(release, hub):
        if pull.status == "merged":
            raise Refused(
                f"release {release.key} is published: pull request {pull.num} is merged",
                where=f"{hub.url(release.target_repo)}/discussions/{pull.num}",
                fix="another recipe, base revision or toolchain_epoch makes another release",
            )
        _supersede(release, pull, hub)


def _supersede(release: Release, pull: PullRequest, hub: Hub) -> None:
    try:
        hub.supersede(release.target_repo, pull, comment="Superseded: the release is staged afresh.")
    except InputError as e:
        raise Refused(
            f"pull request {pull.num} of {pull.author} holds release {release.key} and cannot be withdrawn",
            where=f"{hub.url(release.target_repo)}/discussions/{pull.num}",
            why=e.what,
            fix=f"its author or an admin renames it to `Superseded: {release.key}` and closes it",
        ) from e


def _ours(release: Release, hub: Hub) -> list[PullRequest]:
    """Pull requests for this key by any of us, newest first; a stranger's with the same title is none."""
    if not hub.exists(release.target_repo):
        return []
    return hubpulls.of_release(hub, release.target_repo, release.key)


def parent_of(hub: Hub, repo_id: str, pull: PullRequest, main: RepoState) -> str:
    """The commit of main that the pull request stands on: its oldest commit's parent."""
    if pull.status == "merged":
        return main.revision
    theirs = [each.commit_id for each in hub.api.list_repo_commits(repo_id, revision=pull.revision)]
    of_main = {each.commit_id for each in hub.api.list_repo_commits(repo_id)}
    return next((each for each in theirs if each in of_main), main.revision)


def _open(release: Release, files: dict[str, LocalFile], main: RepoState, hub: Hub) -> tuple[int, list[str]]:
    stale = [p for p in main.files if p not in files and not is_card_file(p) and p not in HUB_OWN_FILES]
    with log.Progress(
        "upload", total=sum(f.digest.size_bytes for f in files.values()), unit="bytes"
    ) as progress:
        _, num = hub.commit(
            release.target_repo,
            title=naming.commit_title(release.key, release.base, release.recipe_name),
            description=f"Opened by release-bot. Branch of the card: {naming.branch(release.key)}",
            add={name: file.path for name, file in files.items()},
            delete=stale,
            parent=main.revision,
            create_pr=True,
            progress=lambda done, total: progress.update(done),
        )
    if num is None:
        raise InfrastructureError(
            "the Hub opened no pull request", where=release.target_repo, fix="run it again"
        )
    return num, stale


def _mismatch(release: Release, num: int, found: list[str], *, fresh: bool) -> Exception:
    where = f"{release.target_repo} pull request {num}"
    if fresh:
        return InfrastructureError(
            "what came back from the Hub is not what was sent: " + "; ".join(found[:5]),
            where=where,
            fix=f"look into it; `release-bot upload {release.key} --restage` uploads again",
        )
    return Refused(
        "the pull request holds another build of this release: " + "; ".join(found[:5]),
        where=where,
        why="quantizing again gives other bytes, and what may be under review is never replaced",
        fix=f"keep the first build, or replace it: `release-bot upload {release.key} --restage`",
    )
