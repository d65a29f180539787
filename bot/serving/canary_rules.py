"""The rules that canaries hold answers to: pure, and lenient in everything but what the canary is about."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from bot.serving import pictures


def says(answer: str, word: str) -> bool:
    """Whether `word` stands in `answer` as a word of its own, in upper or lower case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) is not None


def degenerate(answers: Sequence[Sequence[int]]) -> str | None:
    """Why these answers (token ids, for different prompts) come from no working model; None for good ones."""
    if not all(answers):
        return "an answer is empty"
    if len({tuple(each) for each in answers}) == 1 and len(answers) > 1:
        return "every prompt has the same answer"
    repeated = sum(len(set(each)) == 1 and len(each) > 1 for each in answers)
    return f"{repeated} answers repeat one token" if 2 * repeated > len(answers) else None


def names_only(answer: str, colour: str) -> bool:
    """Whether `answer` names `colour` and none of the other colours asked for."""
    return [each for each in pictures.COLOURS if says(answer, each)] == [colour]


def is_city(arguments: str) -> bool:
    """Whether `arguments` are a JSON object with a city's name in it; any city will do."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return False
    return isinstance(found, dict) and isinstance(found.get("city"), str) and bool(found["city"])
