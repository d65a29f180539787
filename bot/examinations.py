"""What is to be examined for a release: itself, its base, the official FP8 repo; or any checkpoint by hand.

Joins the job (recipe, evidence, folders), the Hub and the engine; what is done with an examination stands in
`bot.serving.sittings`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bot import log
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.reading import read_checkpoint
from bot.config import Config
from bot.edges.hub import Hub, RepoState
from bot.edges.machine import cpu_flags
from bot.errors import InputError, NotServable
from bot.job import Job
from bot.measurements import Role
from bot.models import UploadEvidence
from bot.naming import parse_base
from bot.recipe import Recipe
from bot.serving import baselines, evaluation_text, quirks, subject
from bot.serving.engine import Engine
from bot.serving.examination import Examination, baseline_serve


def of_release(job: Job, engine: Engine, base: Examination) -> Examination:
    """The release's own checkpoint, as it was uploaded."""
    space = job.workspace
    digests = {f.path: f.sha256 for f in space.read("upload", UploadEvidence).files}
    found = subject.of_folder(
        space.checkpoint,
        engine.facts,
        role="release",
        name=job.release.target_repo,
        revision=None,
        serve=job.recipe.serve,
        fingerprint=subject.fingerprint({path: d for path, d in digests.items() if path != "recipe.yaml"}),
    )
    return Examination(
        subject=found,
        engine=engine,
        evaluation=job.recipe.evaluation,
        home=job.config.home,
        logs=space.logs / "release",
        dataset=base.dataset,
        reference=base,
    )


def of_base(job: Job, engine: Engine) -> Examination:
    """The base at its pinned revision, served beside the release."""
    state = {f.path: f.sha256 or f.blob_id for f in job.base.files}
    found = subject.of_folder(
        job.hub.download(job.base.base.repo_id, job.base.base.revision),
        engine.facts,
        role="base",
        name=job.base.base.repo_id,
        revision=job.base.base.revision,
        serve=baseline_serve(job.recipe.serve),
        fingerprint=subject.fingerprint(state),
    )
    return Examination(
        subject=found,
        engine=engine,
        evaluation=job.recipe.evaluation,
        home=job.config.home,
        logs=job.workspace.logs / "base",
        dataset=evaluation_text.fetch(job.recipe.evaluation, job.hub),
    )


def of_fp8(job: Job, engine: Engine, base: Examination) -> Examination | None:
    """The official FP8 repo of the base; None when there is none. NotServable where no try is worth it."""
    state = baselines.official_fp8(job.base.base.repo_id, job.hub, base_revision=job.base.base.revision)
    if state is None:
        return None
    log.info(f"  official FP8 repo: {state.repo_id}@{state.revision[:8]}")
    if why := quirks.unserved(engine.facts, "fp8", cpu_flags=cpu_flags()):
        raise NotServable("unsupported", why, log_tail=[], where=state.repo_id)
    return _of_state(state, job.hub, engine, base, role="fp8", logs=job.workspace.logs / "fp8")


def _of_state(
    state: RepoState, hub: Hub, engine: Engine, base: Examination, *, role: Role, logs: Path
) -> Examination:
    found = subject.of_folder(
        hub.download(state.repo_id, state.revision),
        engine.facts,
        role=role,
        name=state.repo_id,
        revision=state.revision,
        serve=base.subject.serve,
        fingerprint=fingerprint_of_state(state),
    )
    return Examination(
        subject=found,
        engine=engine,
        evaluation=base.evaluation,
        home=base.home,
        logs=logs,
        dataset=base.dataset,
        reference=base,
    )


def fingerprint_of_state(state: RepoState) -> str:
    """The fingerprint of a repo's files by what the Hub tells of them."""
    return subject.fingerprint({path: f.sha256 or f.blob_id for path, f in state.files.items()})


# ── any checkpoint, by hand ────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Located:
    """A checkpoint on this host; `fingerprint` is None where every byte must be read for it."""

    folder: Path
    name: str
    revision: str | None
    fingerprint: str | None


def of_source(
    text: str,
    engine: Engine,
    *,
    hub: Hub,
    config: Config,
    recipe: Recipe,
    role: Role,
    dataset: Path,
    reference: Examination | None = None,
) -> Examination:
    """The checkpoint that `text` names: a folder, or `org/name[@revision]` on the Hub.

    A packed one is served as the recipe says, another one as a base. Raises InputError.
    """
    at = locate(text, hub)
    packed = read_checkpoint(FolderSource(at.folder)).quantization is not None
    found = subject.of_folder(
        at.folder,
        engine.facts,
        role=role,
        name=at.name,
        revision=at.revision,
        serve=recipe.serve if packed else baseline_serve(recipe.serve),
        fingerprint=at.fingerprint,
    )
    return Examination(
        subject=found,
        engine=engine,
        evaluation=recipe.evaluation,
        home=config.home,
        logs=config.home / "measured" / found.facts.fingerprint[:16] / "logs",
        dataset=dataset,
        reference=reference,
    )


def locate(text: str, hub: Hub) -> Located:
    """The checkpoint that `text` names, downloaded where it is a repo. Raises InputError."""
    folder = Path(text)
    if folder.is_dir():
        return Located(folder=folder, name=folder.resolve().name, revision=None, fingerprint=None)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", text, re.ASCII):
        raise InputError(
            f"{text!r} is no folder, and no repo either",
            fix="name an existing folder, or a repo as org/name[@revision]",
        )
    repo_id, revision = parse_base(text)
    state = hub.state(repo_id, revision)
    return Located(
        folder=hub.download(repo_id, state.revision),
        name=repo_id,
        revision=state.revision,
        fingerprint=fingerprint_of_state(state),
    )
