"""One checkpoint that is examined: what it is, what is asked of it, and what was found out already.

Which inputs a part depends on stands here, beside the part's name: the same inputs find it again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bot import comparable
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
from bot.recipe import Serve
from bot.recipe_evaluation import Evaluation
from bot.serving import command, drafting
from bot.serving.engine import Engine, platform_items
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


DRAFTING = ("load", "canaries", "greedy", "acceptance", "soak", "speed")
_ADDRESS = ("--host", "--port", "--served-model-name")
_ARITHMETIC = (
    "--dtype",
    "--quantization",
    "--kv-cache-dtype",
    "--no-enable-prefix-caching",
    "--speculative-config",
    "--enforce-eager",
)
# The code and texts that make each part: a changed question has another answer.
_SOURCES: Mapping[str, tuple[str, ...]] = {
    "engine": ("command.py", "site/*.py"),
    "load": ("server.py",),
    "load_plain": ("server.py",),
    "canaries": ("canar*.py", "pictures.py"),
    "greedy": ("drafting.py", "prompts.yaml"),
    "greedy_plain": ("drafting.py", "prompts.yaml"),
    "acceptance": ("drafting.py", "prompts.yaml"),
    "soak": ("soak.py", "turns.py"),
    "speed": ("speed.py", "bench_*.py", "prompts.yaml"),
    "speed_plain": ("speed.py", "bench_*.py", "prompts.yaml"),
    "perplexity": ("windows.py", "perplexity.py", "evaluation_text.py", "score_text.py", "score_engine.py"),
    "divergence": ("windows.py", "divergence.py", "bootstrap.py", "store.py", "score_*.py"),
}


@cache
def made_by(name: str) -> str:
    """sha256 over the files in _SOURCES that make the part `name`."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted({path for pattern in _SOURCES[name] for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def conditions(engine: Engine) -> list[str]:
    """What every part depends on besides the checkpoint: environment, driver, machine, variables, code."""
    facts = engine.facts
    variables = [f"{each.name}={each.value}" for each in platform_items(engine)]
    machine = [facts.environment_digest, str(facts.driver), facts.hardware.model_dump_json()]
    return [*machine, *variables, made_by("engine")]


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
        fingerprint = self.subject.facts.fingerprint
        return Parts(
            folder=self.home / "measured" / fingerprint[:16],
            common="\n".join([fingerprint, *conditions(self.engine)]),
        )

    @property
    def max_model_len(self) -> int:
        """The context that is served: what the recipe asks for, or the model's own limit."""
        return min(self.subject.serve.max_model_len, self.subject.max_position_embeddings)

    def path(self, name: str) -> Path:
        """Where the part `name` lies, or would lie."""
        return self.parts.path(name, *self._inputs(name))

    def read(self, name: str) -> Any:
        """The part `name`, an instance of its model in MODELS; None when it was not measured."""
        return self.parts.read(self.path(name), MODELS[name])

    def is_missing(self, name: str) -> bool:
        """Whether the part `name` is to be measured: it was not, or it is a speed of more than a day ago."""
        found = self.read(name)
        if isinstance(found, Speeds) and found.rows:
            return not comparable.fresh(found.started_at, datetime.now(UTC))
        return found is None

    def keep(self, name: str, part: BaseModel) -> None:
        """Keep the part `name`."""
        self.parts.write(self.path(name), part)

    def inputs(self) -> list[str]:
        """The places of all parts: equal for two examinations that would find the same."""
        return [self.path(name).name for name in MODELS]

    def _inputs(self, name: str) -> list[object]:
        plan, facts = self.evaluation, self.subject.facts
        text = [plan.dataset, plan.revision, plan.config, plan.split, plan.column]
        scored = [*text, plan.window_tokens]
        slots = self._settings(name).get("--max-num-seqs")
        special: dict[str, list[object]] = {
            "load": [facts.name, self._settings(name), self._printed()],
            "canaries": [self._settings(name)],
            "greedy": [plan.drafting],
            "acceptance": [plan.drafting],
            "soak": [plan.soak, self.max_model_len, *text],
            "speed": [facts.name, plan.speed, slots],
            "load_plain": [slots],
            "greedy_plain": [plan.drafting],
            "speed_plain": [facts.name, plan.speed, slots],
            "perplexity": [*scored, plan.stride_tokens, plan.max_tokens],
            "divergence": [*scored, plan.divergence_tokens, self._reference_fingerprint()],
        }
        return [self._arithmetic(name), special[name], made_by(name)]

    def _settings(self, name: str) -> dict[str, str | None]:
        """Every flag of the server that tells the part, but for its address."""
        drafting = self.subject.facts.drafts and name in DRAFTING
        found = command.settings(self.subject, self.engine, drafting=drafting)
        return {flag: value for flag, value in sorted(found.items()) if flag not in _ADDRESS}

    def _printed(self) -> list[str]:
        """The command as a card prints it; no card prints a baseline's."""
        facts = self.subject.facts
        if facts.role != "release":
            return []
        return command.printed(self.subject.serve, facts.name, drafting=facts.drafts)

    def _arithmetic(self, name: str) -> dict[str, str | None]:
        """The flags that can change what is computed for a text; prefix caching is on unless turned off."""
        found = self._settings(name)
        kept = {flag: value for flag, value in found.items() if flag in _ARITHMETIC}
        if name in ("perplexity", "divergence"):
            kept.pop("--no-enable-prefix-caching", None)  # scoring turns it off for every checkpoint
        return kept

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
