"""The card's lint: what evidence renders to must stand, and nothing may be claimed beside it.

A card is compared line by line with the card that its evidence renders to. Reviewers may edit
prose; they may not add or change a line that holds a figure, an image, a link or HTML, nor take
away or move a heading, a table row, a quote, a list item, a bold statement, a plot or a figure.
Between the marks of a prose region (`bot.prose`) they may also do that, and repeat its own figures.
The rendered card is checked too: a figure in the template or in a recipe's prose that no value
in evidence, nor one derived from it, can take (`figures.forms`) refuses it. Lines of a fenced block
that stand as rendered may hold what elsewhere is a placeholder: an engine's log, a model's answer.
Not covered: figures spelled out in words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bot import figures, prose
from bot.errors import GateFailed, InputError

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
MAX_METADATA_CHARS = 64_000
MAX_METADATA_DEPTH = 16
PLACEHOLDERS = re.compile(
    r"\b(?:TODO|TBD|FIXME)\b"
    # Lower case too, but not as a part of a name such as org/todo-list.
    r"|(?<![\w/.-])(?i:todo|tbd|tba|fixme|xxx+|lorem ipsum|coming soon|fill (?:me )?in|insert (?:text )?here"
    r"|to be (?:done|determined|added|announced|confirmed|filled in|written))(?!\w|[-/]\w)"
    r"|(?i:\byour[-_](?:name|org|repo|model|username|dataset|project)\b)"
    r"|\{\{|\{%|\{#|\{[A-Za-z_][\w.]*\}|<[A-Z][A-Z_ -]+>|\$\{?[A-Z][A-Z_]+\b|%\(\w+\)[sdfgr]|\?\?\?"
    r"|<(?i:insert|your|name|model|repo|org|value|path|todo|tbd)\b[^>]*>"
    r"|\[(?i:insert|your|fill in|add|todo|tbd)\b[^\]]*\]"
    # A value that was not there, where a value stands; "None of …" is a sentence.
    r"|(?:^|[|:=(]|\b(?:is|of)\s)\s*[*`]*(?P<bare>None|NaN|nan|null|NULL|undefined|[+-]?inf)\b[*`]*"
    r"(?=\s*(?:$|[|,;.)%]|(?:GiB|MiB|KiB|s|min|h)\b))"
)
_CLAIMS = {
    "an image": re.compile(r"!\["),
    "a link": re.compile(r"\]\(|\]\[|\]:|://|\bwww\.|\bmailto:|\w@\w", re.IGNORECASE),
    "HTML": re.compile(r"<[A-Za-z/!?]|&#?\w+;"),
    "a code fence": re.compile(r"^[\s>]*(?:```|~~~)"),
}
_FIXED = re.compile(r"\s*(?:#|\||>|[-*+]\s|\*\*|!\[|```|~~~|<!--)")
_FIGURE = re.compile(figures.NUMBER.pattern + r"|\w*\d(?:[\w.,]*\w)?")


def refuse(problems: list[str], where: str) -> None:
    """Raise GateFailed naming every problem of the card at `where`; nothing when there is none."""
    if not problems:
        return
    error = GateFailed(
        f"the card does not hold ({len(problems)}):\n" + "\n".join(f"  - {each}" for each in problems),
        where=where,
        fix="render it again with `release-bot card KEY`; figures change only with their evidence",
    )
    error.problems = list(problems)
    raise error


def read(path: Path) -> str:
    """The card's text. Raises InputError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"the card cannot be read: {e}", where=str(path)) from e


def lint_file(path: Path) -> list[str]:
    """Problems of the card at `path`, whose evidence.json stands beside it.

    Raises InputError when either cannot be read.
    """
    from bot.evidence import Evidence
    from bot.models import read_json
    from bot.stages.card import known_figures, quoted_texts, render

    text = read(path)
    evidence_path = path.with_name("evidence.json")
    if not evidence_path.is_file():
        _, problems = _metadata(text)
        return [*problems, *_placeholder_problems(text), "evidence.json is missing beside the card"]
    evidence = read_json(evidence_path, Evidence)
    known, quoted = known_figures(evidence), quoted_texts(evidence)
    return lint(text, known=known, rendered=render(evidence), quoted=quoted)


def lint(text: str, *, known: set[str], rendered: str, quoted: Sequence[str] = ()) -> list[str]:
    """Every problem of card `text`, whose evidence renders to `rendered`; empty when it holds.

    `known` are the numbers that it may print, `quoted` texts of other programs that it repeats.
    """
    metadata, problems = _metadata(text)
    if metadata is not None:
        expected = _metadata(rendered)[0] or {}
        keys = sorted(map(str, metadata.keys() | expected.keys()))
        wrong = [key for key in keys if key not in metadata or metadata[key] != expected.get(key)]
        problems += [f"metadata {key} is not what the evidence says" for key in wrong]
    outside, outside_rendered = prose.blank(text), prose.blank(rendered)
    return [
        *problems,
        *_placeholder_problems(text, rendered, quoted),
        *_unknown_figures(rendered, known),
        *_region_lines(text, rendered),
        *_added_lines(outside, outside_rendered, known),
        *_missing_lines(outside, outside_rendered),
    ]


def _split(text: str) -> tuple[str, list[str], int]:
    """YAML block, lines of the body, and how many lines stand before the body."""
    match = re.match(r"---\n(.*?)\n---(?:\n|$)", text, re.DOTALL)
    if not match:
        return "", text.split("\n"), 0
    return match[1], text[match.end() :].split("\n"), match[0].count("\n")


def _metadata(text: str) -> tuple[dict[Any, Any] | None, list[str]]:
    """The metadata, None when it cannot be read, and its own problems."""
    block = _split(text)[0]
    if not block:
        return None, ["the card has no YAML metadata block"]
    if len(block) > MAX_METADATA_CHARS:
        return None, [f"the metadata has {len(block)} characters, more than {MAX_METADATA_CHARS}"]
    try:
        if refusal := _unbounded(block):
            return None, [refusal]
        node = yaml.compose(block, Loader=yaml.SafeLoader)
        found = yaml.safe_load(block)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        return None, [f"the metadata is not YAML: {(str(e).splitlines() or [type(e).__name__])[0]}"]
    if not isinstance(found, dict) or not isinstance(node, yaml.MappingNode):
        return None, ["the metadata is not a mapping"]
    counted = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
    problems = [f"metadata has {key} {times} times" for key, times in counted.items() if times > 1]
    problems += [f"metadata lacks {key}" for key in REQUIRED if not found.get(key)]
    if found.get("base_model_relation") not in (None, "quantized"):
        problems.append("metadata base_model_relation is not 'quantized'")
    return found, problems


def _unbounded(block: str) -> str | None:
    """Why reading this YAML could take without bound: aliases and merge keys, or deep nesting."""
    depth = 0
    for event in yaml.parse(block, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            return "the metadata has YAML aliases"
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_METADATA_DEPTH:
            return f"the metadata is nested deeper than {MAX_METADATA_DEPTH}"
    return None


def _fenced_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of every line inside a fenced block."""
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            inside = not inside
        elif inside:
            yield number, line


def _placeholder_problems(text: str, rendered: str = "", quoted: Sequence[str] = ()) -> list[str]:
    """Placeholders in `text`, but not in what it repeats as rendered: a line in a fence, a quoted text."""
    fenced = {line for _, line in _fenced_lines(rendered)}
    exempt = {number for number, line in _fenced_lines(text) if line in fenced}
    standing = set(rendered.split("\n"))
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        shown = re.sub(r"\\([^\w\s]|_)", r"\1", line)
        problems += [
            f"line {number}: placeholder {match['bare'] or match[0].strip()!r}"
            for match in PLACEHOLDERS.finditer(shown)
            if number not in exempt
            and not (line in standing and any(match[0].strip(" |") in each for each in quoted))
        ]
    return problems


def _unknown_figures(rendered: str, known: set[str]) -> list[str]:
    """Figures that the template or prose brought in. `g32` is a name, not a figure."""
    _, lines, before = _split(rendered)
    return [
        f"line {number} as rendered: {value!r} is not in the evidence"
        for number, line in enumerate(lines, before + 1)
        for value in figures.numbers(line)
        if not _is_known(value, known)
    ]


def _added_lines(text: str, rendered: str, known: set[str]) -> list[str]:
    """Lines with a figure or anything that leads elsewhere, which `rendered` has not, or not so often."""
    left = Counter(_split(rendered)[1])
    known = known | {match[0] for line in left for match in _FIGURE.finditer(line)}
    _, lines, before = _split(text)
    problems = []
    for number, line in enumerate(lines, before + 1):
        claims = _claims(line)
        has_figure = _has_figure(line)
        if not claims and not has_figure:
            continue
        if left[line]:
            left[line] -= 1
            continue
        problems += [f"line {number}: {claim} that is not in the rendered card" for claim in claims]
        values = list(dict.fromkeys(match[0].lstrip("+") for match in _FIGURE.finditer(line)))
        unknown = [value for value in values if not _is_known(value, known)]
        problems += [f"line {number}: {value!r} is not in the evidence" for value in unknown]
        if not unknown:
            problems += [f"line {number}: {value!r} is not what the evidence says here" for value in values]
        if has_figure and not values:
            problems.append(f"line {number}: a figure that is not in the rendered card")
    return problems


def _region_lines(text: str, rendered: str) -> list[str]:
    """Lines of prose regions with a figure, or what leads elsewhere, that the rendered regions lack."""
    lines, allowed = text.split("\n"), prose.regions(rendered)
    problems = []
    for region in prose.find(text)[0]:
        standing = allowed.get(region.name, "")
        figures_there = {match[0].lstrip("+") for match in _FIGURE.finditer(standing)}
        for number, line in enumerate(lines[region.first : region.last], region.first + 1):
            if line in standing.split("\n"):
                continue
            problems += [f"line {number}: {each} in prose:{region.name}" for each in _claims(line)]
            values = [match[0].lstrip("+") for match in _FIGURE.finditer(line)]
            problems += [
                f"line {number}: {value!r} does not stand in prose:{region.name} as it is rendered; "
                "a figure changes only with its evidence"
                for value in dict.fromkeys(values)
                if value not in figures_there
            ]
            if _has_figure(line) and not values:
                problems.append(f"line {number}: a figure in prose:{region.name}")
    return problems


def _claims(line: str) -> list[str]:
    """What of a line leads elsewhere, or hides."""
    claims = [name for name, pattern in _CLAIMS.items() if pattern.search(line)]
    if any(unicodedata.category(c) in ("Cc", "Cf") for c in line.replace("\t", " ")):
        claims.append("a control character")
    return claims


def _missing_lines(text: str, rendered: str) -> list[str]:
    """The first line of `rendered` that must stand, and does not, or not in its order."""
    lines = _split(text)[1]
    rest = iter(lines)
    for line in _split(rendered)[1]:
        if (_FIXED.match(line) or _has_figure(line)) and line not in rest:
            what = "is not in its place" if line in lines else "is missing"
            shown = line if len(line) <= 100 else f"{line[:99]}…"
            return [f"the line {shown!r} {what}"]
    return []


def _has_figure(line: str) -> bool:
    return any(unicodedata.category(c).startswith("N") for c in line)


def _is_known(value: str, known: set[str]) -> bool:
    return value.replace(",", "").lstrip("-\N{MINUS SIGN}") in known or value.replace(",", "") in known
