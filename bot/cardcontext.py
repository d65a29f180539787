"""What a card's template is given: plain values from evidence, and what `bot.comparison` derived from it."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import quote

from bot import cardlimits, cardtext, comparison, figures, plots
from bot.cardexamples import card_examples, loader
from bot.comparison import Comparison
from bot.evidence import Evidence, GateResult
from bot.models import ParameterUse, Release
from bot.plots.theme import DARK, LIGHT
from bot.recipe import Recipe
from bot.serving import quirks
from bot.stages import gate

PART_NAMES = {
    "language": "language model, kept",
    "embeddings": "embeddings",
    "lm_head": "lm_head",
    "visual": "vision tower",
    "mtp": "MTP head",
}
HUB = "https://huggingface.co"
# The Hub's own marks for an image that is for one of its two themes (docs: model cards, FAQ).
ONLY_LIGHT, ONLY_DARK = "#hf-light-mode-only", "#hf-dark-mode-only"


def context(evidence: Evidence, compared: Comparison) -> dict[str, Any]:
    """Every name that the templates use."""
    return {
        "name": evidence.release.target_repo.split("/")[1],
        "prose": Recipe.model_validate(evidence.release.recipe).card,
        "release": evidence.release,
        "base": evidence.base,
        "base_link": _link(evidence.release, evidence.release.base.repo_id),
        "command": command(evidence.release),
        "quantize": evidence.quantize,
        "upload": evidence.upload,
        "republished": evidence.republished,
        "house": evidence.house,
        "has_gpu": evidence.measurement.release.engine.hardware.gpu is not None,
        "limits": cardlimits.limits(evidence, compared),
        "plots": _plots(evidence, compared),
        **_measured(evidence, compared),
        **_use(evidence, compared),
        **_verdicts(evidence),
        **_weights(evidence),
    }


def _measured(evidence: Evidence, compared: Comparison) -> dict[str, Any]:
    found = evidence.measurement

    def why(part: str) -> str:
        return comparison.why_absent("release", part, found.release, found.not_measured)

    return {
        "own": found.release,
        "head": found.base,
        "compared": compared,
        "table": comparison.headline_table(compared),
        "why": why,
        "soak_rows": [(_soak_name(each), each) for each in compared.soak],
    }


def _soak_name(point: comparison.SoakPoint) -> str:
    names = {"opening": "opening prompts", "fresh": "the same prompts afterwards"}
    return names.get(point.where) or f"at {figures.count(point.context_tokens)} tokens"


def _use(evidence: Evidence, compared: Comparison) -> dict[str, Any]:
    headlines = [(evidence.release.recipe_name, Recipe.model_validate(evidence.release.recipe).card.headline)]
    headlines += [(each.recipe_name, each.headline) for each in evidence.siblings]
    links = {each.recipe_name: _link(evidence.release, each.repo_id) for each in evidence.siblings}
    return {
        "examples": card_examples(evidence),
        "loader": loader(evidence),
        "quirks": known_issues(evidence),
        "choices": [(name, headline, links.get(name)) for name, headline in headlines],
    }


def known_issues(evidence: Evidence) -> list[quirks.Quirk]:
    """What engines do that readers of this card should know."""
    load = evidence.measurement.release.load
    return quirks.for_card(evidence.measurement.release.subject, drafting=load is None or load.drafting)


def _verdicts(evidence: Evidence) -> dict[str, Any]:
    """The gates; of a release that does not serve only those that say more than that nothing was measured."""
    found, failure = evidence.gates, evidence.measurement.release.failure
    held_back = [each for each in found.results if each.status in gate.BLOCKING]
    if failure is not None:
        held_back = [each for each in held_back if not each.detail.startswith("not measured")]
    return {
        "gates": found,
        "held_back": [_gate_line(each) for each in held_back],
        "not_asked": [_gate_line(each) for each in found.results if each.status == "not_applicable"],
    }


def _gate_line(result: GateResult) -> str:
    """One line of a text block: what a gate saw may hold a model's answer, which is no Markdown."""
    verdict = result.status.replace("_", " ")
    figure = "" if result.value is None else f" ({figures.short(result.value)}"
    limit = "" if result.limit is None else f"limit {figures.short(result.limit)}"
    shown = f"{figure}, {limit})" if figure and limit else f"{figure})" if figure else ""
    return " ".join(f"{result.id}, {verdict}{shown}: {result.detail}".split())


def _weights(evidence: Evidence) -> dict[str, Any]:
    report = evidence.audit.report
    return {
        "inventory": report.inventory,
        "components": [
            (component_name(row.part, row.packed), row, row.num_modules if row.packed else row.num_tensors)
            for row in sorted(report.inventory.components, key=lambda row: not row.packed)
        ],
        "distance": report.distance,
        "parameters": _parameters(evidence.quantize.result.parameters),
        "patches": evidence.quantize.result.patches,
        "calibration": evidence.quantize.result.calibration,
        "repairs": _repairs(evidence),
        "audit": {
            "status": {c.id: c.status for c in report.checks},
            "detail": {c.id: c.detail for c in report.checks},
            "not_applicable": [c.id for c in report.checks if c.status == "skipped"],
        },
    }


def _plots(evidence: Evidence, compared: Comparison) -> dict[str, str]:
    """The Markdown of each plot that there is, by section: its light and its dark picture."""
    found = {}
    for plot in plots.of(evidence, compared):
        alt = cardtext.markdown(plot.alt)
        pair = ((LIGHT, ONLY_LIGHT), (DARK, ONLY_DARK))
        found[plot.section] = "\n".join(f"![{alt}]({plot.path(theme)}{mark})" for theme, mark in pair)
    return found


def _parameters(rows: list[ParameterUse]) -> list[tuple[ParameterUse, str]]:
    """What acted, then what the tool ignored, then what is turned off."""

    def effect(row: ParameterUse) -> str:
        off = row.value in (False, None, 0, "none")
        return "yes" if row.acted else "off" if off else "**no**"

    order = {"yes": 0, "**no**": 1, "off": 2}
    return sorted(((row, effect(row)) for row in rows), key=lambda pair: order[pair[1]])


def _link(release: Release, repo_id: str) -> str:
    """A repo as a link; one on an embedded Hub is named only, since elsewhere it does not exist."""
    name = cardtext.markdown(repo_id)
    return name if release.endpoint_kind == "embedded" else f"[{name}]({HUB}/{quote(repo_id)})"


def _repairs(evidence: Evidence) -> list[tuple[str, str, list[str]]]:
    """Repairs of one kind as one line, with the files or tensors they touched."""
    rows: dict[tuple[str, str], list[str]] = {}
    for action in evidence.repair.report.actions:
        touched = action.tensors or action.files
        rows.setdefault((action.kind, action.detail), []).extend(touched)
    return [(kind, detail, _shortened(sorted(set(things)))) for (kind, detail), things in rows.items()]


def _shortened(names: list[str], most: int = 8) -> list[str]:
    return names if len(names) <= most else [*names[:most], "…"]


def command(release: Release) -> str:
    """The command that makes this release again."""
    base = f"{release.base.repo_id}@{release.base.revision}"
    settings = [f"{key}={value}" for key, value in release.overrides.items()]
    argv = ["release-bot", "run", base, "--recipe", release.recipe_name]
    return shlex.join([*argv, *(part for each in settings for part in ("--set", each))])


def component_name(part: str, packed: bool) -> str:
    """`language`, packed → `quantized Linear layers`."""
    return "quantized Linear layers" if packed and part == "language" else PART_NAMES[part]
