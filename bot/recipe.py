"""A recipe: the one version-controlled truth of how a release is made.

One YAML file a recipe; its stem is its name. Every value that shapes the artifact stands in
it, so that its canonical content can be part of the release key. It is checked here before
anything is downloaded: unknown fields, wrong types and combinations that no tool can make
are refused with file, line, field, what was given, and the nearest right spelling.

Revisions of calibration and evaluation sets are literal commit shas. `unpinned` may be
rehearsed on an embedded Hub; it cannot be released.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from bot.errors import RecipeError
from bot.recipe_calibration import Calibration, CalibrationSet
from bot.recipe_errors import Impossible, explain, refusal
from bot.recipe_evaluation import Evaluation, Thresholds
from bot.recipe_fields import UNPINNED, PositiveInt, RecipeModel, Word
from bot.recipe_methods import AutoRoundMethod, GptqMethod, NvFp4Method
from bot.recipe_text import line_of, override, read_yaml, refused

RECIPES_DIR = Path(__file__).resolve().parent.parent / "recipes"

# The parts of a decoder layer whose Linears may be quantized; never MTP, vision or lm_head.
MODULE = re.compile(r"(mlp|self_attn|linear_attn)\.[A-Za-z_][A-Za-z0-9_]*")


class AppliesTo(RecipeModel):
    """Which bases a recipe is for: decided by fields of the config, never by names."""

    model_type: list[Word] = Field(min_length=1)
    architectures: list[Word] = Field(min_length=1)
    min_parameters: int = Field(ge=0)
    max_parameters: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> AppliesTo:
        if self.min_parameters > self.max_parameters:
            raise Impossible(
                f"min_parameters {self.min_parameters:,} is above max_parameters {self.max_parameters:,}: "
                "no base could fit",
                "min_parameters",
                "max_parameters",
            )
        return self

    def refusal(self, *, model_type: str, architectures: list[str], num_parameters: int | None) -> str | None:
        """Why this base is not for this recipe; None when it is."""
        if model_type not in self.model_type:
            return f"model_type {model_type!r} is not one of {self.model_type}"
        if not set(architectures) & set(self.architectures):
            return f"architectures {architectures} share none with {self.architectures}"
        if num_parameters is not None and not self.min_parameters <= num_parameters <= self.max_parameters:
            return f"{num_parameters:,} parameters, outside {self.min_parameters:,}–{self.max_parameters:,}"
        return None


class Coverage(RecipeModel):
    """Which Linear modules of a decoder layer are quantized, and what stays as the base has it.

    `quantize` are module names below `model.language_model.layers.N.`; `keep` are glob patterns
    over full tensor names. Every tensor of a base must fall under exactly one of the two.
    """

    quantize: list[str] = Field(min_length=1)
    keep: list[Word] = Field(min_length=1)

    @field_validator("quantize")
    @classmethod
    def _modules(cls, value: list[str]) -> list[str]:
        for index, module in enumerate(value):
            if not MODULE.fullmatch(module):
                raise Impossible(
                    "not a module of a decoder layer: say mlp.NAME, self_attn.NAME or linear_attn.NAME "
                    "(MTP, vision and lm_head stay as the base has them)",
                    str(index),
                )
            if module in value[:index]:
                raise Impossible("stated twice", str(index))
        return value


Method = Annotated[GptqMethod | AutoRoundMethod | NvFp4Method, Field(discriminator="backend")]


class Serve(RecipeModel):
    """The portable part of the vLLM command that the card prints."""

    max_model_len: PositiveInt
    dtype: Literal["auto", "float16", "bfloat16"]
    quantization: str | None = None
    kv_cache_dtype: Literal["auto", "fp8"]
    max_num_seqs: PositiveInt | None = None
    enable_prefix_caching: bool | None = None
    limit_mm_per_prompt: dict[Literal["image", "video", "audio"], int]
    reasoning_parser: str
    tool_call_parser: str
    num_speculative_tokens: int = Field(ge=0)


class Reference(RecipeModel):
    """A paper or program that a card must cite."""

    title: str
    authors: str
    year: int
    where: str


class CardText(RecipeModel):
    """The prose a recipe gives its card; figures come from evidence only."""

    headline: str
    summary: str
    library_name: str
    limits: list[str]
    references: list[Reference] = Field(min_length=1)
    tags: list[str]


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,40}$")]


class Recipe(RecipeModel):
    """One recipe, as its YAML file states it. A house recipe names its `counterpart`: see `bot.house`."""

    schema_version: Literal[1]
    name: Name
    counterpart: Name | None = Field(default=None, exclude_if=lambda value: value is None)
    repo_suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{1,40}$")]
    applies_to: AppliesTo
    method: Method
    coverage: Coverage
    calibration: Calibration
    evaluation: Evaluation
    thresholds: Thresholds
    serve: Serve
    card: CardText

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        for index, each in enumerate(self.calibration.sets):
            at = f"calibration.sets.{index}"
            if each.rows == "image_text" and self.method.backend != "modelopt":
                raise Impossible(
                    f"image_text calibration: the {self.method.backend} backend takes text only",
                    f"{at}.rows",
                    "method.backend",
                )
            if isinstance(self.method, AutoRoundMethod):
                _autoround_takes(self.method, each, self.calibration.sets[0], at)
        if self.method.kv_cache != "none" and self.serve.kv_cache_dtype == "auto":
            raise Impossible(
                "method.kv_cache writes FP8 KV scales, but serve.kv_cache_dtype is auto: say fp8",
                "serve.kv_cache_dtype",
                "method.kv_cache",
            )
        return self

    def canonical(self) -> str:
        """Canonical JSON (sorted keys, no spaces) of what shapes the artifact.

        How it is served, measured, judged, compared and described is left out: a changed threshold judges
        again, and quantizes nothing again.
        """
        content = self.model_dump(
            mode="json", exclude={"card", "counterpart", "serve", "evaluation", "thresholds"}
        )
        content["method"] = self.method.stated()
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def digest(self) -> str:
        """sha256 over `canonical()`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def making_digest(self) -> str:
        """sha256 over method, coverage and calibration alone, whatever the name and the data sets' commits.

        What is found out about a way of quantizing is told by it: on an embedded Hub commits are stand-ins'.
        """
        content = json.loads(self.with_revisions(dict.fromkeys(self.datasets(), UNPINNED)).canonical())
        making = {part: content[part] for part in ("method", "coverage", "calibration")}
        return hashlib.sha256(json.dumps(making, sort_keys=True).encode()).hexdigest()

    def unpinned(self) -> list[str]:
        """The data sets whose revision is still `unpinned`."""
        return sorted({each.dataset for each in self.sets() if each.revision == UNPINNED})

    def sets(self) -> list[CalibrationSet | Evaluation]:
        """Every data set that the recipe names."""
        return [*self.calibration.sets, self.evaluation]

    def datasets(self) -> list[str]:
        """The ids of the calibration sets, in order, each once."""
        return list(dict.fromkeys(each.dataset for each in self.calibration.sets))

    def with_revisions(self, revisions: dict[str, str]) -> Recipe:
        """This recipe with the revision of each named data set replaced."""
        content = self.model_dump(mode="json")
        for each in [*content["calibration"]["sets"], content["evaluation"]]:
            each["revision"] = revisions.get(each["dataset"], each["revision"])
        return Recipe.model_validate(content)


def _autoround_takes(method: AutoRoundMethod, each: CalibrationSet, first: CalibrationSet, at: str) -> None:
    """AutoRound takes whole batches of samples of one length, and drops the others without a word."""
    if each.num_samples % method.batch_size:
        raise Impossible(
            f"method.batch_size {method.batch_size} does not divide num_samples {each.num_samples}: "
            "AutoRound takes whole batches",
            f"{at}.num_samples",
            "method.batch_size",
        )
    if each.lengths.mode != "exact":
        raise Impossible(
            "AutoRound needs samples of one length: use lengths.mode exact", f"{at}.lengths.mode"
        )
    if each.lengths.max_tokens != first.lengths.max_tokens:
        raise Impossible(
            "AutoRound needs samples of one length: the first set has "
            f"{first.lengths.max_tokens} tokens, this one {each.lengths.max_tokens}",
            f"{at}.lengths.max_tokens",
        )


# ── reading ────────────────────────────────────────────────────────────────────────────────


def names(directory: Path = RECIPES_DIR) -> list[str]:
    """The names of the recipes in `directory`, sorted."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


def faithful(directory: Path = RECIPES_DIR) -> list[str]:
    """The names of the recipes that follow hand-made releases: all but the house recipes."""
    return [name for name in names(directory) if load(name, directory).counterpart is None]


def load(name: str, directory: Path = RECIPES_DIR) -> Recipe:
    """The recipe called `name`; `name` may also be the path of a YAML file.

    Raises RecipeError when there is none, or when it does not hold.
    """
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        known = names(directory)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise RecipeError(
                f"no recipe is called {name!r}",
                where=str(directory),
                fix=(f"did you mean {near[0]!r}? " if near else "")
                + f"There are: {', '.join(known) or 'none'}",
            )
        path = directory / f"{name}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(
            f"the recipe cannot be read: {e}", where=str(path), fix="name a readable YAML file"
        ) from e
    return parse(text, where=str(path), name=path.stem)


def parse(text: str, *, where: str, name: str, overrides: dict[str, str] | None = None) -> Recipe:
    """The recipe in `text`; `where` is named in errors; `overrides` are `--set` paths and YAML values.

    Raises RecipeError; its `problems` are mappings of file, line, field, message and given.
    """
    where = where.removesuffix(" with --set")  # each problem says which of the two it comes from
    node, content = read_yaml(text, where)
    if not isinstance(content, dict):
        raise refused(where, 1, "a recipe is a mapping of fields", fix="see recipes/ for examples")
    if content.setdefault("name", name) != name:
        raise refused(
            where,
            line_of(node, ("name",)),
            f"it differs from the file's stem {name!r}",
            field="name",
            given=content["name"],
            fix="drop it",
        )
    for path, value in (overrides or {}).items():
        override(content, path, value)
    try:
        return Recipe.model_validate(content)
    except ValidationError as e:
        problems = explain(
            e, Recipe, content, where=where, line_of=partial(line_of, node), overrides=overrides or {}
        )
        raise refusal(problems, fix="mend the fields named above") from e
