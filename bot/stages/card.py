"""Card: README.md, evidence.json and plots, from evidence alone.

Figures that follow from several others come from `bot.comparison`. Text from outside (names of models and
data sets, tool messages, answers) is escaped by the filters of `bot.cardtext` where it enters the Markdown;
the YAML block is written by a YAML writer and never by the template.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml

from bot import cardlimits, cardlint, cardtext, comparison, figures, plots
from bot.cardexamples import card_examples, loader
from bot.comparison import Comparison
from bot.evidence import Evidence, GateResult
from bot.models import ParameterUse, Release, read_json, write_json
from bot.plots.theme import DARK, LIGHT
from bot.recipe import Recipe
from bot.serving import quirks
from bot.stages import gate

__all__ = ["card_examples", "check", "command", "metadata", "render", "render_to"]

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "model_cards" / "templates"
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


def render(evidence: Evidence) -> str:
    """The card's README.md, YAML block included."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown, not HTML: `md` and `code` escape, value by value
        keep_trailing_newline=True,
    )
    environment.filters.update(
        md=cardtext.markdown,
        code=cardtext.code,
        fenced=cardtext.fenced,
        url=cardtext.url,
        gib=figures.gib,
        count=figures.count,
        percent=figures.percent,
        change=figures.change,
        nats=figures.nats,
        short=figures.short,
        fixed=figures.fixed,
        seconds=figures.seconds,
        plain=figures.plain,
    )
    body = environment.get_template("card.md.j2").render(_context(evidence, comparison.of(evidence)))
    body = re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"
    return f"---\n{metadata(evidence)}---\n\n{body}"


def metadata(evidence: Evidence) -> str:
    """The YAML block that the Hub indexes."""
    base, recipe = evidence.base, Recipe.model_validate(evidence.release.recipe)
    content: dict[str, Any] = {
        "base_model": base.base.repo_id,
        "base_model_relation": "quantized",
        "library_name": recipe.card.library_name,
        "pipeline_tag": base.pipeline_tag,
        "license": base.license,
        "datasets": recipe.datasets(),
        "tags": [*recipe.card.tags, f"release-{evidence.release.key}"],
        "quantized_by": "release-bot",
    }
    if base.license_name:
        content["license_name"] = base.license_name
    if base.license_link:
        content["license_link"] = base.license_link
    if base.languages:
        content["language"] = base.languages
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def known_figures(evidence: Evidence) -> set[str]:
    """Every number that this card may print: of evidence, of what follows from it, and of shipped text."""
    shipped = [*card_examples(evidence).values(), *(each.card or "" for each in _quirks(evidence))]
    shipped += [each.affected for each in _quirks(evidence)]
    derived = comparison.of(evidence).model_dump(mode="json")
    return figures.forms([evidence.model_dump(mode="json"), derived, shipped])


def quoted_texts(evidence: Evidence) -> list[str]:
    """Reasons in other programs' words, which may hold what looks like a placeholder."""
    found = evidence.measurement
    texts = list(found.not_measured.values())
    for each in (found.release, found.base, *([found.fp8] if found.fp8 else [])):
        texts += [each.subject.emulated or "", each.soak.limit if each.soak else ""]
        overlay = each.load.overlay if each.load else []
        texts += [text for item in overlay for text in (item.value, item.why)]
        texts += [(each.speed and each.speed.not_measured) or "", each.equality.why if each.equality else ""]
    return texts


def command(release: Release) -> str:
    """The command that makes this release again."""
    base = f"{release.base.repo_id}@{release.base.revision}"
    settings = [f"{key}={value}" for key, value in release.overrides.items()]
    argv = ["release-bot", "run", base, "--recipe", release.recipe_name]
    return shlex.join([*argv, *(part for each in settings for part in ("--set", each))])


def component_name(part: str, packed: bool) -> str:
    """`language`, packed → `quantized Linear layers`."""
    return "quantized Linear layers" if packed and part == "language" else PART_NAMES[part]


# ── what the template is given ─────────────────────────────────────────────────────────────


def _context(evidence: Evidence, compared: Comparison) -> dict[str, Any]:
    return {
        "name": evidence.release.target_repo.split("/")[1],
        "prose": Recipe.model_validate(evidence.release.recipe).card,
        "release": evidence.release,
        "base": evidence.base,
        "base_link": _link(evidence.release, evidence.release.base.repo_id),
        "command": command(evidence.release),
        "quantize": evidence.quantize,
        "upload": evidence.upload,
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
        "quirks": _quirks(evidence),
        "choices": [(name, headline, links.get(name)) for name, headline in headlines],
    }


def _quirks(evidence: Evidence) -> list[quirks.Quirk]:
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


# ── written and checked ────────────────────────────────────────────────────────────────────


def render_to(folder: Path, evidence: Evidence) -> bool:
    """Write the card into `folder`, all of it or nothing; False when it is there already.

    Raises GateFailed when the lint refuses what was rendered.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".card."))
    try:
        write_json(fresh / "evidence.json", evidence)
        (fresh / "README.md").write_text(render(evidence), encoding="utf-8")
        plots.draw(evidence, fresh)
        cardlint.refuse(cardlint.lint_file(fresh / "README.md"), str(folder / "README.md"))
        if folder.is_dir() and _same(folder, fresh):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        fresh.chmod(0o755)
        fresh.rename(folder)
        return True
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check(folder: Path) -> Evidence:
    """The evidence of a card that holds, plots included. Raises GateFailed naming every problem."""
    evidence = read_json(folder / "evidence.json", Evidence)
    problems = cardlint.lint_file(folder / "README.md") + plots.check(evidence, folder)
    cardlint.refuse(problems, str(folder / "README.md"))
    return evidence


def _same(one: Path, other: Path) -> bool:
    def content(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return content(one) == content(other)
