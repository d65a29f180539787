"""Reading an engine's log: what it means, without what it merely repeats.

A line of vLLM has a process, a level, a clock and a source position before its text; a failure is told three
times, in the tracebacks of worker, engine and API server. Here the texts that mean something are picked:
exceptions with what belongs to them, errors, and the words just before. Evidence may hold them, so this
machine's folders and anything that looks like a secret are masked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from bot import log

Lines = Sequence[str]
TAIL_LINES: Final = 8
CONTEXT_LINES: Final = 2
MAX_LINE: Final = 400

_PREFIX = re.compile(
    r"^(?:\([\w-]+ pid=\d+\) ?)?"
    r"(?:(?P<level>DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:]+ \[[\w.]+:\d+\] ?)?"
)
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)\b(?::|$)")
_HEADER = re.compile(r"^(?:Traceback \(most recent call last\)|During handling of|The above exception was)")
# What vLLM says at every end and every start, and pydantic's own words around a message.
_NOISE = re.compile(
    r"Engine core initialization failed|WorkerProc (?:initialization )?failed|EngineCore failed to start"
    r"|For further information visit|\d+ validation errors? for|^\[shutdown\]|resource_tracker|^Process \w+:"
    r"|^Found ulimit|^Dumping |^non-default args|^Triton is installed"
)
_LISTS = re.compile(r" Supported architectures: dict_keys.*| Must be one of \[.*| \[type=\w+, input_value=.*")
_PATH = re.compile(r"(?<![\w/.:~-])(?:~|/(?!v1/))[\w.@+~=-]*(?:/[\w.@+~=-]+)+")
_SECRET = re.compile(r"\b(?:hf_\w{8,}|gh[a-z]_\w{8,}|sk-[\w-]{8,}|Bearer\s+\S+)")


def cause(lines: Lines) -> str:
    """The first exception of a log, or its first error, or ""."""
    errors = telling(lines)
    exceptions = [text for text in errors if _EXCEPTION.match(text)]
    return said((exceptions or errors or [""])[0])


def said(text: str) -> str:
    """A text as the one line of an error."""
    return cut(text.strip().removeprefix("Value error, "))


def tail(lines: Lines) -> list[str]:
    """The last lines that mean something: errors, and what was said just before the first.

    Tracebacks' frames, prefixes with process ids and clocks, repetitions, paths and secrets are left out, and
    what vLLM says at every end.
    """
    errors = list(dict.fromkeys(telling(lines)))[-TAIL_LINES:]
    before = _before(lines, errors[0] if errors else None)
    room = min(TAIL_LINES - len(errors), CONTEXT_LINES) if errors else TAIL_LINES
    return [cut(text) for text in [*before[len(before) - min(room, len(before)) :], *errors]]


def _before(lines: Lines, first: str | None) -> list[str]:
    """What was said until the text `first`, each once."""
    found: dict[str, None] = {}
    for text in (masked(text) for _, text in map(split, lines)):
        if text == first:
            break
        if text.strip() and not text[0].isspace() and not _HEADER.match(text) and not _NOISE.search(text):
            found[text] = None
    return list(found)


def telling(lines: Lines) -> list[str]:
    """Exceptions with the lines that belong to them, and messages of level ERROR and above; masked."""
    found: list[str] = []
    in_frames = in_message = False
    for level, text in map(split, lines):
        if _HEADER.match(text):
            in_frames, in_message = True, False
        elif in_frames and (not text.strip() or text[0].isspace()):
            continue
        elif _EXCEPTION.match(text) or (in_message and text[:1].isspace()):
            in_frames, in_message = False, True
            found.append(masked(text))
        else:
            in_frames = in_message = False
            if level in ("ERROR", "CRITICAL"):
                found.append(masked(text))
    return [text for text in found if text.strip() and not _NOISE.search(text)]


def split(line: str) -> tuple[str | None, str]:
    """The level of a log line, and its text without process, clock and source position."""
    match = _PREFIX.match(line)
    return (match["level"], line[match.end() :]) if match else (None, line)


def masked(text: str) -> str:
    """`text` without secrets and without the folders of this machine."""
    text = _LISTS.sub("", _SECRET.sub("***", log.redact(text)))
    return _PATH.sub(lambda m: "…/" + _shown(m[0]), text)


def cut(text: str) -> str:
    """`text` in a readable length."""
    return text if len(text) <= MAX_LINE else text[: MAX_LINE - 1] + "…"


def _shown(path: str) -> str:
    """What of a path may be shown: inside an installed package all, else its last part."""
    _, mark, inside = path.partition("site-packages/")
    return inside if mark else path.rsplit("/", 1)[-1]
