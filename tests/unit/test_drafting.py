"""Equality of greedy answers, as arithmetic; the counters are tested against a real server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.serving.drafting import PROMISE, equality, leading_share

ids = st.lists(st.integers(0, 3), max_size=8)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [1, 2, 9, 4], 0.5),
        ([1, 2], [1, 2, 3, 4], 0.5),
        ([9, 2], [1, 2], 0.0),
        ([], [], 1.0),
        ([], [1], 0.0),
    ],
)
def test_leading_share(one: list[int], other: list[int], share: float) -> None:
    assert leading_share(one, other) == share


@given(ids, ids)
def test_leading_share_is_symmetric_and_one_only_for_equals(one: list[int], other: list[int]) -> None:
    share = leading_share(one, other)
    assert share == leading_share(other, one)
    assert 0 <= share <= 1
    assert (share == 1) == (one == other)


def test_equality_counts_equal_prompts_and_shares() -> None:
    found = equality([[1, 2], [3, 4], [5, 6]], [[1, 2], [3, 9], [5, 6]])
    assert (found.num_prompts, found.num_equal) == (3, 2)
    assert found.mean_equal_share == pytest.approx(2.5 / 3)


def test_equality_states_what_the_engine_promises() -> None:
    assert equality([[1]], [[1]]).promised is PROMISE.holds is False
    assert "BF16" in PROMISE.why
    assert PROMISE.sources
    stated = equality([[1]], [[1]], promised=True, why="batch-invariant kernels")
    assert (stated.promised, stated.why) == (True, "batch-invariant kernels")


def test_answers_of_other_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        equality([[1]], [[1], [2]])
