"""The real prompts: there, by kind, of varied length, and refused when the file is wrong."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bot.serving import prompts


def test_every_kind_has_enough_prompts_of_varied_length() -> None:
    kinds = prompts.kinds()
    assert list(kinds) == ["code", "prose", "chat", "math"]
    for kind, texts in kinds.items():
        assert len(texts) >= 8, kind
        lengths = [len(text.split()) for text in texts]
        assert max(lengths) > 4 * min(lengths), f"{kind}: {lengths}"


def test_prompts_are_distinct_and_trimmed() -> None:
    texts = [text for kind in prompts.kinds().values() for text in kind]
    assert len(set(texts)) == len(texts)
    assert all(text == text.strip() for text in texts)


def test_prompts_fit_a_small_context() -> None:
    """The tiny fixture has a token for two characters of prose: this leaves room in 2,048."""
    assert max(len(text) for kind in prompts.kinds().values() for text in kind) < 1100


@pytest.mark.parametrize("change", [{"code": []}, {"code": [""]}, {"songs": ["la"]}])
def test_a_wrong_set_is_refused(change: dict[str, list[str]]) -> None:
    with pytest.raises(ValidationError):
        prompts.PromptSet.model_validate({**prompts.kinds(), **change})
