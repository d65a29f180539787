"""A year of releases on a fleet, played hour by hour with faults: the real plan, ledger, leases and attempts.

What is real: `bot.plan`, `bot.ledger`, `bot.lease`, `bot.attempts`, the fleet file and the recipes; the state
is documents with compare-and-swap, in memory. What is played: upstream (new families of bases, new weights,
new side files, at random), the machines (one job each, first come first served), how long work takes,
reviewers, and the Hub and GitHub as facts that jobs change. Everything follows from one seed.

Faults: a runner dies in the middle and says nothing; a runner is cut off from GitHub and goes on; of either
the run's last job records the loss and gives the lease back, or that is lost too, and the lease has to run
out; the infrastructure fails a job; an upload arrives but its answer is lost; two ticks at once; a tick that
sees the world as it was a tick ago; a run cancelled while its jobs wait; a release that never passes its
gates; a publish job that fails; a base that moves while its release is under review.

Counted as *doubled*: two jobs at work on one release at one time, or one release uploaded, opened for review
or published twice. Counted as *lost*: a base's newest commit by an applicable recipe that, three quiet weeks
after the year, is neither published nor refused nor quarantined. A tick at which no fact has changed and no
time has run out is not played: the plan is a function of these.

Rates and durations are guesses of the right size: what the seeds' cards tell for a 27B, scaled by parameters.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from bot import attempts as tries
from bot import fleet as fleets
from bot import lease as leases
from bot import ledger
from bot import plan as planning
from bot import recipe as recipes
from bot.errors import Refused
from bot.ledger import CardPull, HubPull, Pair, Target, World
from bot.plan import PlanEntry
from bot.preparing import term
from bot.state import Attempt, FailureClass, Queued, Step, Tracked, queued_path, save
from tests.bench.simulated import (
    BUILD_H,
    DRAIN_H,
    EVALUATE_H,
    NONE,
    NOTICED_H,
    ORGANIZATION,
    QWEN,
    SIZES,
    START,
    USUAL,
    YEAR_H,
    Counts,
    Faults,
    Job,
    MemoryState,
    Upstream,
)


class Year:
    """One run; `counts` and `outcomes()` tell what came of it."""

    def __init__(
        self,
        seed: int,
        *,
        faults: Faults = USUAL,
        upstream: Upstream = QWEN,
        hours: float = YEAR_H,
        queue_ttl: timedelta = timedelta(hours=24),
    ) -> None:
        self.rng, self.faults, self.hours, self.queue_ttl = random.Random(seed), faults, hours, queue_ttl
        self.fleet = fleets.load()
        self.recipes = planning.Recipes(usable=[recipes.load(name) for name in recipes.faithful()])
        self.keys = planning.Keys(1)
        self.state = MemoryState()
        self.counts = Counts()
        self.bases: dict[str, Tracked] = {}
        self.changed_h: dict[str, float] = {}
        self.targets: dict[str, Target] = {}
        self.staged: dict[str, HubPull] = {}
        self.cards: dict[str, CardPull] = {}
        self.before: World | None = None
        self.bad: dict[str, FailureClass | None] = {}
        self.free = {each.name: each.count for each in self.fleet.classes}
        self.waiting: dict[str, deque[Job]] = defaultdict(deque)
        self.working: list[Job] = []
        self.now_h, self.num, self.dirty = 0.0, 0, True
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.wake_h: list[float] = []
        self._schedule_upstream(upstream)

    def now(self) -> datetime:
        return START + timedelta(hours=self.now_h)

    def at(self, hours: float, act: Callable[[], None]) -> None:
        self.num += 1
        heapq.heappush(self.events, (self.now_h + hours, self.num, act))

    def run(self) -> Year:
        for hour in range(int(self.hours + DRAIN_H)):
            while self.events and self.events[0][0] <= hour:
                self.now_h, _, act = heapq.heappop(self.events)
                act()
                self.dirty = True
            self.now_h = float(hour)
            if hour == int(self.hours):
                self.faults = NONE
            if self.dirty or any(each <= hour for each in self.wake_h):
                self.wake_h = [each for each in self.wake_h if each > hour]
                self.dirty = False
                self.tick()
        return self

    # ── upstream ───────────────────────────────────────────────────────────────────────────

    def _schedule_upstream(self, upstream: Upstream) -> None:
        for _ in range(upstream.first):
            self.new_family()
        for rate, act in (
            (upstream.families, self.new_family),
            (upstream.weights, self.new_weights),
            (upstream.side_files, self.new_side_files),
        ):
            for _ in range(round(rate * self.hours / YEAR_H)):
                self.at(self.rng.uniform(0, self.hours), act)

    def new_family(self) -> None:
        for size in SIZES:
            name = f"Qwen/Qwen9.{len(self.bases)}-{size / 1e9:g}B"
            self.bases[name] = Tracked(
                repo_id=name, hub_id=name, revision="0" * 40, modified_at=None, model_type="qwen3_5",
                architectures=["Qwen3_5ForConditionalGeneration"], num_parameters=size, steps=[], gone=None,
            )  # fmt: skip
            self._step(name, "weights")

    def new_weights(self) -> None:
        self._step(self.rng.choice(sorted(self.bases)), "weights")

    def new_side_files(self) -> None:
        self._step(self.rng.choice(sorted(self.bases)), "side_files")

    def _step(self, name: str, kind: str) -> None:
        self.num += 1
        base, revision = self.bases[name], f"{self.num:040x}"
        step = Step.model_validate({"repo_id": name, "revision": revision, "kind": kind})
        steps = [step] if kind == "weights" else [*base.steps, step]
        update = {"steps": steps, "revision": revision, "modified_at": self.now()}
        self.bases[name] = base.model_copy(update=update)
        self.changed_h[revision] = self.now_h

    # ── a tick ─────────────────────────────────────────────────────────────────────────────

    def world(self) -> World:
        return World(
            records=ledger.read(self.state), targets=dict(self.targets), staged=dict(self.staged),
            cards=dict(self.cards), figures={}, hub_url="",
        )  # fmt: skip

    def tick(self) -> None:
        self.counts.ticks += 1
        dead = leases.reap(self.state, list(ledger.read(self.state).leases.values()), self.now())
        self.counts.faults["lease of a lost run ran out"] += len(dead)
        seen, stale = self.world(), self._happens("stale_tick", "tick over stale facts")
        facts = replace(self.before, records=seen.records) if stale and self.before else seen
        self.before = seen
        if stale:
            self.dirty = True
        self._start(self._plan(facts))
        if self._happens("two_ticks", "second tick at once"):
            self._start(self._plan(facts))

    def _plan(self, facts: World) -> planning.Plan:
        found = planning.plan(
            self.bases.values(), self.recipes, facts, self.fleet,
            organization=ORGANIZATION, keys=self.keys, now=self.now(),
        )  # fmt: skip
        for skip in found.skips:
            if skip.until:
                self.wake_h.append((skip.until - START) / timedelta(hours=1))
        return found

    def _start(self, found: planning.Plan) -> None:
        entries = found.entries[: planning.MAX_JOBS]
        if not entries:
            return
        self.num += 1
        run_id, now = str(self.num), self.now()
        queue = Queued(run_id=run_id, keys=[e.key for e in entries], at=now, expires_at=now + self.queue_ttl)
        save(self.state, queued_path(run_id), queue, version=None)
        self.wake_h.append(self.now_h + self.queue_ttl / timedelta(hours=1))
        if self._happens("cancelled", "run cancelled with its jobs waiting"):
            return
        for entry in entries:
            self.waiting[entry.runner_class].append(Job(entry, run_id, self.now_h))
        for name in self.free:
            self._dispatch(name)

    # ── a job ──────────────────────────────────────────────────────────────────────────────

    def _dispatch(self, name: str) -> None:
        while self.free[name] and self.waiting[name]:
            self._begin(self.waiting[name].popleft())

    def _begin(self, job: Job) -> None:
        """Take the lease, look at what is there already, then work."""
        entry = job.entry
        work = leases.Work(
            key=entry.key, base=entry.base, revision=entry.revision, recipe=entry.recipe, run_url=""
        )
        try:
            job.lease = leases.take(self.state, work, holder=job.run_id, now=self.now(), ttl=term(entry))
        except Refused:
            self.counts.faults["turned away by another's lease"] += 1
            return
        if entry.key in self.cards or any(entry.key in each.keys for each in self.targets.values()):
            self.counts.faults["found its work done already"] += 1
            leases.release(self.state, job.lease)
            return
        rivals = [each for each in self.working if each.entry.key == entry.key and not each.cut_off]
        self.counts.at_once += sum(not each.dead for each in rivals)
        self.free[entry.runner_class] -= 1
        self.working.append(job)
        job.started_h = self.now_h
        self.counts.jobs[entry.runner_class] += 1
        self.counts.waits_h[entry.runner_class].append(self.now_h - job.queued_h)
        self._work(job)

    def _work(self, job: Job) -> None:
        entry, base = job.entry, self.bases[job.entry.base]
        share = (base.num_parameters or 0) / SIZES[-1]
        build = 0.1 if entry.kind == "metadata" else 0.3 + BUILD_H[entry.recipe] * share
        evaluate = 0.1 if entry.kind == "metadata" else 0.3 + EVALUATE_H * share
        build = 0.05 if entry.key in self.staged else build * self.rng.lognormvariate(0, 0.2)
        evaluate *= self.rng.lognormvariate(0, 0.2)
        death = self.rng.expovariate(self.faults.dies_per_hour) if self.faults.dies_per_hour else 1e9
        job.found_staged = entry.key in self.staged
        job.cut_off = self._happens("cut_off", "runner cut off from GitHub")
        if job.cut_off:
            self.at(NOTICED_H, lambda: self._lost(job))
        if death < build + evaluate:
            self.at(death, lambda: self._die(job))
        self.at(build, lambda: self._upload(job))
        self.at(build + evaluate, lambda: self._card(job))

    def _die(self, job: Job) -> None:
        if not job.ended:
            self.counts.faults["runner died"] += 1
            job.dead = True
            self.at(NOTICED_H, lambda: self._lost(job))

    def _lost(self, job: Job) -> None:
        """GitHub misses the runner: the run's last job notes it, or nobody does until the lease runs out."""
        if job.ended:
            return None
        if self._happens("no_finish", "lost run without its last job"):
            self.wake_h.append(self.now_h + term(job.entry) / timedelta(hours=1) + 1)
            return self._end(job)
        return self._fail(job, "build", "infrastructure")

    def _end(self, job: Job) -> None:
        if job.ended:
            return
        job.ended = True
        self.working.remove(job)
        self.counts.busy_h[job.entry.runner_class] += self.now_h - job.started_h
        self.free[job.entry.runner_class] += 1
        self._dispatch(job.entry.runner_class)

    def _upload(self, job: Job) -> None:
        """What `upload.upload` does; a runner that is cut off from GitHub alone still reaches the Hub."""
        key = job.entry.key
        if job.dead or (job.ended and not job.cut_off):
            return None
        if not job.ended and self._happens("infrastructure", "infrastructure failed a job"):
            return self._fail(job, "quantize", "infrastructure")
        if key in self.staged:  # what `upload.standing` finds by the key in the title
            if job.ended or job.found_staged:
                return None
            self.counts.faults["found another build of it staged"] += 1
            return self._fail(job, "upload", "refused")
        self.counts.uploads[key] += 1
        self.staged[key] = HubPull(key=key, repo_id=job.entry.target_repo, number=self.num, status="open")
        if not job.ended and self._happens("answer_lost", "upload arrived, its answer was lost"):
            return self._fail(job, "upload", "infrastructure")
        return None

    def _card(self, job: Job) -> None:
        key = job.entry.key
        if job.ended or job.dead:
            return None
        if wrong := self._wrong(key):
            return self._fail(job, "audit" if wrong == "audit" else "validate", wrong)
        self.counts.opened[key] += 1
        self.cards[key] = CardPull(key=key, number=self.num, state="open", url="")
        self.counts.to_review_h.append(self.now_h - self.changed_h[job.entry.revision])
        leases.release(self.state, job.lease)  # type: ignore[arg-type]
        self.at(self.rng.lognormvariate(2.5, 0.8), lambda: self._review(job.entry))
        self._end(job)
        return None

    def _wrong(self, key: str) -> FailureClass | None:
        """Some releases never pass, however often they are tried."""
        if key not in self.bad:
            kinds: list[FailureClass] = ["gate", "audit", "backend"]
            self.bad[key] = (
                self.rng.choice(kinds) if self._happens("bad", "release that never passes") else None
            )
        return self.bad[key]

    def _fail(self, job: Job, stage: str, kind: FailureClass) -> None:
        self._record(job.entry, stage, kind, job.run_id)
        if job.lease:
            leases.release(self.state, job.lease)
        self._end(job)

    def _record(self, entry: PlanEntry, stage: str, kind: FailureClass, run_id: str) -> None:
        attempt = Attempt(
            key=entry.key, base=entry.base, revision=entry.revision, recipe=entry.recipe, stage=stage,
            failure_class=kind, what="played", at=self.now(), run_url="", run_id=run_id,
        )  # fmt: skip
        tries.record(self.state, attempt)

    # ── review and publishing ──────────────────────────────────────────────────────────────

    def _review(self, entry: PlanEntry) -> None:
        merges = self.rng.random() < 0.94
        self.cards[entry.key] = replace(self.cards[entry.key], state="merged" if merges else "closed")
        if merges:
            self._publish(entry)

    def _publish(self, entry: PlanEntry) -> None:
        if self.bases[entry.base].steps[-1].revision != entry.revision:
            self.counts.faults["base moved during review"] += 1
            return self._record(entry, "publish", "refused", f"publish-{entry.key}")
        if self._happens("publish", "publish job failed"):
            return self.at(1.0, lambda: self._publish(entry))
        self.counts.published[entry.key] += 1
        self.counts.to_public_h.append(self.now_h - self.changed_h[entry.revision])
        target = entry.target_repo
        self.targets[target] = Target(repo_id=target, private=False, keys=frozenset({entry.key}))
        self.staged[entry.key] = replace(self.staged[entry.key], status="merged")
        return None

    def _happens(self, fault: str, name: str) -> bool:
        found: bool = self.rng.random() < getattr(self.faults, fault)
        self.counts.faults[name] += found
        return found

    # ── what came of it ────────────────────────────────────────────────────────────────────

    def outcomes(self) -> Counter[str]:
        """The state of each base's newest commit by each recipe."""
        world, found = self.world(), Counter[str]()
        for base in self.bases.values():
            for recipe in self.recipes.usable:
                step = base.steps[-1]
                target = f"{ORGANIZATION}/{base.repo_id.split('/')[1]}-{recipe.repo_suffix}"
                pair = Pair(key=self.keys.of(step.repo_id, step.revision, recipe), base=step.repo_id,
                            revision=step.revision, recipe=recipe.name, target_repo=target)  # fmt: skip
                found[ledger.status(pair, world, self.now()).state] += 1
        return found

    def lost(self) -> int:
        return sum(
            num
            for state, num in self.outcomes().items()
            if state not in ("published", "refused", "quarantined")
        )

    def doubled(self) -> int:
        again = (self.counts.uploads, self.counts.opened, self.counts.published)
        return self.counts.at_once + sum(num - 1 for each in again for num in each.values())
