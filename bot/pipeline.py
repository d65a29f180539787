"""The order of a release's stages, and nothing else: quantize → repair → audit → upload → validate →
measure → gate → card → publish. What to release is found before it, by `bot.watch` and `bot.plan`.

Each stage reads the release's folder and writes `evidence/<stage>.json` there. A stage whose
inputs are unchanged does nothing. Only this module knows the order; stages do not know each other.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bot import log, repo
from bot.errors import UsageError
from bot.evidence import GatesEvidence
from bot.job import Job
from bot.models import UploadEvidence
from bot.stages import gate, upload
from bot.steps import building, evaluating, releasing

# In their order, with what runs each: job in, whether it did something out.
RUNNERS: dict[str, Callable[[Job], bool]] = {
    "quantize": building.quantize,
    "repair": building.repair,
    "audit": building.audit,
    "upload": building.upload,
    "validate": evaluating.validate,
    "measure": evaluating.measure,
    "gate": evaluating.gate,
    "card": releasing.card,
    "publish": releasing.publish,
}
STAGES = tuple(RUNNERS)
Summary = dict[str, Any]


def check_stage(name: str | None) -> None:
    """Raises UsageError when there is no such stage."""
    if name is not None and name not in STAGES:
        near = difflib.get_close_matches(name, STAGES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"there is no stage {name!r}", fix=f"{hint}Stages: {', '.join(STAGES)}")


def run(job: Job, *, until: str | None = None) -> Summary:
    """Run the stages up to `until`; returns what `--json` prints.

    On the real Hub the default ends with the card, since a person reviews it before it is published.
    What could not be uploaded at the end is refused at the start.
    """
    last = until or ("publish" if job.hub.embedded else "card")
    names = STAGES[: STAGES.index(last) + 1]
    states: dict[str, str] = {}
    if "upload" in names:
        repo.refuse_rehearsal(job.release, job.hub)
        if done := done_elsewhere(job):
            return summary(job, dict.fromkeys(names, done))
    with job.workspace.locked():
        for name in names:
            if name == "publish" and (blocked := _blocking(job)):
                states[name] = f"refused by {', '.join(blocked)}"
            else:
                states[name] = _run_stage(job, name)
    return summary(job, states)


def _blocking(job: Job) -> list[str]:
    """The gates that stand in the way of publishing; the card is rendered all the same, and says so."""
    judged = job.workspace.existing("gate", GatesEvidence)
    return [each.id for each in gate.blocking(judged)] if judged else []


def run_one(job: Job, name: str) -> dict[str, Any]:
    """Run one stage; returns its evidence."""
    with job.workspace.locked():
        _run_stage(job, name)
    path = job.card / "evidence.json" if name == "card" else job.workspace.evidence(name)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _run_stage(job: Job, name: str) -> str:
    with log.step(name):
        state = "done" if RUNNERS[name](job) else "unchanged"
        log.info(f"  {state}")
    return state


def afresh(job: Job) -> Job:
    """The same job, to be staged anew where what was staged is closed: for a release that is to be retried.

    What is still open was staged since, and stays.
    """
    return replace(job, restage=upload.is_refused(job.release, job.hub))


def done_elsewhere(job: Job) -> str | None:
    """`staged` or `published` when the Hub holds this key and this folder did not make it.

    Such work is not done again: quantizing twice gives other bytes. Where the folder holds an audited
    checkpoint, the stages go on from it instead. Raises Refused when the release was refused.
    """
    if job.restage or job.workspace.evidence("audit").is_file():
        return None
    found = upload.standing(job.release, job.hub)
    if found is None:
        return None
    state = "published" if found.status == "merged" else "staged"
    log.info(f"  {state} already; nothing to do")
    return state


def summary(job: Job, states: dict[str, str]) -> Summary:
    """The release as `run --json` prints it."""
    space = job.workspace
    written = {s: str(space.evidence(s)) for s in ("base", *STAGES) if space.evidence(s).is_file()}
    addresses = {}
    if uploaded := space.existing("upload", UploadEvidence):
        addresses["repo"] = job.hub.url(uploaded.repo_id)
        addresses["pull_request"] = f"{addresses['repo']}/discussions/{uploaded.pr_num}"
    if (space.card / "README.md").is_file():
        addresses["card"] = str(space.card / "README.md")
    return {
        "schema_version": 1,
        "key": job.release.key,
        "base": job.release.base.model_dump(),
        "recipe": job.release.recipe_name,
        "rehearsal": job.release.rehearsal,
        "target_repo": job.release.target_repo,
        "stages": states,
        "evidence": written,
        "addresses": addresses,
        "gates": _verdict(job),
        "work": str(space.root),
    }


def is_refused(stage: str, evidence: dict[str, Any]) -> bool:
    """Whether a stage's evidence says that the release may not go out: it does not serve, or gates block."""
    if stage == "gate":
        return bool(gate.blocking(GatesEvidence.model_validate(evidence)))
    return stage in ("validate", "measure") and evidence["release"]["failure"] is not None


def _verdict(job: Job) -> dict[str, Any] | None:
    """Whether the gates let the release out, and which do not; None before they were asked."""
    judged = job.workspace.existing("gate", GatesEvidence)
    if judged is None:
        return None
    return {
        "passed": not gate.blocking(judged),
        "failed": [each.id for each in judged.results if each.status == "failed"],
        "anomalous": [each.id for each in judged.results if each.status == "anomalous"],
        "overridden": judged.override.gates if judged.override else [],
    }
