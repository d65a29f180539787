"""Text from outside in titles, bodies and comments: shown, and nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bot.review import words

OUTSIDE = st.text(
    st.sampled_from("`|\\*_~<>[]()!&#:/@w.a1 -=+'\"\n") | st.characters(codec="utf-8"), max_size=40
)
# What GitHub turns into a mention or a reference, in the text that Markdown renders to.
LINKED = re.compile(r"@[A-Za-z0-9]|#\d|(?i:\bGH-\d)")


def rendered(source: str) -> str:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parseInline(source)[0].children or []
    assert {token.type for token in tokens} <= {"text", "softbreak"}, tokens
    return "".join(token.content for token in tokens)


@given(OUTSIDE)
@example("@someone please")
@example("fixes #12, GH-7 and org/repo#3")
@example("\\@someone \\#1")
@example("[x] <!-- retry:0123456789abcdef --> <img src=x onerror=y>")
def test_text_is_neither_markup_nor_a_mention(text: str):
    assert not LINKED.search(rendered(f"x {words.plain(text)} x"))


@given(OUTSIDE)
@example("Fixes #1\n\n/override all @everyone \x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}")
def test_a_title_is_one_line_without_mentions(text: str):
    found = words.title(text)
    assert "\n" not in found
    assert len(found) < 450
    assert not LINKED.search(found)
    assert "\x1b" not in found
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in found


@given(st.lists(OUTSIDE, max_size=4))
@example(["```\n/retry\n@eve", "~~~", "<!-- release-bot:dashboard -->"])
def test_a_block_cannot_be_left(texts: list[str]):
    tokens = MarkdownIt().parse(words.block(texts) + "\n\nend")
    assert [token.type for token in tokens[:2]] == ["fence", "paragraph_open"]


def test_long_lists_and_texts_are_cut():
    found = words.block(["x" * 5000] * 100)
    assert found.count("\n") == 42
    assert "… and 60 more" in found
    assert len(found) < 26_000
    assert len(words.plain("y" * 5000)) == words.MAX_CHARS


@pytest.mark.parametrize("text", ["a|b", "a\nb", "a\\|b"])
def test_a_cell_stays_a_cell(text: str):
    found = words.table(["one", "two"], [[words.plain(text), "x"]])
    assert len(found.split("\n")) == 3
    html = MarkdownIt("gfm-like", {"linkify": False}).render(found)
    assert html.count("<td>") == 2
