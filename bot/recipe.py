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
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bot.errors import RecipeError
from bot.recipe_errors import did_you_mean, explain

UNPINNED = "unpinned"
RECIPES_DIR = Path(__file__).resolve().parent.parent / "recipes"

Revision = Annotated[str, Field(pattern=rf"^([0-9a-f]{{40}}|{UNPINNED})$")]
RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")]
PositiveInt = Annotated[int, Field(gt=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AppliesTo(_Model):
    """Which bases a recipe is for: decided by fields of the config, never by names."""

    model_type: list[str]
    architectures: list[str]
    min_parameters: int = Field(ge=0)
    max_parameters: PositiveInt

    def refusal(self, *, model_type: str, architectures: list[str], num_parameters: int | None) -> str | None:
        """Why this base is not for this recipe; None when it is."""
        if model_type not in self.model_type:
            return f"model_type {model_type!r} is not one of {self.model_type}"
        if not set(architectures) & set(self.architectures):
            return f"architectures {architectures} share none with {self.architectures}"
        if num_parameters is not None and not self.min_parameters <= num_parameters <= self.max_parameters:
            return f"{num_parameters:,} parameters, outside {self.min_parameters:,}–{self.max_parameters:,}"
        return None


class Coverage(_Model):
    """Which Linear modules of a decoder layer are quantized, and what stays as the base has it.

    `quantize` are module names below `model.language_model.layers.N.`; `keep` are glob patterns
    over full tensor names. Every tensor of a base must fall under exactly one of the two.
    """

    quantize: list[str] = Field(min_length=1)
    keep: list[str] = Field(min_length=1)


class GptqMethod(_Model):
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
    kv_cache: Literal["none"] = "none"

    @model_validator(mode="after")
    def _possible(self) -> GptqMethod:
        if self.desc_act and self.act_group_aware:
            raise ValueError(
                "desc_act and act_group_aware exclude each other: GPTQModel refuses both; turn one off"
            )
        if self.static_groups and not self.desc_act:
            raise ValueError(
                "static_groups acts only with desc_act: it fixes the groups that desc_act would reorder"
            )
        if self.desc_act and not self.static_groups:
            raise ValueError(
                "desc_act without static_groups gives a non-trivial g_idx, which current vLLM refuses to load"
            )
        if (self.foem_alpha is None) != (self.foem_beta is None):
            raise ValueError("foem_alpha and foem_beta go together")
        return self


class AutoRoundMethod(_Model):
    backend: Literal["autoround"]
    packing: Literal["auto_round:auto_gptq"]
    bits: Literal[4, 8]
    group_size: Literal[32, 64, 128]
    sym: bool
    iterations: int = Field(ge=0)
    batch_size: PositiveInt
    low_gpu_mem_usage: bool
    torch_compile: bool
    kv_cache: Literal["none"] = "none"


class NvFp4Method(_Model):
    backend: Literal["modelopt"]
    packing: Literal["nvfp4"]
    bits: Literal[4]
    group_size: Literal[16]
    sym: Literal[True]
    algorithm: Literal["max"]
    kv_cache: Literal["fp8_cast", "none"]


Method = Annotated[GptqMethod | AutoRoundMethod | NvFp4Method, Field(discriminator="backend")]


class Lengths(_Model):
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
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        if self.mode == "exact" and self.min_tokens != self.max_tokens:
            raise ValueError("mode exact has one length: min_tokens must equal max_tokens")
        return self


class CalibrationSet(_Model):
    """A data set at a pinned revision, and how its rows become samples."""

    dataset: RepoId
    revision: Revision
    config: str | None = None
    split: str
    data_files: str | None = None
    rows: Literal["text", "chat", "instruction", "image_text"]
    columns: list[str] = Field(min_length=1, max_length=2)
    subsets: list[str] | None = None
    num_samples: PositiveInt
    lengths: Lengths

    @field_validator("data_files")
    @classmethod
    def _inside(cls, value: str | None) -> str | None:
        if value is not None and (value.startswith("/") or ".." in value.split("/") or "://" in value):
            raise ValueError("data_files is a path inside the data set's repo")
        return value


class Calibration(_Model):
    """The passes over calibration data, in order; `seed` fixes which rows are drawn."""

    seed: int
    sets: list[CalibrationSet] = Field(min_length=1)

    @property
    def num_samples(self) -> int:
        return sum(each.num_samples for each in self.sets)


class EvaluationSet(_Model):
    """The text perplexity is measured on, pinned like the calibration sets."""

    dataset: RepoId
    revision: Revision
    config: str
    split: str
    window_tokens: PositiveInt
    stride_tokens: PositiveInt


class Serve(_Model):
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


class Reference(_Model):
    """A paper or program that a card must cite."""

    title: str
    authors: str
    year: int
    where: str


class CardText(_Model):
    """The prose a recipe gives its card; figures come from evidence only."""

    headline: str
    summary: str
    library_name: str
    limits: list[str]
    references: list[Reference] = Field(min_length=1)
    tags: list[str]


class Thresholds(_Model):
    """What the audit holds the weights to; each with its reason in the YAML."""

    max_relative_error: float = Field(gt=0, lt=1)
    min_row_cosine: float = Field(gt=0, lt=1)


class Recipe(_Model):
    """One recipe, as its YAML file states it."""

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,40}$")]
    repo_suffix: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{1,40}$")]
    applies_to: AppliesTo
    method: Method
    coverage: Coverage
    calibration: Calibration
    evaluation: EvaluationSet
    thresholds: Thresholds
    serve: Serve
    card: CardText

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        kinds = {each.rows for each in self.calibration.sets}
        if "image_text" in kinds and self.method.backend != "modelopt":
            raise ValueError(f"image_text calibration: the {self.method.backend} backend takes text only")
        if isinstance(self.method, AutoRoundMethod):
            wrong = [s.num_samples for s in self.calibration.sets if s.num_samples % self.method.batch_size]
            if wrong:
                raise ValueError(
                    f"method.batch_size {self.method.batch_size} does not divide num_samples {wrong[0]}: "
                    "AutoRound takes whole batches"
                )
        if self.method.backend == "autoround" and {s.lengths.mode for s in self.calibration.sets} != {
            "exact"
        }:
            raise ValueError("AutoRound needs samples of one length: use lengths.mode exact")
        if self.method.kv_cache != "none" and self.serve.kv_cache_dtype == "auto":
            raise ValueError(
                "method.kv_cache writes FP8 KV scales, but serve.kv_cache_dtype is auto: say fp8"
            )
        return self

    def canonical(self) -> str:
        """Canonical JSON (sorted keys, no spaces) of what shapes the artifact: all but prose and serving."""
        content = self.model_dump(mode="json", exclude={"card", "serve"})
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def digest(self) -> str:
        """sha256 over `canonical()`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    def unpinned(self) -> list[str]:
        """The data sets whose revision is still `unpinned`."""
        return sorted({each.dataset for each in self.sets() if each.revision == UNPINNED})

    def sets(self) -> list[CalibrationSet | EvaluationSet]:
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


# ── reading ────────────────────────────────────────────────────────────────────────────────


def names(directory: Path = RECIPES_DIR) -> list[str]:
    """The names of the recipes in `directory`, sorted."""
    return sorted(path.stem for path in directory.glob("*.yaml"))


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
    """The recipe in `text`; `where` is named in errors; `overrides` are `--set` paths and YAML values."""
    if len(text) > 256_000:
        raise RecipeError(
            "the recipe is larger than 256 kB", where=where, fix="a recipe is a page, not a data file"
        )
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_aliases(text, where)
        content = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(e, "problem", None) or str(e).splitlines()[0]
        raise RecipeError(f"not YAML: {problem}", where=where + line, fix="mend the syntax there") from e
    except RecursionError as e:
        raise RecipeError("nested too deeply", where=where, fix="a recipe has a few levels") from e
    if not isinstance(content, dict):
        raise RecipeError("a recipe is a mapping of fields", where=where, fix="see recipes/ for examples")
    if content.setdefault("name", name) != name:
        raise RecipeError(
            f"name: {content['name']!r} differs from the file's stem {name!r}", where=where, fix="drop it"
        )
    for path, value in (overrides or {}).items():
        _override(content, path, value)
    try:
        return Recipe.model_validate(content)
    except ValidationError as e:
        raise RecipeError(explain(e, Recipe, node, where), fix="mend the fields named above") from e


def _refuse_aliases(text: str, where: str) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(
                "aliases (*name) are not allowed: a recipe shows each value where it acts",
                where=f"{where}:{event.start_mark.line + 1 if event.start_mark else 1}",
                fix="write the value out",
            )


def _override(content: Any, path: str, text: str) -> None:
    """Set `a.b.0.c` (or `a.b.*.c`: every element) in `content` to the YAML value `text`."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise RecipeError(
            f"--set {path}: {text!r} is not a YAML value", fix="for example --set method.mse=2.4"
        ) from e
    head, _, rest = path.partition(".")
    targets: list[Any]
    if isinstance(content, list):
        if head != "*" and not (head.isdigit() and int(head) < len(content)):
            raise RecipeError(
                f"--set: {head!r} is not an index below {len(content)}", fix="use a number or *"
            )
        targets = list(range(len(content))) if head == "*" else [int(head)]
    elif isinstance(content, dict):
        if rest and head not in content:
            raise RecipeError(f"--set: no field {head!r}", fix=did_you_mean(head, list(content)))
        targets = [head]
    else:
        raise RecipeError(f"--set: {path!r} goes below a plain value", fix="name a field that the recipe has")
    for target in targets:
        if rest:
            _override(content[target], rest, text)
        else:
            content[target] = value


def pin_text(text: str, revisions: dict[str, str]) -> Iterator[str]:
    """The lines of a recipe file with each data set's `revision:` replaced; comments are kept.

    A `revision:` line belongs to the `dataset:` line before it.
    """
    dataset = None
    for line in text.splitlines(keepends=True):
        if match := re.match(r"^\s*(?:- )?dataset:\s*(\S+)", line):
            dataset = match[1]
        if dataset in revisions and (match := re.match(r"^(\s*revision:\s*)\S+", line)):
            line = match[1] + revisions[dataset] + line[match.end() :]
        yield line
