"""`release-bot measure PATH_OR_REPO` and `compare A B`: any checkpoints, without a release.

With a base, the checkpoint is held to the same gates as a release; without one, only what needs no comparison
is told, and no verdict is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot import comparison, examinations, job, log
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
class Found:
    """What was found of one checkpoint; `base` and `gates` where there was one to hold it to."""

    one: Examined
    base: Examined | None
    gates: GatesEvidence | None

    @property
    def refused(self) -> bool:
        """Whether the checkpoint does not serve, or a gate stands in its way."""
        return self.one.failure is not None or bool(self.gates and gate.blocking(self.gates))

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "schema_version": 1,
            "measured": self.one.model_dump(mode="json"),
            "base": self.base.model_dump(mode="json") if self.base else None,
            "gates": [each.model_dump(mode="json") for each in self.gates.results] if self.gates else None,
            "passed": None if self.gates is None else not self.refused,
        }

    def as_text(self) -> str:
        """Tables for a terminal."""
        shown = log.table(comparison.COLUMNS, comparison.examined_rows([self.base, self.one]))
        if self.one.failure:
            shown += f"\n\n{self.one.subject.name} does not serve: {self.one.failure.what}"
        return shown + (f"\n\n{log.table(gate.COLUMNS, gate.rows(self.gates))}" if self.gates else "")


def measure(asked: Asked, text: str, base_text: str | None) -> Found:
    """Measure the checkpoint `text`, beside the base `base_text` and by the gates where one is named.

    Raises EngineError when the engine fails; what was measured is kept and the next run goes on from it.
    """
    if base_text is None:
        alone = asked.examination(text, "other")
        return Found(one=examined(alone, complete(alone)), base=None, gates=None)
    base = asked.examination(base_text, "base")
    require_serves(base, complete(base))
    one = asked.examination(text, "release", base)
    failure = complete(one)
    gates = _judged(asked.recipe, one, base, failure)
    return Found(one=examined(one, failure), base=examined(base), gates=gates)


def _judged(recipe: Recipe, one: Examination, base: Examination, failure: Failure | None) -> GatesEvidence:
    report = audit(FolderSource(one.subject.folder), base=FolderSource(base.subject.folder), recipe=recipe)
    measured = MeasureEvidence(
        inputs_digest=one.subject.facts.fingerprint,
        wall_s=0.0,
        release=examined(one, failure),
        base=examined(base),
        fp8=None,
        not_measured={"fp8": "only what was named was measured"},
    )
    bound_to = gate.inputs_of(recipe.thresholds, report, measured)
    return gate.judge(recipe.thresholds, report, measured, inputs_digest=bound_to, override=None)


def compare(asked: Asked, one_text: str, other_text: str) -> Found:
    """`other_text` beside `one_text`, which is the reference of the divergence; no verdict."""
    one = asked.examination(one_text, "base")
    require_serves(one, complete(one))
    other = asked.examination(other_text, "other", one)
    return Found(one=examined(other, complete(other)), base=examined(one), gates=None)
