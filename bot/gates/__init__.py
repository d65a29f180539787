"""Gates: what evidence must show before a release may be published.

Each is a small function (`bot.gates.gate`) over evidence alone. All are always asked, and all failures are
told at once. A verdict is passed, failed, anomalous (far better than the base: no win, but a measurement to
look at) or not applicable, with why. Failed and anomalous block; `bot.stages.gate` refuses, and records a
maintainer's override. Limits stand in the recipe, with the reason of each number beside it.
"""

from __future__ import annotations

from bot.evidence import GateResult
from bot.gates import answers, drafting, quality, speed, structure
from bot.gates.gate import Facts, Gate

# In the order of cost: bytes, one start, answers, drafting, scores, load.
GATES: tuple[Gate, ...] = (
    structure.audit,
    structure.size,
    structure.load,
    structure.load_base,
    structure.engine,
    answers.canary,
    answers.agreement,
    drafting.position,
    drafting.windows,
    drafting.fresh,
    answers.equality,
    structure.tokens,
    quality.ppl,
    quality.kld,
    quality.top1,
    speed.speed,
)


def evaluate(facts: Facts) -> list[GateResult]:
    """Every gate's verdict on `facts`, in the order of GATES."""
    return [result for gate in GATES for result in gate.results(facts)]
