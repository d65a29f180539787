"""The soak's plan and its turns, as arithmetic; the conversation itself is tested against a real server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.recipe_evaluation import SoakPlan
from bot.serving.soak import END_TOKENS, limit_of, windows_of
from bot.serving.turns import Turns, between

TURN = 20


def plan(context: int, window: int, output: int) -> SoakPlan:
    return SoakPlan(context_tokens=context, window_tokens=window, output_tokens=output)


def test_windows_end_at_the_target() -> None:
    found = windows_of(plan(40960, 2048, 256), max_model_len=262144, turn_tokens=TURN)
    assert found == [2048 * i for i in range(1, 21)]


def test_windows_end_at_the_model_s_limit_with_room_for_the_answer() -> None:
    found = windows_of(plan(40960, 2048, 256), max_model_len=8192, turn_tokens=TURN)
    assert found == [2048, 4096, 6144, 8192 - 256 - END_TOKENS]


def test_a_last_window_without_room_for_a_text_is_left_out() -> None:
    limit = 4096 + 256 + END_TOKENS + 100  # 100 tokens after the second window: less than an answer
    assert windows_of(plan(40960, 2048, 256), max_model_len=limit, turn_tokens=TURN) == [2048, 4096]


def test_a_model_too_short_for_an_answer_has_no_window() -> None:
    assert windows_of(plan(4096, 1024, 256), max_model_len=200, turn_tokens=TURN) == []


@given(
    st.integers(2, 3000),
    st.integers(1, 2000),
    st.integers(2, 60000),
    st.integers(1, 60000),
    st.integers(1, 60),
)
def test_every_window_has_room_and_none_passes_a_limit(
    window: int, output: int, context: int, limit: int, turn: int
) -> None:
    window = max(window, output + 1)
    asked = plan(max(context, window), window, output)
    found = windows_of(asked, max_model_len=limit, turn_tokens=turn)
    assert found == sorted(set(found))
    for before, at in zip([0, *found], found, strict=False):
        assert at - before > output + turn
        assert at <= asked.context_tokens
        assert at + output <= limit


@pytest.mark.parametrize(
    ("reached", "max_model_len", "words"),
    [(4096, 262144, "target was reached"), (3000, 3300, "limit of 3300 tokens"), (0, 262144, "limit")],
)
def test_the_limit_says_why_it_ended(reached: int, max_model_len: int, words: str) -> None:
    asked = plan(4096, 2048, 256)
    assert words in limit_of(asked, reached, max_model_len=max_model_len)


def test_the_limit_names_the_model_s() -> None:
    asked = plan(40960, 2048, 256)
    contexts = windows_of(asked, max_model_len=8192, turn_tokens=TURN)
    assert "8192" in limit_of(asked, contexts[-1], max_model_len=8192)
    assert "100" in limit_of(asked, 0, max_model_len=100)


# 1: system prompt, 2 and 3: around a user's text, 4 and 5: around an answer, 7: asked, 8: answered
SINGLE = [1, 2, 7, 3, 4]
DOUBLE = [1, 2, 7, 3, 4, 8, 5, 2, 7, 3, 4]


def test_turns_are_what_a_template_puts_around_texts() -> None:
    found = between(SINGLE, DOUBLE, asked=7, answered=8)
    assert found == Turns(first=[1, 2], between=[5, 2], after=[3, 4])
    opened = found.grown([], [70, 71])
    assert opened == [1, 2, 70, 71, 3, 4]
    assert found.grown([*opened, 80], [72]) == [1, 2, 70, 71, 3, 4, 80, 5, 2, 72, 3, 4]


def test_a_text_of_the_room_fills_the_context_exactly() -> None:
    found = between(SINGLE, DOUBLE, asked=7, answered=8)
    for conversation in ([], [1, 2, 3]):
        room = found.room(conversation, 50)
        assert len(found.grown(conversation, [9] * room)) == 50


@pytest.mark.parametrize("double", [[1, 2, 3], [1, 2, 7, 3, 4, 5, 2, 7, 3, 4]])
def test_a_template_that_drops_a_text_is_refused(double: list[int]) -> None:
    with pytest.raises(ValueError, match="in list"):
        between(SINGLE, double, asked=7, answered=8)
