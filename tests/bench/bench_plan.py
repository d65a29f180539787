"""Planning 500 bases by 4 recipes over a full ledger: our own time; it asks nobody anything."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from bot import fleet, log, plan
from bot import recipe as recipes
from bot.ledger import CardPull, Records, Target, World
from bot.plan import Keys, Recipes
from bot.state import Attempt, Attempts, Step, Tracked

BASES, RUNS, TARGET_S = 500, 5, 1.0
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def bases() -> list[Tracked]:
    """Each with side files that changed twice since its weights."""
    found = []
    for n in range(BASES):
        name, revisions = f"Qwen/Qwen3.{n}-27B", [f"{n:020x}{step:020x}" for step in range(3)]
        kinds = ("weights", "side_files", "side_files")
        steps = [Step(repo_id=name, revision=r, kind=k) for r, k in zip(revisions, kinds, strict=True)]  # type: ignore[arg-type]
        found.append(
            Tracked(
                repo_id=name,
                hub_id=str(n),
                revision=revisions[-1],
                modified_at=NOW - timedelta(n),
                model_type="qwen3_5",
                architectures=["Qwen3_5ForConditionalGeneration"],
                num_parameters=27_000_000_000,
                steps=steps,
                gone=None,
            )
        )
    return found


def world(tracked: list[Tracked], keys: Keys, usable: list[recipes.Recipe]) -> World:
    """A fifth each: published, published before, under review, failed once, never made."""
    targets, cards, attempts = {}, {}, {}
    for n, (base, recipe) in enumerate((b, r) for b in tracked for r in usable):
        newest, first = base.steps[-1].revision, base.steps[0].revision
        key, target = (
            keys.of(base.repo_id, newest, recipe),
            f"o/{base.repo_id.split('/')[1]}-{recipe.repo_suffix}",
        )
        if n % 5 < 2:
            public = key if n % 5 else keys.of(base.repo_id, first, recipe)
            targets[target] = Target(repo_id=target, private=False, keys=frozenset({public}))
        elif n % 5 == 2:
            cards[key] = CardPull(key=key, number=n, state="open", url="")
        elif n % 5 == 3:
            failed = Attempt(
                key=key,
                base=base.repo_id,
                revision=newest,
                recipe=recipe.name,
                stage="quantize",
                failure_class="infrastructure",
                what="x",
                at=NOW,
                run_url="",
                run_id="1",
            )
            attempts[key] = Attempts(key=key, attempts=[failed])
    return World(
        records=Records(attempts=attempts), targets=targets, staged={}, cards=cards, figures={}, hub_url=""
    )


def main() -> None:
    """Print the best of a few runs, each with keys made anew."""
    log.configure(quiet=True)
    tracked, usable = bases(), [recipes.load(name) for name in recipes.faithful()]
    facts, fleet_, best = world(tracked, Keys(1), usable), fleet.load(), float("inf")
    for _ in range(RUNS):
        started = time.perf_counter()
        found = plan.plan(
            tracked, Recipes(usable=usable), facts, fleet_, organization="o", keys=Keys(1), now=NOW
        )
        best = min(best, time.perf_counter() - started)
    assert len(found.entries) + len(found.skips) == BASES * len(usable), "every pair is planned or told"
    started = len(plan.matrix(found)["include"])
    assert started + found.num_left == len(found.entries) > plan.MAX_JOBS
    verdict = "reached" if best < TARGET_S else "MISSED"
    title = f"planning {BASES} bases × {len(usable)} recipes"
    print(f"{title:42}{best:9.3f} s  {len(found.entries)} jobs, {len(found.skips)} skips")
    print(f"{'in the first tick':42}{started:9}    {found.num_left} wait for the next ones")
    print(f"target: {TARGET_S:g} s of our own: {verdict}")


if __name__ == "__main__":
    main()
