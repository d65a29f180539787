"""What is wrong with a recipe, in a maintainer's words: file, line, field, what was given, did-you-mean.

pydantic finds the mistakes; this says where they stand in the YAML and which spelling was meant.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError


def did_you_mean(given: str, known: list[str]) -> str:
    """The nearest of `known`, or all of them."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def explain(error: ValidationError, model: type[BaseModel], root: yaml.Node | None, where: str) -> str:
    """Each failure as `file:line: field: message (given …)`, all at once."""
    lines = ["the recipe does not hold:"]
    for each in error.errors():
        models, location = _walk(model, each["loc"])
        field = ".".join(str(part) for part in location) or "recipe"
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            known = [name for found in models for name in found.model_fields]
            message = f"unknown field; {did_you_mean(str(location[-1]), known)}"
        elif each["type"] in ("literal_error", "union_tag_invalid"):
            message += _near_choice(each)
        given = json.dumps(each["input"], default=str, ensure_ascii=False)
        shown = "" if len(given) > 80 or each["type"] == "missing" else f" (given {given})"
        lines.append(f"  {where}:{_line_of(root, location)}: {field}: {message}{shown}")
    return "\n".join(lines)


def _near_choice(each: Any) -> str:
    choices = re.findall(
        r"'([^']+)'", str(each["ctx"].get("expected") or each["ctx"].get("expected_tags", ""))
    )
    given = each["input"] if each["type"] == "literal_error" else each["ctx"].get("tag")
    near = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _walk(
    model: type[BaseModel], raw: tuple[int | str, ...]
) -> tuple[list[type[BaseModel]], list[int | str]]:
    """The models that hold the last part of a location, and the location without union tags."""
    models, location = [model], []
    for index, part in enumerate(raw):
        fields = [found.model_fields[part] for found in models if part in found.model_fields]
        if not fields and index + 1 < len(raw) and isinstance(part, str):
            models = [each for each in models if part in str(each.model_fields.get("backend"))] or models
            continue  # the tag of a union stands in the location, and in no file
        location.append(part)
        if index + 1 < len(raw) and fields:
            models = [each for field in fields for each in _models_in(field.annotation)]
    return models, location


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, list, Union) or get_args(annotation):
        for each in get_args(annotation):
            yield from _models_in(each)


def _line_of(node: Any, location: list[int | str]) -> int:
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
