"""Text that enters a card's Markdown, escaped where it enters.

Model names, data set ids, log lines and a model's answers come from outside. Each filter makes of a value a
piece of Markdown that shows the value and does nothing else.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from urllib.parse import quote


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


def broken(command: object) -> str:
    """A command line with each option on a line of its own: what a shell reads of it stays the same."""
    lines: list[list[str]] = [[]]
    for word in shlex.split(str(command)):
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(word)
    return " \\\n    ".join(shlex.join(line) for line in lines if line)


def _folded(text: object) -> str:
    return re.sub(r"\s+", " ", str(text))


def _printable(text: str, keep: str = "") -> str:
    """`text` without control and format characters, such as those that turn its direction."""
    return "".join(c for c in text if c in keep or unicodedata.category(c) not in ("Cc", "Cf"))


def url(text: object) -> str:
    """A link target that cannot end its parenthesis; only http and https, else nothing."""
    return quote(str(text), safe=":/?#=&%@+,;~-._") if re.match(r"https?://", str(text)) else ""
