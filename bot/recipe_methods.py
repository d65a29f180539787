"""What each backend can be asked for: the `method` of a recipe, one model a backend.

Combinations that the tool, or the engine that must load its checkpoint, refuses are refused here; so is what
could not act, such as a patch of a term that is turned off.

A field that came after the first releases stands in `LATER`: at its default it is left out of what shapes the
artifact, so that no release gets another key from a choice that it does not make.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from bot.recipe_errors import Impossible
from bot.recipe_fields import PositiveInt, RecipeModel


def _no_fp8_kv(value: object) -> object:
    if isinstance(value, str) and value.startswith("fp8"):
        raise ValueError(
            "GPTQ and AutoRound checkpoints carry no FP8 KV scales; set serve.kv_cache_dtype: fp8 instead"
        )
    return value


BLOCK_COLUMNS = 128  # GPTQModel compensates within blocks of so many columns
GptqPatch = Literal["fresh-group-scales", "foem-cross-block", "gptaq-cross-block"]

NoKvCache = Annotated[Literal["none"], BeforeValidator(_no_fp8_kv)]


class MethodModel(RecipeModel):
    """What all methods share."""

    LATER: ClassVar[tuple[str, ...]] = ()

    def stated(self) -> dict[str, Any]:
        """The fields as JSON, without those of `LATER` that are at their default."""
        fields = type(self).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in self.LATER}
        unused = {name for name, default in defaults.items() if getattr(self, name) == default}
        return self.model_dump(mode="json", exclude=unused)


class GptqMethod(MethodModel):
    LATER = ("patches", "descent_sweeps")

    backend: Literal["gptqmodel"]
    packing: Literal["gptq"]
    bits: Literal[4, 8]
    group_size: Literal[32, 64, 128]
    sym: bool
    desc_act: bool
    static_groups: bool
    act_group_aware: bool
    true_sequential: bool
    damp_percent: float = Field(gt=0, lt=1)
    mse: float = Field(ge=0)
    foem_alpha: float | None = Field(default=None, ge=0)
    foem_beta: float | None = Field(default=None, ge=0)
    fallback_rtn_threshold: Annotated[str, Field(pattern=r"^\d+(\.\d+)?%$")] | None = None
    kv_cache: NoKvCache = "none"
    patches: list[GptqPatch] = Field(default_factory=list)
    descent_sweeps: int = Field(default=0, ge=0, le=100)

    @field_validator("patches")
    @classmethod
    def _once(cls, value: list[GptqPatch]) -> list[GptqPatch]:
        for index, patch in enumerate(value):
            if patch in value[:index]:
                raise Impossible("stated twice", str(index))
        return value

    @field_validator("fallback_rtn_threshold")
    @classmethod
    def _at_most_all(cls, value: str | None) -> str | None:
        if value is not None and float(value.removesuffix("%")) > 100:
            raise ValueError("it is a share of the samples: at most 100%")
        return value

    @model_validator(mode="after")
    def _possible(self) -> GptqMethod:
        if self.desc_act and self.act_group_aware:
            raise Impossible(
                "desc_act and act_group_aware exclude each other: GPTQModel refuses both; turn one off",
                "desc_act",
                "act_group_aware",
            )
        if self.static_groups and not self.desc_act:
            raise Impossible(
                "static_groups is for desc_act, which would reorder the groups: alone it only stales scales",
                "static_groups",
                "desc_act",
            )
        if self.desc_act and not self.static_groups:
            raise Impossible(
                "desc_act without static_groups gives a non-trivial g_idx, which current vLLM does not load",
                "desc_act",
                "static_groups",
            )
        if (self.foem_alpha is None) != (self.foem_beta is None):
            alone = "foem_alpha" if self.foem_beta is None else "foem_beta"
            raise Impossible("foem_alpha and foem_beta go together", alone)
        if self.descent_sweeps and self.foem_alpha is None:
            raise Impossible(
                "descent follows FOEM's path only: foem_alpha 0 and foem_beta 0 make that plain GPTQ",
                "descent_sweeps",
                "foem_alpha",
            )
        for index, patch in enumerate(self.patches):
            if found := self._in_vain(patch):
                raise Impossible(f"{patch} could not act: {found[0]}", f"patches.{index}", *found[1:])
        return self

    def _in_vain(self, patch: GptqPatch) -> tuple[str, ...]:
        """Why `patch` could change nothing, and the fields that say so; empty when it could."""
        if patch == "fresh-group-scales":
            if self.static_groups:
                return "static groups take all scales before the first column", "static_groups"
            if self.group_size >= BLOCK_COLUMNS:
                return f"every group of {BLOCK_COLUMNS} starts with its block", "group_size"
        if patch == "foem-cross-block" and not self.foem_beta:
            return "there is no first-order term without foem_beta", "foem_beta"
        if patch == "gptaq-cross-block" and not self.foem_alpha:
            return "there is no asymmetric term without foem_alpha", "foem_alpha"
        return ()


class AutoRoundMethod(MethodModel):
    """`learning_rate` and `minmax_learning_rate` None: the tool's 1 / iterations. `alg_ext`: SignRound V2.

    `descent_sweeps` of coordinate descent behind the training of each layer; `damp_percent` draws weights to
    the base's there, as a share of the mean of H's diagonal."""

    LATER = ("learning_rate", "minmax_learning_rate", "alg_ext", "descent_sweeps", "damp_percent")

    backend: Literal["autoround"]
    packing: Literal["auto_round:auto_gptq"]
    bits: Literal[4, 8]
    group_size: Literal[32, 64, 128]
    sym: bool
    iterations: int = Field(ge=0)
    batch_size: PositiveInt
    low_gpu_mem_usage: bool
    torch_compile: bool
    kv_cache: NoKvCache = "none"
    learning_rate: float | None = Field(default=None, gt=0, lt=1)
    minmax_learning_rate: float | None = Field(default=None, gt=0, lt=1)
    alg_ext: bool = False
    descent_sweeps: int = Field(default=0, ge=0, le=100)
    damp_percent: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> AutoRoundMethod:
        if self.descent_sweeps and self.damp_percent is None:
            raise Impossible("descent needs damp_percent: 0.01 is usual", "damp_percent", "descent_sweeps")
        if not self.descent_sweeps and self.damp_percent is not None:
            raise Impossible(
                "damp_percent is for descent: AutoRound's training damps nothing",
                "damp_percent",
                "descent_sweeps",
            )
        return self


class NvFp4Method(MethodModel):
    """`algorithm` chooses each block's scale, `rounding` each weight's code; the format is the same.

    `max`: the block's largest weight. `mse`: of all E4M3 numbers the one with the least squared error of the
    weights; `local_hessian`: of the outputs, by the inputs' second moments within the block. `gptq`: errors
    of one column are made up for by later ones. `damp_percent` is its damping, as a share of the mean of H's
    diagonal."""

    LATER = ("rounding", "damp_percent")

    backend: Literal["modelopt"]
    packing: Literal["nvfp4"]
    bits: Literal[4]
    group_size: Literal[16]
    sym: Literal[True]
    algorithm: Literal["max", "mse", "local_hessian"]
    kv_cache: Literal["fp8_cast", "none"]
    rounding: Literal["nearest", "gptq"] = "nearest"
    damp_percent: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="after")
    def _possible(self) -> NvFp4Method:
        if self.rounding == "gptq" and self.damp_percent is None:
            raise Impossible("rounding gptq needs damp_percent: 0.01 is usual", "damp_percent", "rounding")
        if self.rounding != "gptq" and self.damp_percent is not None:
            raise Impossible(
                "damp_percent is for rounding gptq: rounding to nearest damps nothing",
                "damp_percent",
                "rounding",
            )
        return self
