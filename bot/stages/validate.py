"""Validate: the release, served as its card prints it, beside its base: it loads, answers and drafts.

The log is never proof: weight tracking refuses a missing tensor, and the engine's own counters say whether
drafts are accepted. A release that does not serve is a finding, not an error: it is kept as evidence, and the
gate `load` fails on it. A base that does not serve is an error, since nothing can be compared with it.
"""

from __future__ import annotations

import time

from bot.errors import InputError
from bot.evidence import ValidateEvidence
from bot.measurements import Failure
from bot.serving import sittings
from bot.serving.examination import Examination, examined


def validate(release: Examination, base: Examination, *, inputs_digest: str) -> ValidateEvidence:
    """Serve base and release with drafting, and measure what that sitting tells.

    Raises EngineError when the engine fails (what was measured is kept), InputError when the base does not
    serve.
    """
    started = time.monotonic()
    require_serves(base, sittings.with_drafting(base))
    failure = sittings.with_drafting(release)
    return ValidateEvidence(
        inputs_digest=inputs_digest,
        wall_s=round(time.monotonic() - started, 3),
        release=examined(release, failure),
        base=examined(base),
    )


def require_serves(base: Examination, failure: Failure | None) -> None:
    """Raises InputError when the base itself does not serve."""
    if failure is None:
        return
    raise InputError(
        f"the base {base.subject.facts.name} does not serve: {failure.what}",
        where=str(base.logs),
        why="this engine cannot run it, or the base is damaged",
        fix="the last lines of the engine's log:\n" + "\n".join(failure.log_tail),
    )
