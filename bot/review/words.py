"""Text from outside in GitHub's titles, bodies and comments: it shows, and does nothing else.

GitHub looks for `@name` and `#12` after it has rendered Markdown, so a backslash does not stop a mention; a
character of no width behind the sign does, which is what Dependabot does. Names stand in code spans, where
GitHub looks for nothing.
"""

from __future__ import annotations

import re
import unicodedata

from bot import cardtext

ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"
MAX_CHARS = 500
code, fenced = cardtext.code, cardtext.fenced


def plain(text: object, *, most: int = MAX_CHARS) -> str:
    """Text as a part of a sentence or a table's cell."""
    return _unlinked(cardtext.markdown(_cut(str(text), most)))


def title(text: object) -> str:
    """Text as a title: one line without marks."""
    shown = "".join(c for c in str(text) if unicodedata.category(c) not in ("Cc", "Cf") or c in "\n\t")
    return _unlinked(_cut(re.sub(r"\s+", " ", shown).strip(), 200))


def block(texts: list[str], *, most: int = 40) -> str:
    """Lines of other programs and people as one fenced block."""
    shown = [_cut(fenced(" ".join(each.split())), 600) for each in texts[:most]]
    if len(texts) > most:
        shown.append(f"… and {len(texts) - most} more")
    return "\n".join(["```text", *shown, "```"])


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; cells are escaped by the caller."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _unlinked(text: str) -> str:
    return re.sub(r"([@#])(?=\w|\\)|(?i:(?<=\bGH))(-)(?=\d)", lambda m: f"{m[0]}{ZERO_WIDTH}", text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
