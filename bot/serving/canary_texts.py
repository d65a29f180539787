"""What canaries ask: beginnings to go on from, a tool to call, a long ledger with one fact in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WEATHER: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

# Beginnings that a model goes on from: code, prose, lists, a table. The first twelve are the agreement's.
BEGINNINGS = (
    "def read_lines(path):\n    with open(path) as file:\n",
    "import os\nimport sys\n\n\ndef main():\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "for name in sorted(names):\n    if not name.startswith(",
    "try:\n    value = int(text)\nexcept ValueError:\n",
    "The function returns a list of",
    "If the file does not exist, the method raises",
    "This module provides a simple interface to",
    "The first argument is the name of the",
    "In the morning the harbour was quiet, and the",
    "Monday, Tuesday, Wednesday,",
    "1, 2, 3, 4, 5,",
    "SELECT name, price FROM products WHERE",
    "# Installation\n\nTo install the package,",
    "| name | value |\n| --- | --- |\n| width |",
    "Dear neighbour,\n\nthank you for",
)
FILLER = "The next page of the ledger lists barrels of salt, coils of rope and crates of dried apples. "
NEEDLE = "The number of the harbour master's key is 7412. "
ASK_NEEDLE = "\nWhat is the number of the harbour master's key? Answer with the number only."


def ledger(pages: int) -> str:
    """A text of `pages` sentences with one fact a third of the way in, and the question for it."""
    return FILLER * (pages // 3) + NEEDLE + FILLER * (pages - pages // 3) + ASK_NEEDLE
