"""Self-contained HTML pages of rendered cards: what the demo shows at its end, without a server.

Cards are text from outside here too: raw HTML in them is shown, not run, and plots are embedded. Of a plot's
two pictures the page shows the one for its own theme, as the Hub does.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from bot.localhub import cards
from bot.models import write_atomically

_STYLE = """
:root { color-scheme: light dark; --line: #d8dee4; --soft: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3d444d; --soft: #21262d; } body { background: #0d1117; color: #e6edf3; }
}
.only-dark { display: none; }
@media (prefers-color-scheme: dark) { .only-light { display: none; } .only-dark { display: inline; } }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; font-size: .92em;
  font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { background: var(--soft); } img { max-width: 100%; border-radius: 6px; }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 4px; font-size: .9em; }
pre { background: var(--soft); padding: 1rem; overflow-x: auto; } pre code { padding: 0; }
blockquote { border-left: 4px solid #d29922; margin: 1rem 0; padding: .2rem 1rem; background: var(--soft); }
h1, h2 { border-bottom: 1px solid var(--line); padding-bottom: .3rem; line-height: 1.25; }
.note { color: #6e7781; }
"""


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n{body}</body></html>\n"
    )


def write_card(card: Path, target: Path, title: str) -> Path:
    """Render `card`/README.md, its plots embedded, to the page `target`."""

    def embedded(source: str) -> str:
        file = (card / source).resolve()
        if not file.is_relative_to(card.resolve()) or file.suffix != ".png" or not file.is_file():
            return ""
        return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()

    text = (card / "README.md").read_text(encoding="utf-8")
    # markdown-it refuses data: images in text, so images are addressed after parsing.
    body = cards.render(text, image=embedded)
    write_atomically(
        target, _page(title, '<p class="note">Rehearsal on the embedded Hub</p>' + body).encode()
    )
    return target


def write_index(
    target: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], links: Sequence[str]
) -> Path:
    """The demo's table as a page, its first column linked to the cards."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = []
    for row, link in zip(rows, links, strict=True):
        first = f'<td><a href="{escape(link)}">{escape(row[0])}</a></td>'
        lines.append("<tr>" + first + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>")
    body = f"<h1>release-bot: the rehearsal's releases</h1><table><tr>{head}</tr>{''.join(lines)}</table>\n"
    write_atomically(target, _page("release-bot: rehearsal", body).encode())
    return target
