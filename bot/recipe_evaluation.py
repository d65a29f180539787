"""How a release is measured and what it is held to: the sections of a recipe that shape no weight.

Neither is part of the release key: a changed plan measures again, a changed threshold judges again, and
nothing is quantized again.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from bot.recipe_errors import Impossible
from bot.recipe_fields import PositiveInt, RecipeModel, RepoId, Revision


class DraftingPlan(RecipeModel):
    """How draft acceptance is counted: tokens written after each of the real prompts."""

    output_tokens: PositiveInt


class SoakPlan(RecipeModel):
    """One conversation grown by `window_tokens` a turn up to `context_tokens`, or the model's limit."""

    context_tokens: PositiveInt
    window_tokens: PositiveInt
    output_tokens: PositiveInt

    @model_validator(mode="after")
    def _has_windows(self) -> SoakPlan:
        if self.output_tokens >= self.window_tokens or self.window_tokens > self.context_tokens:
            raise Impossible(
                f"a window of {self.window_tokens} tokens must hold an answer of {self.output_tokens} "
                f"and fit into {self.context_tokens}",
                "window_tokens",
                "output_tokens",
                "context_tokens",
            )
        return self


class SpeedPlan(RecipeModel):
    """The load of `vllm bench serve`; one warm-up, then `num_runs` runs at each number of streams.

    Real prompts are asked in one stream, the first `prompts_per_kind` of each kind.
    """

    input_tokens: PositiveInt
    output_tokens: PositiveInt
    streams: list[PositiveInt] = Field(min_length=1)
    num_runs: int = Field(ge=3, le=20)
    prompts_per_stream: PositiveInt
    prompts_per_kind: PositiveInt


class Evaluation(RecipeModel):
    """What a release is measured on, the text pinned as calibration is; none of it shapes the weights.

    `column` holds a row's text, or its conversation as a list of messages.
    """

    dataset: RepoId
    revision: Revision
    config: str
    split: str
    column: str = "text"
    window_tokens: PositiveInt
    stride_tokens: PositiveInt
    max_tokens: PositiveInt | None
    divergence_tokens: PositiveInt
    drafting: DraftingPlan
    soak: SoakPlan
    speed: SpeedPlan

    @model_validator(mode="after")
    def _overlapping(self) -> Evaluation:
        if self.stride_tokens > self.window_tokens:
            raise Impossible(
                f"stride_tokens {self.stride_tokens} is above window_tokens {self.window_tokens}: "
                "tokens between the windows would not be measured",
                "stride_tokens",
                "window_tokens",
            )
        return self


class Thresholds(RecipeModel):
    """What audit and gates hold a release to; each with its reason in the YAML.

    A `ratio` is this release's figure over its base's, measured by the same engine on the same machine.
    """

    max_relative_error: float = Field(gt=0, lt=1)
    min_row_cosine: float = Field(gt=0, lt=1)
    max_quantized_bits_per_weight: float = Field(gt=0, le=16)
    min_agreement: float = Field(ge=0, le=1)
    min_acceptance_ratio: float = Field(gt=0, le=1)
    min_soak_window_ratio: float = Field(gt=0, le=1)
    min_soak_fresh_ratio: float = Field(gt=0, le=1)
    max_ppl_ratio: float = Field(gt=1)
    min_ppl_ratio: float = Field(gt=0, lt=1)
    max_kld: float = Field(gt=0)
    min_top1_agreement: float = Field(gt=0, le=1)
    min_speed_ratio: float = Field(gt=0)
