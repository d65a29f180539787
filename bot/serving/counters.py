"""The engine's own counters, from its page in Prometheus' text format.

Log lines round them, and say nothing of a draft head that is never right. Counters only ever grow, so what
happened between two moments is the difference of two readings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bot.measurements import Drafts

_SAMPLE = re.compile(r"^(vllm:\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Sample:
    """One line of `/metrics`."""

    name: str
    labels: dict[str, str]
    value: float


def samples_of(text: str) -> list[Sample]:
    """The `vllm:` lines of a page in Prometheus' text format."""
    found = [_SAMPLE.match(line) for line in text.splitlines()]
    return [Sample(m[1], dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in found if m]


def drafts_of(samples: Sequence[Sample]) -> Drafts:
    """The draft counters among `samples`, summed over engines."""

    def total(name: str, **labels: str) -> int:
        return int(
            sum(
                s.value
                for s in samples
                if s.name == f"vllm:spec_decode_num_{name}_total" and labels.items() <= s.labels.items()
            )
        )

    positions = {
        int(s.labels["position"])
        for s in samples
        if s.name == "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    }
    return Drafts(
        num_drafts=total("drafts"),
        num_draft_tokens=total("draft_tokens"),
        num_accepted_tokens=total("accepted_tokens"),
        accepted_by_position=[total("accepted_tokens_per_pos", position=str(p)) for p in sorted(positions)],
    )


def drafts_between(before: Drafts, after: Drafts) -> Drafts:
    """What was drafted between two readings of one server's counters."""
    earlier = before.accepted_by_position or [0] * len(after.accepted_by_position)
    return Drafts(
        num_drafts=after.num_drafts - before.num_drafts,
        num_draft_tokens=after.num_draft_tokens - before.num_draft_tokens,
        num_accepted_tokens=after.num_accepted_tokens - before.num_accepted_tokens,
        accepted_by_position=[a - b for a, b in zip(after.accepted_by_position, earlier, strict=True)],
    )
