"""What the engine showed of one checkpoint: the parts that `validate` and `measure` leave behind.

One part is one measurement, written when it is done, so that a run that stops goes on from the next. A part
holds what was counted, not what it means: ratios, intervals between checkpoints and verdicts are the gates'.
Shares lie in 0–1, divergences and losses are in nats, times in milliseconds where the name says so.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bot.errors import FailureKind
from bot.models import SCHEMA_VERSION, CommitSha, Hardware, Model, Sha256

Role = Literal["release", "base", "fp8", "other"]
CanaryId = Literal[
    "text.fact", "text.arithmetic", "text.agreement", "image", "video", "tool_call", "reasoning",
    "long_prompt", "batch", "sampled", "prefix_cache",
]  # fmt: skip


class OverlayItem(Model):
    """One thing that the bot adds to the command a card prints, and why; nothing is added that is not one."""

    kind: Literal["argument", "variable"]
    name: str
    value: str
    why: str
    quirk: str | None  # the id of the engine quirk it answers, see bot/serving/quirks.yaml


class EngineFacts(Model):
    """The engine that measured, and the machine under it. Figures of two of these are never compared."""

    package: str
    version: str
    environment: str
    environment_digest: Sha256
    torch: str
    transformers: str
    device: Literal["cpu", "cuda"]
    driver: str | None
    compute_capability: str | None
    hardware: Hardware


class SubjectFacts(Model):
    """What was measured: a repo at a commit, or a folder named by the digest of its files."""

    role: Role
    name: str
    revision: CommitSha | None
    fingerprint: Sha256
    packing: str  # none, gptq, auto_round:auto_gptq, nvfp4, …
    drafts: bool  # it has an MTP head, or its config promises one
    num_mtp_tensors: int
    num_visual_tensors: int
    tensor_bytes: int
    emulated: str | None  # why this machine cannot run the format natively; no speed is measured then


class Load(Model):
    """One start of the server: the command as the card prints it, and what was added."""

    drafting: bool
    command: str
    overlay: list[OverlayItem]
    quirks: list[str]
    load_s: float
    max_model_len: int
    max_num_seqs: int
    kv_cache_dtype: str
    kv_cache_tokens: int | None
    kv_max_concurrency: float | None
    kv_cache_memory_bytes: int | None
    weights_tracked: bool
    started_at: str


class Failure(Model):
    """Why a checkpoint could not be served or scored; the gate `load` fails on it."""

    kind: FailureKind
    what: str
    log_tail: list[str]


class Canary(Model):
    """A request whose answer shows that a part of the model lives.

    `served`: the engine answered without an error. `held`: the canary's own rule (the right colour, a parsed
    call). A gate asks of a release what its base can do, so `held` is no verdict by itself.
    """

    id: CanaryId
    applicable: bool
    served: bool
    held: bool
    detail: str
    answers: list[str]
    tokens: list[list[int]]  # greedy token ids, where gates compare them with the base's


class Canaries(Model):
    rows: list[Canary]
    wall_s: float


class Drafts(Model):
    """Counters of the engine between two moments. `accepted_by_position[i]`: drafts whose token i held."""

    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    accepted_by_position: list[int]

    @property
    def by_position(self) -> list[float]:
        """Share of drafts accepted at each position."""
        return [each / self.num_drafts if self.num_drafts else 0.0 for each in self.accepted_by_position]

    @property
    def rate(self) -> float:
        """Share of drafted tokens accepted."""
        return self.num_accepted_tokens / self.num_draft_tokens if self.num_draft_tokens else 0.0

    @property
    def length(self) -> float:
        """Tokens a forward pass yields: accepted drafts and the one that the model itself adds."""
        return 1 + self.num_accepted_tokens / self.num_drafts if self.num_drafts else 1.0


class DraftsOfKind(Model):
    kind: str
    num_prompts: int
    drafts: Drafts


class Acceptance(Model):
    """Draft acceptance over real prompts, by kind and in all; from the engine's counters."""

    num_speculative_tokens: int
    num_output_tokens: int
    total: Drafts
    kinds: list[DraftsOfKind]
    wall_s: float


class SoakWindow(Model):
    context_tokens: int  # of the prompt that this window's answer followed
    output_tokens: int
    drafts: Drafts


class Soak(Model):
    """One conversation grown in one server: the opening prompts, the windows, the same prompts again."""

    target_context_tokens: int  # what the evaluation asks for
    reached_context_tokens: int
    limit: str  # why it ended where it did
    opening: Drafts
    windows: list[SoakWindow]
    fresh: Drafts
    wall_s: float


class SpeedRun(Model):
    """One run of `vllm bench serve`.

    `ttft_ms` and `tpot_ms` are medians over its requests, `itl_ms` over the gaps between streamed chunks:
    with drafting a chunk holds all tokens of one forward pass, so `itl_ms` is above `tpot_ms`.
    """

    output_tokens_per_s: float
    total_tokens_per_s: float
    ttft_ms: float
    tpot_ms: float
    itl_ms: float
    ttft_p99_ms: float
    tpot_p99_ms: float
    itl_p99_ms: float
    num_requests: int
    num_failed: int
    duration_s: float
    acceptance_rate: float | None = None  # of drafts during this run; None without drafting


class Speed(Model):
    """Runs at one load: medians and spread are taken over `runs`; the warm-up is not among them."""

    dataset: str  # "random", or the kind of real prompts
    drafting: bool
    streams: int
    max_num_seqs: int
    input_tokens: int | None  # None: as the real prompts are
    output_tokens: int
    runs: list[SpeedRun]


class Speeds(Model):
    rows: list[Speed]
    not_measured: str | None  # why there is no row
    command: str  # of the first run, as it can be run again
    started_at: str
    wall_s: float


class Greedy(Model):
    """Greedy token ids after each of the real prompts."""

    tokens: list[list[int]]
    wall_s: float


class Equality(Model):
    """The same greedy prompts with and without drafting."""

    num_prompts: int
    num_equal: int
    promised: bool
    why: str
    mean_equal_share: float  # mean share of leading tokens that are equal


class Perplexity(Model):
    """Sliding windows over the evaluation set: `ppl = exp(mean_nll)`, `standard_error` of the mean NLL."""

    dataset: str
    revision: CommitSha
    config: str
    split: str
    joined_by: str
    text_sha256: Sha256
    tokens_sha256: Sha256
    window_tokens: int
    stride_tokens: int
    num_windows: int
    num_tokens: int
    num_tokens_scored: int
    shortened: bool  # only the set's first tokens, as the evaluation asked
    mean_nll: float
    standard_error: float
    ppl: float
    nll_file: str  # per-token NLL, beside this part
    wall_s: float


class Interval(Model):
    """A 95% bootstrap interval over windows, the same windows in each resample for both sides."""

    low: float
    high: float
    num_resamples: int


class Divergence(Model):
    """KL(base ‖ this) per token over the evaluation set, in nats.

    `full`: over the whole vocabulary. `lower_bound`: the base's top `k` tokens and one bucket for the rest;
    by the data-processing inequality never above the full divergence.
    """

    kind: Literal["full", "lower_bound"]
    k: int
    tail_mass: float  # the base's mean mass outside the k
    num_tokens: int
    num_windows: int
    reference: str
    reference_fingerprint: Sha256
    tokens_sha256: Sha256
    mean: float
    mean_interval: Interval
    median: float
    p99: float
    p999: float
    max: float
    top1_agreement: float
    mean_nll_difference: float  # this minus the base's, on the same tokens
    nll_difference_interval: Interval
    wall_s: float


class Sitting(Model):
    """One or more starts of the engine for the same purpose: drafting, plain or scoring.

    `overhead_s` is the processor time of the bot's own process while the engine ran.
    """

    num_starts: int
    wall_s: float
    overhead_s: float
    peak_memory_bytes: int


class Examined(Model):
    """Everything that was seen of one checkpoint; what is None was not measured (or not yet)."""

    schema_version: Literal[1] = SCHEMA_VERSION
    subject: SubjectFacts
    engine: EngineFacts
    failure: Failure | None = None
    load: Load | None = None
    canaries: Canaries | None = None
    acceptance: Acceptance | None = None
    soak: Soak | None = None
    speed: Speeds | None = None
    load_plain: Load | None = None
    equality: Equality | None = None
    speed_plain: Speeds | None = None
    perplexity: Perplexity | None = None
    divergence: Divergence | None = None
    sittings: dict[str, Sitting] = Field(default_factory=dict)
