"""The parts of the simulated year: how often what happens, the state in memory, what is counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bot.plan import PlanEntry
from bot.state import Document, Lease, lost_race

START = datetime(2027, 1, 1, tzinfo=UTC)
YEAR_H = 365 * 24.0
DRAIN_H = 21 * 24.0
SIZES = (800_000_000, 2_000_000_000, 4_000_000_000, 9_000_000_000, 27_000_000_000)
BUILD_H = {"gptq-foem-g32": 3.0, "gptq-w4a16-g128": 1.5, "autoround-w4a16-g128": 3.5, "nvfp4": 1.0}
EVALUATE_H = 2.5
NOTICED_H = 0.25  # until GitHub misses a runner and fails its job
ORGANIZATION = "release-bot"


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How often what goes wrong; shares of jobs, ticks or lost runs, deaths an hour of work."""

    dies_per_hour: float = 0.01
    infrastructure: float = 0.03
    answer_lost: float = 0.02
    cut_off: float = 0.02
    no_finish: float = 0.05
    bad: float = 0.03
    two_ticks: float = 0.05
    stale_tick: float = 0.05
    cancelled: float = 0.01
    publish: float = 0.03


USUAL = Faults()
NONE = Faults(**dict.fromkeys(Faults.__dataclass_fields__, 0.0))


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Families of bases on the first day, and events a year, spread at random.

    A family is one base of each size, all on one day, as Qwen publishes: that is what makes queues.
    """

    first: int = 2
    families: float = 14
    weights: float = 20
    side_files: float = 60


QWEN = Upstream()


class MemoryState:
    """The state's documents in memory, with versions."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self._count = 0

    def read(self, path: str) -> Document | None:
        return self.documents.get(path)

    def write(self, path: str, text: str, *, version: str | None) -> None:
        self._require(path, version)
        self._count += 1
        self.documents[path] = Document(text=text, version=str(self._count))

    def list(self, prefix: str) -> list[str]:
        return sorted(path for path in self.documents if path.startswith(prefix))

    def delete(self, path: str, version: str) -> None:
        self._require(path, version)
        del self.documents[path]

    def _require(self, path: str, version: str | None) -> None:
        found = self.documents.get(path)
        if (found.version if found else None) != version:
            raise lost_race(path)


@dataclass(eq=False)
class Job:
    entry: PlanEntry
    run_id: str
    queued_h: float
    started_h: float = 0.0
    lease: Lease | None = None
    ended: bool = False
    dead: bool = False
    cut_off: bool = False
    found_staged: bool = False


@dataclass
class Counts:
    """What is told at the end."""

    waits_h: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    busy_h: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    to_review_h: list[float] = field(default_factory=list)
    to_public_h: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    uploads: Counter[str] = field(default_factory=Counter)
    opened: Counter[str] = field(default_factory=Counter)
    published: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    ticks: int = 0
