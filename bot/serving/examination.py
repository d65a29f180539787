"""One checkpoint that is examined: what it is, what is asked of it, and what was found out already.

Which inputs a part depends on stands here, beside the part's name: the same inputs find it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bot.measurements import (
    Acceptance,
    Canaries,
    Divergence,
    Equality,
    Examined,
    Failure,
    Greedy,
    Load,
    Perplexity,
    Sitting,
    Soak,
    Speeds,
)
from bot.recipe import Evaluation, Serve
from bot.serving import baselines, drafting
from bot.serving.engine import Engine
from bot.serving.parts import Parts
from bot.serving.subject import Subject

MODELS: Mapping[str, type[BaseModel]] = {
    "load": Load,
    "canaries": Canaries,
    "greedy": Greedy,
    "acceptance": Acceptance,
    "soak": Soak,
    "speed": Speeds,
    "load_plain": Load,
    "greedy_plain": Greedy,
    "speed_plain": Speeds,
    "perplexity": Perplexity,
    "divergence": Divergence,
}


@dataclass(frozen=True, kw_only=True)
class Examination:
    """One checkpoint, the engine, and what is to be found out; `reference` is the base's examination.

    `dataset` is the folder of the evaluation set at its revision.
    """

    subject: Subject
    engine: Engine
    evaluation: Evaluation
    home: Path
    logs: Path
    dataset: Path
    reference: Examination | None = None

    @property
    def parts(self) -> Parts:
        """Where its parts lie: those of a base are shared by all its releases on this host."""
        facts, fingerprint = self.engine.facts, self.subject.facts.fingerprint
        machine = facts.hardware.model_dump_json()
        return Parts(
            folder=self.home / "measured" / fingerprint[:16],
            common="\n".join([fingerprint, facts.environment_digest, str(facts.driver), machine]),
        )

    @property
    def max_model_len(self) -> int:
        """The context that is served: what the recipe asks for, or the model's own limit."""
        return min(self.subject.serve.max_model_len, self.subject.max_position_embeddings)

    def path(self, name: str) -> Path:
        """Where the part `name` lies, or would lie."""
        return self.parts.path(name, *self._inputs(name))

    def read(self, name: str) -> Any:
        """The part `name`, an instance of its model in MODELS; None when it is to be measured (again)."""
        found = self.parts.read(self.path(name), MODELS[name])
        if isinstance(found, Speeds) and self.subject.facts.role != "release":
            return found if baselines.fresh(found.started_at, datetime.now(UTC)) else None
        return found

    def keep(self, name: str, part: BaseModel) -> None:
        """Keep the part `name`."""
        self.parts.write(self.path(name), part)

    def _inputs(self, name: str) -> list[object]:
        plan, serve = self.evaluation, self.subject.serve
        text = [plan.dataset, plan.revision, plan.config, plan.split]
        scored = [*text, plan.window_tokens]
        # More slots than streams change no figure.
        slots = min(serve.max_num_seqs or max(plan.speed.streams), max(plan.speed.streams))
        asked = [serve.limit_mm_per_prompt, serve.reasoning_parser, serve.tool_call_parser]
        special: dict[str, list[object]] = {
            "load": [*asked, self.max_model_len],
            "canaries": [*asked, self.max_model_len],
            "greedy": [plan.drafting],
            "acceptance": [plan.drafting],
            "soak": [plan.soak, self.max_model_len, *text],
            "speed": [plan.speed, slots],
            "greedy_plain": [plan.drafting],
            "speed_plain": [plan.speed, slots],
            "perplexity": [*scored, plan.stride_tokens, plan.max_tokens],
            "divergence": [*scored, plan.divergence_tokens, self._reference_fingerprint()],
        }
        settings = [serve.dtype, serve.quantization, serve.kv_cache_dtype, serve.enable_prefix_caching]
        alone = name.endswith("_plain") or name in ("perplexity", "divergence")
        return [*settings, 0 if alone else serve.num_speculative_tokens, *special.get(name, [])]

    def _reference_fingerprint(self) -> str:
        return self.reference.subject.facts.fingerprint if self.reference else ""


def baseline_serve(serve: Serve) -> Serve:
    """How a baseline is served beside a release: the same, less what belongs to the packed weights."""
    return serve.model_copy(update={"quantization": None, "kv_cache_dtype": "auto", "dtype": "auto"})


def examined(x: Examination, failure: Failure | None = None) -> Examined:
    """Everything that is known of the checkpoint now."""
    greedy, plain = x.read("greedy"), x.read("greedy_plain")
    return Examined(
        subject=x.subject.facts,
        engine=x.engine.facts,
        failure=failure,
        load=x.read("load"),
        canaries=x.read("canaries"),
        acceptance=x.read("acceptance"),
        soak=x.read("soak"),
        speed=x.read("speed"),
        load_plain=x.read("load_plain"),
        equality=_equality(greedy, plain),
        speed_plain=x.read("speed_plain"),
        perplexity=x.read("perplexity"),
        divergence=x.read("divergence"),
        sittings=sittings(x),
    )


def _equality(greedy: Greedy | None, plain: Greedy | None) -> Equality | None:
    return drafting.equality(greedy.tokens, plain.tokens) if greedy and plain else None


# Each sitting's record lies beside the part that it always makes.
_SITTINGS = {"drafting": "load", "plain": "load_plain", "scoring": "perplexity"}


def sittings(x: Examination) -> dict[str, Sitting]:
    """What each purpose cost in engine starts, time and memory."""
    found = {name: x.parts.read(sitting_path(x, name), Sitting) for name in _SITTINGS}
    return {name: each for name, each in found.items() if each}


def sitting_path(x: Examination, name: str) -> Path:
    """Where the record of a sitting lies."""
    return x.parts.path(f"sitting-{name}", x.path(_SITTINGS[name]).name)
