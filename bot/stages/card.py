"""Card: README.md, evidence.json and plots, from evidence alone.

Text from outside (model names, data set ids, tool messages) is escaped where it enters the
Markdown; the YAML block is written by a YAML writer and never by the template.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import yaml

from bot import cardlint, figures, plots
from bot.evidence import Evidence
from bot.models import ParameterUse, Release, read_json, write_json
from bot.recipe import Recipe

TEMPLATES = Path(__file__).resolve().parent.parent.parent / "model_cards" / "templates"
PART_NAMES = {
    "language": "language model, kept",
    "embeddings": "embeddings",
    "lm_head": "lm_head",
    "visual": "vision tower",
    "mtp": "MTP head",
}
HUB = "https://huggingface.co"


def render(evidence: Evidence) -> str:
    """The card's README.md, YAML block included."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # Markdown, not HTML: `md` and `code` escape, value by value
        keep_trailing_newline=True,
    )
    environment.filters.update(
        md=markdown,
        code=code,
        fenced=fenced,
        url=url,
        gib=figures.gib,
        count=figures.count,
        percent=figures.percent,
        fixed=figures.fixed,
        seconds=figures.seconds,
        plain=figures.plain,
    )
    body = environment.get_template("card.md.j2").render(_context(evidence))
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


def command(release: Release) -> str:
    """The command that makes this release again."""
    base = f"{release.base.repo_id}@{release.base.revision}"
    settings = [f"{key}={value}" for key, value in release.overrides.items()]
    argv = ["release-bot", "run", base, "--recipe", release.recipe_name]
    return shlex.join([*argv, *(part for each in settings for part in ("--set", each))])


def component_name(part: str, packed: bool) -> str:
    """`language`, packed → `quantized Linear layers`."""
    return "quantized Linear layers" if packed and part == "language" else PART_NAMES[part]


def _context(evidence: Evidence) -> dict[str, Any]:
    report = evidence.audit.report
    recipe = Recipe.model_validate(evidence.release.recipe)
    base = evidence.base
    return {
        "name": evidence.release.target_repo.split("/")[1],
        "prose": recipe.card,
        "release": evidence.release,
        "base": base,
        "base_bits_per_weight": base.tensor_bytes * 8 / base.num_parameters,
        "base_link": _base_link(evidence.release),
        "inventory": report.inventory,
        "components": [
            (component_name(row.part, row.packed), row, row.num_modules if row.packed else row.num_tensors)
            for row in sorted(report.inventory.components, key=lambda row: not row.packed)
        ],
        "distance": report.distance,
        "parameters": _parameters(evidence.quantize.result.parameters),
        "patches": evidence.quantize.result.patches,
        "calibration": evidence.quantize.result.calibration,
        "quantize": evidence.quantize,
        "command": command(evidence.release),
        "repairs": _repairs(evidence),
        "audit": {
            "num_passed": sum(c.status == "passed" for c in report.checks),
            "num_failed": sum(c.status == "failed" for c in report.checks),
            "status": {c.id: c.status for c in report.checks},
            "detail": {c.id: c.detail for c in report.checks},
            "not_applicable": [c.id for c in report.checks if c.status == "skipped"],
        },
        "upload": evidence.upload,
        "plots": plots.PLOTS,
    }


def _parameters(rows: list[ParameterUse]) -> list[tuple[ParameterUse, str]]:
    """What acted, then what the tool ignored, then what is turned off."""

    def effect(row: ParameterUse) -> str:
        off = row.value in (False, None, 0, "none")
        return "yes" if row.acted else "off" if off else "**no**"

    order = {"yes": 0, "**no**": 1, "off": 2}
    return sorted(((row, effect(row)) for row in rows), key=lambda pair: order[pair[1]])


def _base_link(release: Release) -> str:
    """The base as a link; a stand-in on an embedded Hub is named only, since elsewhere it does not exist."""
    name = markdown(release.base.repo_id)
    return name if release.endpoint_kind == "embedded" else f"[{name}]({HUB}/{quote(release.base.repo_id)})"


def _repairs(evidence: Evidence) -> list[tuple[str, str, list[str]]]:
    """Repairs of one kind as one line, with the files or tensors they touched."""
    rows: dict[tuple[str, str], list[str]] = {}
    for action in evidence.repair.report.actions:
        touched = action.tensors or action.files
        rows.setdefault((action.kind, action.detail), []).extend(touched)
    return [(kind, detail, _shortened(sorted(set(things)))) for (kind, detail), things in rows.items()]


def _shortened(names: list[str], most: int = 8) -> list[str]:
    return names if len(names) <= most else [*names[:most], "…"]


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


def markdown(text: object) -> str:
    """Text that cannot become markup: Markdown's own characters are escaped, line breaks folded.

    Nor does a URL or an @mention become a link, where the renderer heeds escapes: markdown-it does;
    cmark-gfm does for URLs, and links e-mail addresses all the same. Such a link shows where it leads.
    """
    escaped = re.sub(r"([\\`*_{}\[\]<>#|~!&@])", r"\\\1", _printable(_folded(text)))
    return re.sub(r"(?i)(www)(?=\.)|(:)(?=//)", lambda m: f"{m[1]}\\" if m[1] else "\\:", escaped)


def code(text: object) -> str:
    """Text as a code span. Backticks cannot end it; a pipe, which would end a table's cell, shows as `¦`."""
    shown = _printable(_folded(text)).strip().replace("|", "¦")
    if not shown:
        return ""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def fenced(text: object) -> str:
    """Text inside a fenced block; it cannot close the fence."""
    return _printable(str(text), keep="\n\t").replace("```", "'''")


def _folded(text: object) -> str:
    return re.sub(r"\s+", " ", str(text))


def _printable(text: str, keep: str = "") -> str:
    """`text` without control and format characters, such as those that turn its direction."""
    return "".join(c for c in text if c in keep or unicodedata.category(c) not in ("Cc", "Cf"))


def url(text: object) -> str:
    """A link target that cannot end its parenthesis; only http and https, else nothing."""
    return quote(str(text), safe=":/?#=&%@+,;~-._") if re.match(r"https?://", str(text)) else ""
