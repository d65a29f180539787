"""Windows against a loop that marks token by token what it scores, for many sizes."""

from __future__ import annotations

import pytest

from bot.errors import InputError
from bot.serving.windows import Window, separate, sliding


def oracle(num_tokens: int, window: int, stride: int) -> list[tuple[int, int, list[int]]]:
    """The loop of transformers' page on perplexity: (start, end, scored tokens), label shift included."""
    found, before = [], 0
    for begin in range(0, num_tokens, stride):
        end = min(begin + window, num_tokens)
        target = end - before
        labels = list(range(begin, end))
        masked = [token if at >= len(labels) - target else -100 for at, token in enumerate(labels)]
        scored = [token for token in masked[1:] if token != -100]
        if scored:
            found.append((begin, end, scored))
        before = end
        if end == num_tokens:
            break
    return found


@pytest.mark.parametrize("window", [2, 3, 8, 16])
def test_sliding_windows_are_the_known_loop(window: int) -> None:
    for stride in range(1, window + 1):
        for num_tokens in range(window, 5 * window):
            found = sliding(num_tokens, window=window, stride=stride)
            as_lists = [(w.start, w.end, list(range(w.score_from, w.end))) for w in found]
            assert as_lists == oracle(num_tokens, window, stride)


def test_every_token_but_the_first_is_scored_once() -> None:
    found = sliding(5000, window=2048, stride=512)
    scored = [token for w in found for token in range(w.score_from, w.end)]
    assert scored == list(range(1, 5000))
    assert sum(w.num_scored for w in found) == 4999
    assert found[0] == Window(start=0, end=2048, score_from=1)
    assert found[1] == Window(start=512, end=2560, score_from=2048)
    assert found[-1] == Window(start=3072, end=5000, score_from=4608)  # the tail scores its remainder
    assert all(w.score_from - w.start >= 2048 - 512 for w in found[1:])


def test_stride_of_a_window_leaves_out_each_first_token() -> None:
    found = sliding(13, window=4, stride=4)
    assert [token for w in found for token in range(w.score_from, w.end)] == [1, 2, 3, 5, 6, 7, 9, 10, 11]


def test_separate_windows_are_whole() -> None:
    found = separate(2 * 2048 + 5, window=2048)
    assert found == [
        Window(start=0, end=2048, score_from=1),
        Window(start=2048, end=4096, score_from=2049),
    ]


@pytest.mark.parametrize("cut", [lambda n: sliding(n, window=64, stride=16, where="a/b@c"),
                                 lambda n: separate(n, window=64, where="a/b@c")])  # fmt: skip
def test_a_set_shorter_than_one_window(cut) -> None:
    assert len(cut(64)) == 1
    with pytest.raises(InputError, match="63 tokens, and one window has 64") as caught:
        cut(63)
    assert caught.value.where == "a/b@c"


def test_a_window_that_scores_nothing() -> None:
    with pytest.raises(InputError, match="scores nothing"):
        separate(10, window=1)
