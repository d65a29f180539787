"""What a recipe calibrates on: data sets at pinned revisions, and how their rows become samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from bot.recipe_errors import Impossible
from bot.recipe_fields import PositiveInt, RecipeModel, RepoId, Revision, Word


class Lengths(RecipeModel):
    """How long calibration samples are, in tokens.

    `spread`: sample i of n is cut at min + (max − min)·i/(n − 1), so that every length between is
    seen evenly; documents are joined until they are long enough. `truncate`: each document is one
    sample, cut at max; shorter than min is passed over. `exact`: only documents of at least max
    tokens, cut there.
    """

    mode: Literal["spread", "truncate", "exact"]
    min_tokens: PositiveInt
    max_tokens: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> Lengths:
        if self.min_tokens > self.max_tokens:
            raise Impossible(
                f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}",
                "min_tokens",
                "max_tokens",
            )
        if self.mode == "exact" and self.min_tokens != self.max_tokens:
            raise Impossible(
                "mode exact has one length: min_tokens must equal max_tokens", "min_tokens", "max_tokens"
            )
        return self

    @property
    def expected_tokens(self) -> int:
        """The mean length that is to be expected: a spread's middle, else the most that there can be."""
        return (self.min_tokens + self.max_tokens) // 2 if self.mode == "spread" else self.max_tokens


class CalibrationSet(RecipeModel):
    """A data set at a pinned revision, and how its rows become samples."""

    dataset: RepoId
    revision: Revision
    config: str | None = None
    split: str
    data_files: str | None = None
    rows: Literal["text", "chat", "instruction", "image_text"]
    columns: list[Word] = Field(min_length=1, max_length=2)
    subsets: Annotated[list[Word], Field(min_length=1)] | None = None
    num_samples: int = Field(gt=0, le=100_000)
    lengths: Lengths

    @field_validator("data_files")
    @classmethod
    def _inside(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith("/") or ".." in value.split("/") or "://" in value):
            raise ValueError("data_files is a path inside the data set's repo")
        return value


class Calibration(RecipeModel):
    """The passes over calibration data, in order; `seed` fixes which rows are drawn."""

    seed: int = Field(ge=0, le=2**32 - 1)
    sets: list[CalibrationSet] = Field(min_length=1)

    @property
    def num_samples(self) -> int:
        return sum(each.num_samples for each in self.sets)

    @property
    def max_tokens(self) -> int:
        """The most tokens that its samples can have."""
        return sum(each.num_samples * each.lengths.max_tokens for each in self.sets)

    @property
    def expected_tokens(self) -> int:
        """How many are to be expected in all."""
        return sum(each.num_samples * each.lengths.expected_tokens for each in self.sets)
