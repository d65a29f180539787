"""Cards to review: golden evidence under a key of its own, its weights staged on an embedded Hub."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

from cards import golden
from measured import canaries, measurement

from bot import naming, plots, repo
from bot.edges.hub import Hub
from bot.evidence import Evidence, MeasureEvidence
from bot.models import UploadEvidence, write_json
from bot.recipe import Recipe
from bot.review import layout
from bot.stages import card, gate, upload

_epochs = itertools.count(1000)
_plots: dict[str, Path] = {}


@dataclass(frozen=True)
class Carded:
    """A card's folder as the bot's own work folder has it, and the evidence it was rendered from."""

    evidence: Evidence
    card: Path

    @property
    def key(self) -> str:
        return self.evidence.release.key

    @property
    def branch(self) -> str:
        return naming.branch(self.key)

    @property
    def folder(self) -> str:
        return layout.folder_of(self.evidence.release.target_repo)


def failing() -> MeasureEvidence:
    """Measurements of which one gate holds the release back: canary.image."""
    return measurement(release={"canaries": canaries(image={"held": False, "answers": ["@eve fixes #1"]})})


def evidence_of(
    uploaded: UploadEvidence | None = None,
    *,
    measured: MeasureEvidence | None = None,
    of: Evidence | None = None,
    name: str = "",
) -> Evidence:
    """Golden evidence as another release: its own epoch makes its own key; its verdicts are its figures'."""
    built = of or golden("nvfp4")
    release = built.release
    if of is None:
        epoch = next(_epochs)
        recipe = Recipe.model_validate(release.recipe)
        update = {
            "toolchain_epoch": epoch,
            "key": naming.release_key(release.base, recipe, epoch),
            "target_repo": f"release-bot/{name or f'Qwen3.5-tiny{epoch}'}-NVFP4",
        }
        release = release.model_copy(update=update)
    found = measured or built.measurement
    thresholds, report = Recipe.model_validate(release.recipe).thresholds, built.audit.report
    digest = gate.inputs_of(thresholds, report, found)
    gates = gate.judge(thresholds, report, found, inputs_digest=digest, override=None)
    staged = uploaded or built.upload.model_copy(update={"repo_id": release.target_repo})
    update = {"release": release, "measurement": found, "gates": gates, "upload": staged}
    return Evidence.model_validate(built.model_copy(update=update).model_dump(mode="json"))


def carded(folder: Path, evidence: Evidence) -> Carded:
    """Render the card of `evidence` below `folder`; plots of the same figures are drawn once."""
    target = folder / f"card-{evidence.release.key}-{len(list(folder.iterdir()))}"
    figures = hashlib.sha256(evidence.measurement.model_dump_json().encode()).hexdigest()
    if figures in _plots:
        shutil.copytree(_plots[figures], target / plots.FOLDER)
        write_json(target / "evidence.json", evidence)
        (target / "README.md").write_text(card.render(evidence), encoding="utf-8")
    else:
        card.render_to(target, evidence)
        _plots[figures] = target / plots.FOLDER
    return Carded(evidence=evidence, card=target)


def stage(folder: Path, hub: Hub, evidence: Evidence) -> Evidence:
    """Bring some weights to the Hub as this release's pull request; the evidence with that upload."""
    weights = folder / f"weights-{evidence.release.key}"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(bytes(range(256)) * 64)
    files = repo.digests(weights, {})
    uploaded = upload.upload(evidence.release, files, inputs_digest="0" * 64, hub=hub)
    return evidence_of(uploaded, of=evidence, measured=evidence.measurement)
