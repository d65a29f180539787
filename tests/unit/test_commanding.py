"""Commands in comments, as text: what is one, what is not, and what is wrong with one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import UsageError
from bot.review.commanding import Command, parse


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/retry", Command(kind="retry", why="asked for in a comment")),
        ("/retry the disk was full", Command(kind="retry", why="the disk was full")),
        ("/skip not worth the hours", Command(kind="skip", why="not worth the hours")),
        (
            "/override ppl.ratio the set is small",
            Command(kind="override", why="the set is small", gates=("ppl.ratio",)),
        ),
        (
            "Looks fine.\r\n\r\n/override kld,top1,kld measured twice, the same\r\n",
            Command(kind="override", why="measured twice, the same", gates=("kld", "top1")),
        ),
    ],
)
def test_a_command_stands_at_the_beginning_of_a_line(text: str, command: Command):
    assert parse(text) == [command]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "please /retry",
        " /retry",
        "> /retry",
        "`/retry`",
        "```\n/retry\n```",
        "~~~\n/skip because it is so\n~~~",
        "/retrying",
        "/RETRY",
        "/publish now please",
        "//retry",
        "/retry\u200b",
        "<!-- /retry -->",
        "- /retry",
    ],
)
def test_what_only_looks_like_one_is_none(text: str):
    assert parse(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/skip", "0 characters"),
        ("/skip no", "2 characters"),
        ("/override", "names a gate"),
        ("/override ppl.ratio", "0 characters"),
        ("/override ../../x because I say so", "names a gate"),
        ("/override $(rm) because I say so", "names a gate"),
        ("/skip " + "x" * 2000, "2000 characters"),
        ("/skip it is \x1b[31m red and long enough", "plain characters"),
        ("/skip it is \N{RIGHT-TO-LEFT OVERRIDE} turned around", "plain characters"),
    ],
)
def test_a_wrong_one_says_what_it_lacks(text: str, words: str):
    with pytest.raises(UsageError, match=words):
        parse(text)


def test_a_flood_is_cut():
    assert len(parse("/retry\n" * 100)) == 5


@given(st.text(max_size=200))
def test_any_text_is_read(text: str):
    try:
        found = parse(text)
    except UsageError:
        return
    assert all(each.why.isprintable() for each in found)
