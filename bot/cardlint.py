"""The card's lint: complete metadata, no placeholder, and no number without evidence.

A number passes when it is a form of something evidence holds (`figures.forms`) *and* stands
with the same word after it in the card that evidence renders to. The first catches a figure
written into the template, the second one that a hand edited.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from bot import figures
from bot.errors import InputError

REQUIRED = (
    "base_model",
    "base_model_relation",
    "library_name",
    "pipeline_tag",
    "license",
    "datasets",
    "tags",
    "quantized_by",
)
PLACEHOLDERS = re.compile(
    r"\b(TODO|TBD|FIXME|XXX+|lorem ipsum|coming soon|to be (?:done|determined|added)|fill (?:me )?in|"
    r"your[-_ ](?:name|org|repo|model)|undefined|None|nan|NaN|inf)\b"
    r"|\{\{|\}\}|\{%|<(?:insert|your|name|model|repo|org|value|path)[^>]*>|\[(?:insert|your)[^\]]*\]|\?\?\?|%\([a-z_]+\)s",
)


def lint_file(path: Path) -> list[str]:
    """Problems of the card at `path`, whose evidence.json stands beside it.

    Raises InputError when either cannot be read.
    """
    from bot.evidence import Evidence
    from bot.models import read_json
    from bot.stages.card import render

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"the card cannot be read: {e}", where=str(path)) from e
    evidence_path = path.with_name("evidence.json")
    if not evidence_path.is_file():
        return [
            *_metadata_problems(text),
            *_placeholder_problems(text),
            "evidence.json is missing beside the card",
        ]
    evidence = read_json(evidence_path, Evidence)
    return lint(text, evidence.model_dump(mode="json"), rendered=render(evidence))


def lint(text: str, evidence: dict[str, Any], *, rendered: str) -> list[str]:
    """Every problem of card `text`; empty when it holds."""
    return [
        *_metadata_problems(text),
        *_placeholder_problems(text),
        *_number_problems(text, evidence, rendered),
        *_plot_problems(text, rendered),
    ]


def _metadata_problems(text: str) -> list[str]:
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not match:
        return ["the card has no YAML metadata block"]
    try:
        found = yaml.safe_load(match[1])
    except yaml.YAMLError as e:
        return [f"the metadata is not YAML: {str(e).splitlines()[0]}"]
    if not isinstance(found, dict):
        return ["the metadata is not a mapping"]
    problems = [f"metadata lacks {key}" for key in REQUIRED if not found.get(key)]
    if found.get("base_model_relation") not in (None, "quantized"):
        problems.append(f"base_model_relation is {found['base_model_relation']!r}, not 'quantized'")
    return problems


def _placeholder_problems(text: str) -> list[str]:
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        problems += [f"line {number}: placeholder {match[0]!r}" for match in PLACEHOLDERS.finditer(line)]
    return problems


_WITH_UNIT = re.compile(figures.NUMBER.pattern + r"\s?(?P<unit>[%\w./]*)")


def _figures(text: str) -> list[tuple[int, str, str]]:
    """(line, number, what follows it) for each number in `text`."""
    found = []
    for line_number, line in enumerate(text.splitlines(), 1):
        for match in _WITH_UNIT.finditer(line):
            value = figures.numbers(match[0])[:1]
            found += [(line_number, each, match["unit"]) for each in value]
    return found


def _number_problems(text: str, evidence: dict[str, Any], rendered: str) -> list[str]:
    known = figures.forms(evidence)
    allowed = Counter((value, unit) for _, value, unit in _figures(rendered))
    problems = []
    for line, value, unit in _figures(text):
        shown = f"{value} {unit}".strip()
        if value not in known and value.lstrip("-\N{MINUS SIGN}") not in known:
            problems.append(f"line {line}: {shown!r} is not in the evidence")
        elif allowed[value, unit] == 0:
            problems.append(f"line {line}: {shown!r} is not what the evidence says here")
        else:
            allowed[value, unit] -= 1
    return problems


def _plot_problems(text: str, rendered: str) -> list[str]:
    pattern = re.compile(r"!\[[^\]]*\]\(([^)]*)\)")
    known = set(pattern.findall(rendered))
    return [
        f"image {path!r} is not one of this card's plots"
        for path in pattern.findall(text)
        if path not in known
    ]
