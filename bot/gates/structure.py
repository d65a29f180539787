"""Gates that cost nothing or one start of the engine: audit, size, loading, and that figures may be compared.

The base is asked too whether it loaded with its weights tracked: were its own head silently missing, it would
accept nothing, and a release with a dead head would look as good as its base. vLLM's tracking leaves out the
Linears of an unquantized model, so that the base's head lives is shown by what it accepts, not by loading.
"""

from __future__ import annotations

from bot.comparable import differences
from bot.gates.gate import Finding, at_most, failed, gate, passed
from bot.measurements import Divergence, EngineFacts, Failure, Load, Perplexity
from bot.recipe_evaluation import Thresholds
from bot.stages.audit import AuditReport, Inventory

# Two perplexities of different ones of these are figures of different things.
_SAME_TEXT = (
    "dataset",
    "revision",
    "config",
    "split",
    "tokens_sha256",
    "window_tokens",
    "stride_tokens",
    "num_tokens_scored",
)


@gate("audit", requires=("audit",))
def audit(limits: Thresholds, report: AuditReport) -> Finding:
    """The audit passed, and nothing that it had to look at was skipped.

    What bytes can prove is proven before an engine starts.
    """
    wrong = report.failed()
    skipped = [c.id for c in report.checks if c.status == "skipped" and not _nothing_there(c.detail)]
    problems = [f"{kind}: {', '.join(ids)}" for kind, ids in (("failed", wrong), ("skipped", skipped)) if ids]
    if problems or not report.checks or not report.passed:
        return failed("; ".join(problems) or "the report names no check that passed")
    return passed(f"{len(report.checks)} checks")


def _nothing_there(detail: str) -> bool:
    return detail.startswith("not applicable")


@gate("size", requires=("audit.inventory",), limits=("max_quantized_bits_per_weight",))
def size(limits: Thresholds, inventory: Inventory) -> Finding:
    """The quantized weights take at most `max_quantized_bits_per_weight` bits each.

    More than the format needs means that modules were left out or packed twice.
    """
    bits = inventory.quantized_bits_per_weight
    if bits is None:
        return failed("no weight is quantized")
    detail = f"{bits:.3f} bits in {inventory.num_packed_modules:,} modules"
    return at_most(bits, limits.max_quantized_bits_per_weight, detail)


@gate("load", optional=("release.load", "release.failure"))
def load(limits: Thresholds, started: Load | None, failure: Failure | None) -> Finding:
    """The engine loads every weight of the release, and serves it.

    Without weight tracking, an engine skips a missing MTP head without a word and drafts nothing.
    """
    return _loaded(started, failure)


@gate("load.base", optional=("base.load", "base.failure"))
def load_base(limits: Thresholds, started: Load | None, failure: Failure | None) -> Finding:
    """The engine loads the base with its weights tracked, and serves it.

    Beside a base that lacks weights, a broken release would look well. Tracking leaves out an unquantized
    model's Linears: canaries and acceptance show those.
    """
    return _loaded(started, failure)


def _loaded(started: Load | None, failure: Failure | None) -> Finding:
    if failure is not None:
        return failed(f"{failure.kind}: {failure.what}")
    if started is None:
        return failed("not measured: no start of the engine is on record")
    if not started.weights_tracked:
        return failed("weights were not tracked: a missing tensor would not have stopped the start")
    return passed(f"in {started.load_s:.1f} s, {started.max_model_len:,} tokens of context, weights tracked")


@gate("engine", requires=("release.engine", "base.engine"), optional=("fp8.engine",), compares=False)
def engine(limits: Thresholds, release: EngineFacts, base: EngineFacts, fp8: EngineFacts | None) -> Finding:
    """Everything was measured by one engine on one machine.

    Figures of two engines, drivers or machines differ for reasons that are not the checkpoint's.
    """
    others = {"base": base, **({"fp8": fp8} if fp8 else {})}
    differ = {role: differences(release, each) for role, each in others.items()}
    told = [f"release and {role}: {', '.join(found)}" for role, found in differ.items() if found]
    if told:
        return failed("; ".join(told))
    return passed(f"{release.package} {release.version} on {release.hardware.gpu or release.hardware.cpu}")


@gate(
    "tokens",
    requires=("release.perplexity", "base.perplexity", "release.divergence"),
    optional=("fp8.perplexity", "fp8.divergence"),
)
def tokens(
    limits: Thresholds,
    release: Perplexity,
    base: Perplexity,
    divergence: Divergence,
    fp8: Perplexity | None,
    fp8_divergence: Divergence | None,
) -> Finding:
    """Release and base were scored on the same tokens, in the same windows.

    A tokenizer, text or window that differs makes another perplexity of the same weights.
    """
    others = {"base": base, **({"fp8": fp8} if fp8 else {})}
    told = [f"{role}: another {', '.join(text_differences(release, each))}" for role, each in others.items()
            if text_differences(release, each)]  # fmt: skip
    if fp8_divergence and fp8_divergence.tokens_sha256 != divergence.tokens_sha256:
        told.append("fp8: other tokens under its divergence")
    if told:
        return failed("; ".join(told))
    return passed(f"{release.num_tokens_scored:,} of {release.num_tokens:,} tokens, sha256 "
                  f"{release.tokens_sha256[:12]}")  # fmt: skip


def text_differences(one: Perplexity, other: Perplexity) -> list[str]:
    """In what two perplexities' texts, tokens or windows differ."""
    return [name for name in _SAME_TEXT if getattr(one, name) != getattr(other, name)]
