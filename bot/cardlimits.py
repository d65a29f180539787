"""What a release's figures do not say: what was shortened, emulated, or not measured; as sentences."""

from __future__ import annotations

from collections.abc import Iterator

from bot import figures
from bot.comparison import Comparison
from bot.evidence import Evidence


def limits(evidence: Evidence, compared: Comparison) -> list[str]:
    """Every limit of the measurement, each as one sentence of plain text."""
    return [*_engine(evidence), *_context(evidence, compared), *_quality(evidence), *_beside(evidence)]


def _engine(evidence: Evidence) -> Iterator[str]:
    found = evidence.measurement.release
    if found.failure is not None:
        yield "The engine did not serve this release; what would need a running server was not measured."
    if found.engine.device == "cpu":
        yield "Measured on a CPU, with a CPU build of vLLM: kernels and speed of a GPU were not tried."
    if found.subject.emulated:
        yield (
            f"Emulated while it was measured: {found.subject.emulated}. Its quality was measured so, "
            "its speed was not."
        )


def _context(evidence: Evidence, compared: Comparison) -> Iterator[str]:
    found, tested = evidence.measurement.release, compared.tested_context_tokens
    if found.soak and found.soak.reached_context_tokens < found.soak.target_context_tokens:
        yield (
            f"The soak was shortened: it reached {figures.count(found.soak.reached_context_tokens)} of "
            f"{figures.count(found.soak.target_context_tokens)} tokens of context ({found.soak.limit})."
        )
    if tested and found.load and tested < found.load.max_model_len:
        yield (
            f"Context was tested to {figures.count(tested)} tokens, of the "
            f"{figures.count(found.load.max_model_len)} that the server took."
        )
    if found.load and found.load_plain is None and found.subject.drafts:
        yield "The server without drafting was not run, so the gain of drafting is not known."


def _quality(evidence: Evidence) -> Iterator[str]:
    found = evidence.measurement.release
    if found.perplexity and found.perplexity.shortened:
        yield (
            "Perplexity was shortened to the first "
            f"{figures.count(found.perplexity.num_tokens)} tokens of the set; it is not comparable with "
            "figures over the whole set."
        )
    if found.divergence and found.divergence.kind == "lower_bound":
        yield "The KL divergence is a lower bound: the true one is at least as large."
    yield "Knowledge, reasoning and safety were not evaluated; ask the base's card for those."


def _beside(evidence: Evidence) -> Iterator[str]:
    if evidence.measurement.fp8 is None:
        why = evidence.measurement.not_measured.get("fp8", "it was left out of this run")
        yield f"No official FP8 repo stands beside it: {why}."
    if not evidence.siblings:
        yield "No other recipe of this base was measured by this engine on this machine."
