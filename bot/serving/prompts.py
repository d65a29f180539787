"""The real prompts: one YAML of our own, by kind.

Acceptance depends on what is written: code drafts better than prose. So figures are taken by kind, on
prompts that stand in the repository and can be read, each asked as the only turn of a chat. The set is small
enough for a CPU and says nothing of knowledge or skill. Other prompts give other figures,
so the file is among what a part is found by (`examination`).
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Annotated

import yaml
from pydantic import Field

from bot.models import Model

Prompts = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class PromptSet(Model):
    """`prompts.yaml`; the names of the kinds are the field names."""

    code: Prompts
    prose: Prompts
    chat: Prompts
    math: Prompts


@lru_cache(maxsize=1)
def load() -> PromptSet:
    """The prompts as the package ships them."""
    return PromptSet.model_validate(yaml.safe_load(_text()))


def kinds() -> dict[str, list[str]]:
    """Prompts by kind, in the file's order, without surrounding white space."""
    return {kind: [each.strip() for each in prompts] for kind, prompts in load()}


def _text() -> str:
    return files("bot.serving").joinpath("prompts.yaml").read_text(encoding="utf-8")
