"""JSON from outside, with bounds: size, values, depth, characters, no duplicate keys where they matter.

A document of a few megabytes can cost gigabytes once parsed, or overflow the stack. Both are
refused before they hurt, as InputError that says which file.
"""

from __future__ import annotations

import json
from typing import Any

from bot.checkpoint.files import Source
from bot.errors import InputError

CONFIG_LIMIT_BYTES = 8 << 20
MAX_VALUES = 2_000_000
MAX_DEPTH = 64

Json = Any


def parse_object(data: bytes, *, where: str, unique: bool = False) -> dict[str, Json]:
    """The JSON object in `data`; InputError when it is none, or a bomb. `unique` refuses duplicate keys."""
    value = parse_json(data, where=where, unique=unique)
    if not isinstance(value, dict):
        raise _refused(f"an object was expected, not {type(value).__name__}", where)
    return value


def parse_json(data: bytes, *, where: str, unique: bool = False) -> Json:
    """The JSON value in `data`, an object or not; otherwise as `parse_object`."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise _refused(f"more than {MAX_VALUES:,} values", where)
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique if unique else None)
    except RecursionError as e:
        raise _refused("it is nested too deeply", where) from e
    except ValueError as e:
        raise _refused(str(e)[:200], where) from e
    if isinstance(value, (dict, list)):
        _check_depth(value, where)
    if b"\\ud" in data or b"\\uD" in data:
        _check_surrogates(value, where)
    return value


def read_object(
    source: Source, path: str, *, limit_bytes: int = CONFIG_LIMIT_BYTES, unique: bool = False
) -> Json:
    """The JSON object in the file `path` of `source`."""
    return parse_object(source.read_small(path, limit_bytes), where=f"{source.label}: {path}", unique=unique)


def dump(value: Json) -> bytes:
    """JSON as the bot writes it: two spaces, keys in their order, one newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _check_depth(value: Json, where: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (v for each in level for v in (each.values() if isinstance(each, dict) else each))
        level = [v for v in inner if isinstance(v, (dict, list))]
        if not level:
            return
    raise _refused(f"more than {MAX_DEPTH} levels deep", where)


def _check_surrogates(value: Json, where: str) -> None:
    """Half of a surrogate pair is no character: it can be neither printed nor written."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as e:
        raise _refused("it holds a lone surrogate, which is no character", where) from e


def _refused(what: str, where: str) -> InputError:
    return InputError(
        f"not a usable JSON document: {what}",
        where=where,
        why="the file is damaged, cut short, or made to harm",
        fix="restore the file from where it came",
    )
