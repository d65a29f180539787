"""`release-bot measure PATH_OR_REPO` and `compare A B`: any checkpoints, without a release.

With a base, the checkpoint is held to the same gates as a release; without one, only what needs no comparison
is told, and no verdict is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot import examinations, job, log
from bot import recipe as recipes
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.reading import Checkpoint, read_checkpoint
from bot.config import Config
from bot.edges.hub import Hub
from bot.evidence import GatesEvidence, MeasureEvidence
from bot.measurements import Examined, Failure, Role
from bot.recipe import Recipe
from bot.recipe_pins import for_embedded_hub
from bot.serving import engine as engines
from bot.serving import evaluation_text
from bot.serving.engine import Engine
from bot.serving.examination import Examination, examined
from bot.serving.subject import packing_of
from bot.stages import gate
from bot.stages.audit import audit
from bot.stages.measure import complete
from bot.stages.validate import require_serves


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What both commands need: the engine, the Hub, and by which recipe's evaluation things are measured."""

    engine: Engine
    hub: Hub
    config: Config
    recipe: Recipe
    dataset: Path

    def examination(self, text: str, role: Role, reference: Examination | None = None) -> Examination:
        """The checkpoint that `text` names."""
        return examinations.of_source(
            text,
            self.engine,
            hub=self.hub,
            config=self.config,
            recipe=self.recipe,
            role=role,
            dataset=self.dataset,
            reference=reference,
        )


def ask(text: str, recipe_name: str | None, overrides: dict[str, str], hub: Hub, config: Config) -> Asked:
    """Prepare to measure `text`; without a recipe's name, by the recipe that packs as it is packed."""
    name = recipe_name or _recipe_like(examinations.locate(text, hub).folder)
    recipe = job.load_recipe(name, overrides)
    if hub.embedded:
        recipe, _ = for_embedded_hub(recipe, hub)
    engine = engines.ready(config.home)
    dataset = evaluation_text.fetch(recipe.evaluation, hub)
    return Asked(engine=engine, hub=hub, config=config, recipe=recipe, dataset=dataset)


def _recipe_like(folder: Path) -> str:
    checkpoint = read_checkpoint(FolderSource(folder))
    packing, group_size = packing_of(checkpoint.quantization), _group_size(checkpoint)
    found = [recipes.load(name) for name in recipes.names()]
    same = [each for each in found if each.method.packing == packing]
    nearest = [each for each in same if each.method.group_size == group_size] or same or found
    log.info(f"  measured as the recipe {nearest[0].name} says (--recipe names another)")
    return nearest[0].name


def _group_size(checkpoint: Checkpoint) -> Any:
    return (checkpoint.quantization or {}).get("group_size")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found of one checkpoint; `gates` where there was a base to hold it to."""

    found: Examined
    base: Examined | None
    gates: GatesEvidence | None


def measure(asked: Asked, text: str, base_text: str | None) -> Measured:
    """Measure the checkpoint `text`, beside the base `base_text` and by the gates where one is named.

    Raises EngineError when the engine fails; what was measured is kept and the next run goes on from it.
    """
    base = asked.examination(base_text, "base") if base_text else None
    if base:
        require_serves(base, complete(base))
    one = asked.examination(text, "release" if base else "other", base)
    failure = complete(one)
    if base is None:
        return Measured(found=examined(one, failure), base=None, gates=None)
    return Measured(
        found=examined(one, failure), base=examined(base), gates=_judged(asked.recipe, one, base, failure)
    )


def _judged(recipe: Recipe, one: Examination, base: Examination, failure: Failure | None) -> GatesEvidence:
    report = audit(FolderSource(one.subject.folder), base=FolderSource(base.subject.folder), recipe=recipe)
    measured = MeasureEvidence(
        inputs_digest=one.subject.facts.fingerprint,
        wall_s=0.0,
        release=examined(one, failure),
        base=examined(base),
        fp8=None,
        not_measured={},
    )
    inputs = one.subject.facts.fingerprint
    return gate.judge(recipe.thresholds, report, measured, inputs_digest=inputs, override=None)


def compare(asked: Asked, one_text: str, other_text: str) -> MeasureEvidence:
    """`other_text` beside `one_text`, which is the reference of the divergence."""
    one = asked.examination(one_text, "base")
    require_serves(one, complete(one))
    other = asked.examination(other_text, "release", one)
    failure = complete(other)
    return MeasureEvidence(
        inputs_digest=other.subject.facts.fingerprint,
        wall_s=0.0,
        release=examined(other, failure),
        base=examined(one),
        fp8=None,
        not_measured={},
    )
