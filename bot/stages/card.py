"""Card: README.md, evidence.json and plots, from evidence alone.

Figures that follow from several others come from `bot.comparison`. Text from outside (names of models and
data sets, tool messages, answers) is escaped by the filters of `bot.cardtext` where it enters the Markdown;
the YAML block is written by a YAML writer and never by the template. What a reviewer wrote into a card's
prose regions (`bot.prose`) is kept when it is rendered again.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml

from bot import cardcompare, cardcontext, cardlint, cardtext, comparison, figures, plots, prose
from bot.cardexamples import card_examples
from bot.evidence import Evidence
from bot.models import read_json, write_json
from bot.recipe import Recipe

__all__ = ["card_examples", "check", "edited", "metadata", "render", "render_to"]

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "model_cards" / "templates"


def render(evidence: Evidence, kept: Mapping[str, str] | None = None) -> str:
    """The card's README.md, YAML block included; `kept` are prose regions in a reviewer's words."""
    context = cardcontext.context(evidence, comparison.of(evidence))
    body = _environment(TEMPLATES).get_template("card.md.j2").render(context)
    body = re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"
    return prose.splice(f"---\n{metadata(evidence)}---\n\n{body}", kept or {})


@cache
def _environment(templates: Path) -> jinja2.Environment:
    """Templates are compiled once a process: a check renders several cards."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown, not HTML: `md` and `code` escape, value by value
        keep_trailing_newline=True,
    )
    environment.filters.update(
        md=cardtext.markdown,
        code=cardtext.code,
        fenced=cardtext.fenced,
        broken=cardtext.broken,
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
    return environment


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
    shipped = [*card_examples(evidence).values()]
    shipped += [f"{each.affected} {each.card}" for each in cardcontext.known_issues(evidence)]
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


# ── written and checked ────────────────────────────────────────────────────────────────────


def edited(text: str, evidence: bytes) -> dict[str, str]:
    """The prose regions of a card that somebody rewrote: those that its own evidence renders otherwise.

    All of them where that evidence cannot be read: words of a person are never dropped.
    """
    found = prose.regions(text)
    try:
        rendered = prose.regions(render(Evidence.model_validate_json(evidence)))
    except ValueError:
        return found
    return {name: words for name, words in found.items() if words != rendered.get(name)}


def _edited_in(folder: Path) -> dict[str, str]:
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        return edited(text, (folder / "evidence.json").read_bytes())
    except (OSError, UnicodeDecodeError):
        return {}


def render_to(folder: Path, evidence: Evidence, kept: Mapping[str, str] | None = None) -> bool:
    """Write the card into `folder`, all of it or nothing; False when it is there already.

    Prose that was rewritten in a card that stands there is kept, unless `kept` says otherwise. Raises
    GateFailed when the lint refuses what was rendered.
    """
    words = _edited_in(folder) if kept is None else kept
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".card."))
    try:
        write_json(fresh / "evidence.json", evidence)
        (fresh / "README.md").write_text(render(evidence, words), encoding="utf-8")
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
    cardlint.refuse(problems(folder, evidence), str(folder / "README.md"))
    return evidence


def problems(folder: Path, evidence: Evidence) -> list[str]:
    """What is wrong with the card in `folder`: edited outside its prose regions, claims, plots, placeholders.

    Raises InputError when the card cannot be read.
    """
    text = cardlint.read(folder / "README.md")
    differences = cardcompare.compare(text, render(evidence))
    places = {each.partition(":")[0] for each in differences if each.startswith("line ")}
    linted = [
        each
        for each in cardlint.lint_file(folder / "README.md")
        if each.partition(":")[0] not in places and not (differences and each.startswith("the line "))
    ]
    return [*differences, *linted, *plots.check(evidence, folder)]


def _same(one: Path, other: Path) -> bool:
    def content(folder: Path) -> dict[str, bytes]:
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return content(one) == content(other)
