"""What a record depends on besides its release and its texts: who quantizes, with which tools, who scores.

A release's key has nothing of the bot's own code in it: a new version of the bot must not quantize every
release again. The lab is where that code is worked on. An edited patch gives other weights by the same
recipe, so here the code of `bot.backends` is a part of a record's key, and of where checkpoints lie.

What scores is told as examinations tell it (`bot.serving.examination`). How the variant is served, and the
limits of its audit, are the recipe's, and no part of its release's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.lab.record import Text, key_of
from bot.recipe import Recipe
from bot.serving import examination
from bot.serving.engine import Engine

BACKENDS = Path(__file__).resolve().parents[1] / "backends"


def code_digest(folder: Path = BACKENDS) -> str:
    """sha256 over the path and content of every Python file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def scoring(engine: Engine) -> list[str]:
    """What scores: environment, driver, machine and variables of the engine, and the code of the scores."""
    return [*examination.conditions(engine), examination.made_by("divergence")]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """`backends`: `code_digest()`. `tools`: the digest of the quantizers' environment."""

    backends: str
    tools: str
    scoring: Sequence[str]

    def key(self, release_key: str, recipe: Recipe, texts: list[Text]) -> str:
        """The key of a variant's record."""
        limits = recipe.thresholds  # an audit that failed by them is no finding about another's
        held_to = [
            recipe.serve.model_dump_json(),
            str(limits.max_relative_error),
            str(limits.min_row_cosine),
        ]
        return key_of(release_key, [self.backends, self.tools, *self.scoring, *held_to], texts)


def work_folder(out: Path, backends: str) -> Path:
    """Where the releases' folders lie that this code made."""
    return out / "work" / backends[:12]
