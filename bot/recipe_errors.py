"""What is wrong with a recipe, in a maintainer's words: file, line, field, what was given, did-you-mean.

pydantic finds the mistakes; this says where they stand in the YAML and which spelling was meant.
A rule over several fields raises `Impossible`, which names them: pydantic itself would point at
the model that holds them.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from bot.errors import RecipeError

Location = tuple[int | str, ...]
SHOWN_LIMIT = 80


class Impossible(ValueError):
    """A rule that fields break together; `fields` are dotted paths below the model, the guiltiest first."""

    def __init__(self, message: str, *fields: str) -> None:
        super().__init__(message)
        self.fields = fields


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One mistake. `line` is None where no file holds the value (`--set`), `given` where nothing was."""

    file: str
    line: int | None
    field: str
    message: str
    given: Any

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        given = "" if self.given is None else _shown(self.given)
        return f"{where}: {self.field}: {self.message}" + (
            f" (given {given})" if 0 < len(given) <= SHOWN_LIMIT else ""
        )


def refusal(problems: list[Problem], *, fix: str) -> RecipeError:
    """The error that says all of `problems`, as text and (`problems`) as values that JSON can hold."""
    error = RecipeError("\n  ".join(["the recipe does not hold:", *map(str, problems)]), fix=fix)
    error.problems = [{**asdict(each), "given": _plain(each.given)} for each in problems]
    return error


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except (TypeError, ValueError):  # a key that is a date; a number of 5,000 digits
        return str(type(value).__name__)


def _plain(value: Any) -> Any:
    """`value` if it is short and JSON; otherwise its beginning as text."""
    shown = _shown(value)
    try:
        short = json.dumps(value, allow_nan=False) and len(shown) <= SHOWN_LIMIT
    except (TypeError, ValueError):
        short = False
    return value if short else shown[:SHOWN_LIMIT]


def did_you_mean(given: str, known: list[str]) -> str:
    """The nearest of `known`, or all of them."""
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def dotted(location: Location) -> str:
    return ".".join(str(part) for part in location) or "recipe"


def explain(
    error: ValidationError,
    model: type[BaseModel],
    content: Any,
    *,
    where: str,
    line_of: Callable[[Location], int],
    overrides: dict[str, str],
) -> list[Problem]:
    """Each failure with its place: a line of the file, or the `--set` that gave the value.

    `content` is what was validated, `overrides` the `--set` values that are already in it.
    """
    return [_problem(each, model, content, where, line_of, overrides) for each in error.errors()]


def _problem(
    each: Any,
    model: type[BaseModel],
    content: Any,
    where: str,
    line_of: Callable[[Location], int],
    overrides: dict[str, str],
) -> Problem:
    models, location = _walk(model, each["loc"])
    message = each["msg"].removeprefix("Value error, ")
    cause = each.get("ctx", {}).get("error")
    if each["type"] == "extra_forbidden":
        known = [name for found in models for name in found.model_fields]
        message = f"unknown field; {did_you_mean(str(location[-1]), known)}"
    elif each["type"] == "union_tag_not_found":
        location, message = (*location, "backend"), "Field required: it says which tool quantizes"
    elif each["type"] == "union_tag_invalid":
        location, message = (*location, "backend"), f"Input should be one of {each['ctx']['expected_tags']}"
    if each["type"] in ("literal_error", "union_tag_invalid"):
        message += _near_choice(each)
    if isinstance(cause, Impossible):
        candidates = [location + _parts(field) for field in cause.fields] or [location]
        location = next((c for c in candidates if _override_of(c, overrides)), candidates[0])
    given = None if each["type"] == "missing" else _value_at(content, location)
    override = _override_of(location, overrides)
    return Problem(
        file=f"--set {override}" if override else where,
        line=None if override else line_of(location),
        field=dotted(location),
        message=message,
        given=given,
    )


def _parts(path: str) -> Location:
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def _override_of(location: Location, overrides: dict[str, str]) -> str:
    """The last `path=value` that set the value at `location`, or what holds it; "" when none did."""
    found = ""
    for path, value in overrides.items():
        parts = path.split(".")
        if len(parts) <= len(location) and all(
            p in ("*", str(at)) for p, at in zip(parts, location, strict=False)
        ):
            found = f"{path}={value}"
    return found


def _value_at(content: Any, location: Location) -> Any:
    for part in location:
        known = (
            content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
        )
        if part not in known:
            return None
        content = content[part]
    return content


def _near_choice(each: Any) -> str:
    choices = re.findall(
        r"'([^']+)'", str(each["ctx"].get("expected") or each["ctx"].get("expected_tags", ""))
    )
    given = each["input"] if each["type"] == "literal_error" else each["ctx"].get("tag")
    near = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _walk(model: type[BaseModel], raw: Location) -> tuple[list[type[BaseModel]], Location]:
    """The models that hold the last part of a location, and the location without union tags."""
    models, location = [model], list[int | str]()
    for index, part in enumerate(raw):
        if len(models) > 1:  # the tag of a union stands in the location, and in no file
            tags = [get_args(each.model_fields["backend"].annotation) for each in models]
            tagged = [each for each, known in zip(models, tags, strict=True) if part in known]
            if tagged:
                models = tagged
                continue
        if part == "[key]":  # pydantic's mark for a mapping's key rather than its value
            continue
        fields = [found.model_fields[part] for found in models if part in found.model_fields]
        location.append(part)
        if index + 1 < len(raw) and fields:
            models = [each for field in fields for each in _models_in(field.annotation)] or models
    return models, tuple(location)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, list, Union) or get_args(annotation):
        for each in get_args(annotation):
            yield from _models_in(each)
