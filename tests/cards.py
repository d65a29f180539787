"""Whole evidence for tests of cards: the build of a golden card, with plausible measurements."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from measured import divergence, measurement, release, speeds, subject

from bot.evidence import Evidence, MeasureEvidence, Override, Sibling
from bot.models import read_json
from bot.recipe import Recipe
from bot.stages import gate

GOLDEN = Path(__file__).resolve().parent / "fixtures" / "cards"


@cache
def golden(name: str) -> Evidence:
    """The evidence of a golden card."""
    return read_json(GOLDEN / name / "evidence.json", Evidence)


def judged(
    found: MeasureEvidence | None = None,
    *,
    recipe: str = "gptq-foem-g32",
    siblings: list[Sibling] | None = None,
    override: Override | None = None,
) -> Evidence:
    """The golden build with another measurement and its verdicts; without one, a good one."""
    built, measured = golden(recipe), found or measurement()
    thresholds = Recipe.model_validate(built.release.recipe).thresholds
    gates = gate.judge(thresholds, built.audit.report, measured, inputs_digest="f" * 64, override=override)
    update = {"measurement": measured, "gates": gates, "siblings": siblings or []}
    return Evidence.model_validate(built.model_copy(update=update).model_dump(mode="json"))


def sibling(name: str, **changes: Any) -> Sibling:
    """The release of another recipe, measured where `measured.measurement` was."""
    built = golden(name)
    inventory = built.audit.report.inventory
    fields: dict[str, Any] = {
        "recipe_name": name,
        "headline": built.release.recipe["card"]["headline"],
        "repo_id": built.release.target_repo,
        "key": built.release.key,
        "total_bytes": inventory.total_bytes,
        "bits_per_weight": inventory.bits_per_weight,
        "quantized_bits_per_weight": inventory.quantized_bits_per_weight,
        "relative_error": built.audit.report.distance.relative_error,
        "passed": True,
        "measured": release(
            subject=subject(name=built.release.target_repo),
            divergence=divergence(0.03),
            speed=speeds(100.0),
        ),
    }
    return Sibling(**{**fields, **changes})


def siblings_of(name: str) -> list[Sibling]:
    """Two other recipes: one that runs natively, and NVFP4, emulated."""
    why = "it needs FP4 matrix units; this GPU's compute capability is 9.0"
    none = {"rows": [], "not_measured": why, "command": "", "wall_s": 0.0}
    emulated = release(
        subject=subject(packing="nvfp4", emulated=why),
        divergence=divergence(0.041),
        speed=speeds(1.0, **none),
        speed_plain=speeds(1.0, drafting=False, **none),
    )
    others = [sibling("gptq-w4a16-g128"), sibling("nvfp4", measured=emulated)]
    return [each for each in others if each.recipe_name != name]
