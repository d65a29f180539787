"""What is asked of vLLM, and how its answers become arrays; tests/serving/test_scoring.py has the engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from bot.errors import InputError
from bot.serving.score_engine import (
    BATCH_ENTRIES,
    BATCH_TOKENS,
    Garbage,
    batches,
    parameters,
    refuse_huge,
    rows_of,
    save,
)
from bot.serving.windows import Window, separate, sliding


@dataclass
class Flat:
    """The two of `vllm.logprobs.FlatLogprobs`' lists that are read."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def test_parameters_score_a_prompt_and_generate_one_token() -> None:
    assert parameters(0) == {
        "max_tokens": 1,
        "temperature": 0.0,
        "detokenize": False,
        "flat_logprobs": True,
        "prompt_logprobs": 0,
    }
    assert parameters(-1)["prompt_logprobs"] == -1


def test_parameters_at_the_base_s_ids() -> None:
    ids = np.arange(12, dtype=np.int64).reshape(4, 3)[:, ::-1]
    asked = parameters(1, ids)
    assert asked["prompt_logprobs"] == 1
    assert asked["prompt_logprob_token_ids"].dtype == np.int32
    assert asked["prompt_logprob_token_ids"].flags.c_contiguous
    np.testing.assert_array_equal(asked["prompt_logprob_token_ids"], ids)


def test_rows_of_three_tokens_and_two_likeliest() -> None:
    found = rows_of(Flat([7, 3, 7, 9, 2, 9], [-1.5, -0.5, -1.5, -0.25, -3.0, -0.25]), 3)
    np.testing.assert_array_equal(found.nll, [1.5, 0.25])
    np.testing.assert_array_equal(found.ids, [[3, 7], [2, 9]])
    np.testing.assert_array_equal(found.logprobs, np.float32([[-0.5, -1.5], [-3.0, -0.25]]))


def test_a_whole_vocabulary_is_put_in_the_order_of_its_ids() -> None:
    found = rows_of(Flat([1, 2, 0, 1], [-2.0, -0.1, -1.0, -2.0]), 2)
    np.testing.assert_array_equal(found.over(3), np.float32([[-1.0, -2.0, -0.1]]))
    with pytest.raises(Garbage, match="3 log-probabilities a token, not 4"):
        found.over(4)


def test_an_entry_that_never_came_is_no_number() -> None:
    found = rows_of(Flat([1, 2, 2, 1], [-2.0, -0.1, -1.0, -2.0]), 2)
    assert np.isnan(found.over(3)[0, 0])


@pytest.mark.parametrize("flat", [None, Flat(), Flat([1], [-1.0]), Flat([1] * 5, [-1.0] * 5)])
def test_absent_logprobs_are_garbage(flat: Flat | None) -> None:
    with pytest.raises(Garbage, match="log-probabilities for 2 tokens"):
        rows_of(flat, 3)


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_logprobs_that_are_no_numbers_are_garbage(value: float) -> None:
    with pytest.raises(Garbage, match="1 of 2 tokens have a log-probability that is no finite number"):
        rows_of(Flat([1, 2], [-1.0, value]), 3)


def test_batches_hold_every_window_once_and_stay_small() -> None:
    windows = sliding(300_000, window=2048, stride=512)
    for entries in (1, 129, 2049):
        found = list(batches(windows, entries_a_token=entries))
        assert [pair for batch in found for pair in batch] == list(enumerate(windows))
        for batch in found:
            tokens = sum(window.num_tokens for _, window in batch)
            assert tokens <= BATCH_TOKENS
            assert tokens * entries <= BATCH_ENTRIES
    assert len(next(batches(windows, entries_a_token=1))) == 64


def test_a_window_that_is_too_large_goes_alone() -> None:
    windows: list[Window] = separate(3 * 2048, window=2048)
    assert [len(batch) for batch in batches(windows, entries_a_token=248_321)] == [1, 1, 1]


def test_a_whole_vocabulary_that_does_not_fit_is_refused() -> None:
    refuse_huge(2048, 2048)
    with pytest.raises(InputError, match="2,048 tokens times 248,320 entries"):
        refuse_huge(2048, 248_320)


def test_saved_arrays_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "divergence.npz"
    save(str(path), {"nll": np.arange(3.0), "window": np.arange(3)})
    with np.load(path) as found:
        assert sorted(found) == ["nll", "window"]
        np.testing.assert_array_equal(found["nll"], np.arange(3.0))
    with pytest.raises(ValueError, match="inhomogeneous"):
        save(str(path), {"nll": [[1], [1, 2]]})  # type: ignore[dict-item]
    with np.load(path) as found:
        np.testing.assert_array_equal(found["nll"], np.arange(3.0))
    assert list(path.parent.iterdir()) == [path]
