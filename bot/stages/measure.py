"""Measure: what the release is worth beside its base and the official FP8 repo, in the same engine.

The sittings that validate began are completed: the server without drafting, and the scores. Everything lies
in one document, so that no figure of another engine or machine can stand beside these.
"""

from __future__ import annotations

import time

from bot.errors import EngineError, InputError, Refused
from bot.evidence import MeasureEvidence
from bot.measurements import Failure
from bot.serving import sittings
from bot.serving.examination import Examination, examined
from bot.stages.validate import require_serves


def measure(
    release: Examination,
    base: Examination,
    fp8: Examination | None,
    *,
    failure: Failure | None,
    not_measured: dict[str, str],
    inputs_digest: str,
) -> MeasureEvidence:
    """Complete every sitting of base, FP8 repo and release; `failure` is what validate found of the release.

    Raises EngineError when the engine fails (what was measured is kept), InputError for an evaluation set or
    tokenizer that does not do.
    """
    started, reasons = time.monotonic(), dict(not_measured)
    require_serves(base, complete(base))
    if fp8 is not None and (lost := _lost(fp8)):
        reasons["fp8"] = f"{fp8.subject.facts.name} cannot be measured here: {lost}"
        fp8 = None
    failure = failure or complete(release)
    return MeasureEvidence(
        inputs_digest=inputs_digest,
        wall_s=round(time.monotonic() - started, 3),
        release=examined(release, failure),
        base=examined(base),
        fp8=examined(fp8) if fp8 else None,
        not_measured=reasons,
    )


def _lost(fp8: Examination) -> str | None:
    """Why the FP8 repo cannot stand beside the release; it is a yardstick, and must not hold anything up."""
    try:
        failure = complete(fp8)
    except (InputError, EngineError, Refused) as e:
        return e.what
    return failure.what if failure else None


def complete(x: Examination) -> Failure | None:
    """All three sittings; each makes only what is missing."""
    return sittings.with_drafting(x) or sittings.without_drafting(x) or sittings.scored(x)
