"""A recipe as text: what YAML is allowed in it, on which line a field stands, and pins written into it.

A recipe shows each value where it acts, once. So aliases, merge keys, explicit tags and a key that
is stated twice (of which YAML keeps the last, silently) are refused, each with its line.

Pins are written by slices at the nodes' marks: whatever lies between, comments and spacing
included, stays byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from bot.errors import RecipeError
from bot.recipe_errors import Location, Problem, did_you_mean, dotted, refusal

SIZE_LIMIT = 256_000
_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """The nodes (for their lines) and the values of `text`; `where` is named in errors.

    Raises RecipeError for what is no YAML, and for YAML that a recipe must not use.
    """
    if len(text) > SIZE_LIMIT:
        raise refused(where, 1, "larger than 256 kB", fix="a recipe is a page, not a data file")
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            _refuse_event(event, where)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        problems = list(_repeated(node, (), where))
        if problems:
            raise refusal(problems, fix="keep one of the two, at the place where it belongs")
        return node, yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        problem = getattr(e, "problem", None) or str(e).splitlines()[0]
        raise refused(
            where, mark.line + 1 if mark else 1, f"not YAML: {problem}", fix="mend the syntax there"
        ) from e
    except (ValueError, OverflowError) as e:  # a date such as 2026-13-01, a number of 5,000 digits
        raise refused(where, 1, f"a value cannot be read: {e}", fix="quote it, or mend it") from e
    except RecursionError as e:
        raise refused(where, 1, "nested too deeply", fix="a recipe has a few levels") from e


def refused(
    file: str, line: int | None, message: str, *, fix: str, field: str = "recipe", given: object = None
) -> RecipeError:
    """The error for one problem."""
    return refusal([Problem(file=file, line=line, field=field, message=message, given=given)], fix=fix)


def _refuse_event(event: yaml.Event, where: str) -> None:
    line = event.start_mark.line + 1 if event.start_mark else 1
    if isinstance(event, yaml.AliasEvent):
        raise refused(
            where,
            line,
            "aliases (*name) are not allowed: a recipe shows each value where it acts",
            fix="write the value out",
        )
    tag = getattr(event, "tag", None)
    if tag is not None:
        raise refused(
            where, line, f"tags ({tag}) are not allowed: a recipe holds plain values", fix="drop it"
        )


def _repeated(node: yaml.Node | None, location: Location, where: str) -> Iterator[Problem]:
    """Merge keys, and keys that a mapping above them has already, at any level."""
    if isinstance(node, yaml.SequenceNode):
        for index, each in enumerate(node.value):
            yield from _repeated(each, (*location, index), where)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # no such key can be read: the constructor refuses it
            line = key.start_mark.line + 1
            here = (*location, key.value)
            given = value.value if isinstance(value, yaml.ScalarNode) else None
            message = ""
            if key.tag == _MERGE:
                message = "merge keys (<<) are not allowed: a recipe shows each value where it acts"
            elif (key.tag, key.value) in lines:
                message = (
                    f"stated twice, first on line {lines[key.tag, key.value]}; YAML would drop the first"
                )
            if message:
                yield Problem(file=where, line=line, field=dotted(here), message=message, given=given)
            lines.setdefault((key.tag, key.value), line)
            yield from _repeated(value, here, where)


def line_of(node: yaml.Node | None, location: Location) -> int:
    """The line of the deepest node along `location` that the text has."""
    line = node.start_mark.line + 1 if node else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                return int(line)
            key, node = found[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return int(line)


# ── --set ──────────────────────────────────────────────────────────────────────────────────


def override(content: Any, path: str, text: str) -> None:
    """Set `a.b.0.c` (or `a.b.*.c`: every element) in `content` to the YAML value `text`."""
    shown = f"--set {path}={text}"
    try:
        read_yaml(text, shown)
    except RecipeError as e:
        message = e.problems[0]["message"]
        raise refused(shown, None, message, field=path, fix="for example --set method.mse=2.4") from e
    targets = [content]
    *parents, last = path.split(".")
    for head in parents:
        targets = [each[key] for each in targets for key in _keys(each, head, path, shown, new=False)]
    for each in targets:
        for key in _keys(each, last, path, shown, new=True):
            each[key] = read_yaml(text, shown)[1]


def _keys(content: Any, head: str, path: str, shown: str, *, new: bool) -> list[Any]:
    """The keys or indices of `content` that `head` names; a field may be new where the schema judges it."""
    if isinstance(content, list):
        if head == "*":
            return list(range(len(content)))
        if head.isascii() and head.isdigit() and int(head) < len(content):
            return [int(head)]
        message, fix = f"{head!r} is not an index below {len(content)}", "use a number or *"
    elif isinstance(content, dict):
        if new or head in content:
            return [head]
        message, fix = f"no field {head!r}", did_you_mean(head, [str(key) for key in content])
    else:
        message, fix = "it goes below a plain value", "name a field that the recipe has"
    raise refused(shown, None, message, field=path, fix=fix)


# ── pins ───────────────────────────────────────────────────────────────────────────────────


def pin_text(text: str, revisions: dict[str, str]) -> str:
    """`text` with the revision of each data set in `revisions` replaced; all else as it was.

    Raises RecipeError for a revision that is written over several lines.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    slices: list[tuple[int, int, str]] = []
    for each in _set_nodes(root):
        dataset, revision = _child(each, "dataset"), _child(each, "revision")
        if isinstance(dataset, yaml.ScalarNode) and isinstance(revision, yaml.ScalarNode):
            wanted = revisions.get(dataset.value, str(revision.value))
            if wanted != revision.value:
                start, end = revision.start_mark.index, revision.end_mark.index
                slices.append((start, end, _scalar(wanted, text[start])))
    for start, end, written in sorted(slices, reverse=True):
        text = text[:start] + written + text[end:]
    return text


def _set_nodes(root: yaml.Node | None) -> list[yaml.Node]:
    """The mappings of `calibration.sets` and `evaluation`."""
    sets = _child(_child(root, "calibration"), "sets")
    found = [*(sets.value if isinstance(sets, yaml.SequenceNode) else []), _child(root, "evaluation")]
    return [each for each in found if each is not None]


def _child(node: yaml.Node | None, name: str) -> yaml.Node | None:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _scalar(value: str, first: str) -> str:
    """`value` in the quotes that stood there; in double quotes where YAML would read it as a number."""
    if first in "|>":
        raise RecipeError("a revision is a block of lines", fix="write it on the line of its key")
    quote = first if first in "\"'" else "" if yaml.safe_load(value) == value else '"'
    return f"{quote}{value}{quote}"
