"""What the lab writes: one record a variant, and the evidence that compares them.

The models are read where NumPy is not, by cards and tables: arrays are `bot.lab.kept`'s.

A record is named by a key over everything that its figures depend on: the release's key (base, resolved
recipe, epoch), the conditions (`bot.lab.conditions`), and the texts and windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from bot.measurements import Interval
from bot.models import (
    SCHEMA_VERSION,
    Base,
    BaseEvidence,
    BaseFile,
    CommitSha,
    Hardware,
    Model,
    ParameterUse,
    Sha256,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = "all"  # the row over all domains
MIN_WINDOWS = 32  # of fewer, a bootstrap's interval says little
Arrays: TypeAlias = "dict[str, NDArray[Any]]"


class BaseFacts(Model):
    """What tells one base from another; a side is None where the base's config does not say it."""

    num_parameters: int
    tensor_bytes: int
    weights_sha256: Sha256
    hidden_size: int | None
    intermediate_size: int | None
    num_hidden_layers: int | None


class Text(Model):
    """A domain's text as it was scored."""

    domain: str
    dataset: str
    revision: CommitSha
    config: str
    split: str
    column: str
    window_tokens: int
    max_tokens: int


class Figures(Model):
    """One variant on one domain, against the base: divergences in nats, `ppl` over the same windows."""

    domain: str
    kind: Literal["full", "lower_bound"]
    tokens_sha256: Sha256
    num_tokens: int
    num_windows: int
    kld: float
    kld_interval: Interval
    kld_p99: float
    top1_agreement: float
    ppl: float
    base_ppl: float


class Measured(Model):
    """`variants/<key>.json`: one variant. `failure` says why there are no figures.

    Where `resumed_layers` is not 0, quantizing was broken off and gone on with: its time and memory are those
    of the last process alone. Scoring's are None where every figure was found, and nothing was scored.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    release_key: str
    recipe_name: str
    recipe_digest: Sha256
    overrides: dict[str, str]
    failure: str | None
    bits_per_weight: float | None
    quantized_bits_per_weight: float | None
    tensor_bytes: int | None
    relative_error: float | None
    parameters: list[ParameterUse]
    patches: list[str]
    quantize_wall_s: float | None
    quantize_peak_memory_bytes: int | None
    quantize_peak_gpu_memory_bytes: int | None
    resumed_layers: int = 0
    score_wall_s: float | None
    score_peak_memory_bytes: int | None
    figures: list[Figures]


class Paired(Model):
    """A variant's mean divergence beside the reference's on the same windows, of one domain or of `all`.

    `change` is the difference over the reference's mean: −0.2 is a fifth less. `all` weighs domains alike.
    """

    domain: str
    kld: float
    difference: float
    difference_interval: Interval
    change: float
    change_interval: Interval


class Variant(Model):
    """A variant under its label, with what it is beside the reference (nothing for the reference itself)."""

    label: str
    measured: Measured
    kld: float | None
    against_reference: list[Paired]
    on_frontier: bool


class LabEvidence(Model):
    """`lab-<split>.json`: everything that a table or a claim from it needs.

    `making_digests` tells by label what each variant was made by, values that were set included.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    base: Base
    base_facts: BaseFacts
    split: Literal["choose", "report"]
    texts: list[Text]
    engine: str
    engine_environment_digest: str
    quantizer_environment_digest: str
    quantizer_versions: dict[str, str]
    hardware: Hardware
    reference: str
    num_variants: int
    making_digests: dict[str, Sha256]
    variants: list[Variant]
    measured_at: str


def facts_of(base: BaseEvidence, config: dict[str, Any]) -> BaseFacts:
    """The facts of a base, from its evidence and its `config.json`."""
    text = config.get("text_config", config)
    return BaseFacts(
        num_parameters=base.num_parameters,
        tensor_bytes=base.tensor_bytes,
        weights_sha256=weights_digest(base.files),
        hidden_size=text.get("hidden_size"),
        intermediate_size=text.get("intermediate_size"),
        num_hidden_layers=text.get("num_hidden_layers"),
    )


def weights_digest(files: Iterable[BaseFile]) -> str:
    """sha256 over the sorted lines "digest  path" of the safetensors files."""
    weights = [each for each in files if each.path.endswith(".safetensors")]
    lines = sorted(f"{each.sha256 or each.blob_id}  {each.path}\n" for each in weights)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def key_of(release_key: str, conditions: list[str], texts: list[Text]) -> str:
    """16 hex digits over what a record's figures depend on."""
    content = [release_key, conditions, [each.model_dump(mode="json") for each in texts]]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
