"""The simulated year as tables: how long releases wait, what the machines cost, what the faults came to."""

from __future__ import annotations

import statistics

from tests.bench.simulation import SIZES, Year

SEED = 2027


def quantile(values: list[float], share: float) -> float:
    """The value that `share` of the values do not exceed; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def main() -> None:
    """Print the tables of one seed, and what three more came to."""
    year = Year(SEED).run()
    counts, hours = year.counts, year.hours
    title = f"a year on the fleet, seed {SEED}"
    print(f"{title:28}{'jobs':>7}{'wait p50 h':>12}{'p95 h':>8}{'busy':>8}{'cost $':>9}")
    for each in year.fleet.classes:
        waits, busy = counts.waits_h[each.name], counts.busy_h[each.name]
        share = busy / (hours * each.count) if each.count else 0.0
        print(
            f"  {each.count:>2} × {each.name:21}{counts.jobs[each.name]:7}{quantile(waits, 0.5):12.1f}"
            f"{quantile(waits, 0.95):8.1f}{share:8.1%}{busy * each.cost_per_hour_usd:9.0f}"
        )
    cost = sum(counts.busy_h[each.name] * each.cost_per_hour_usd for each in year.fleet.classes)
    num = sum(counts.published.values())
    sizes = f"{SIZES[0] / 1e9:g} to {SIZES[-1] / 1e9:g} B"
    print(f"{num} releases of {len(year.bases)} bases ({sizes}), ${cost / num:.2f} each in machine time")
    for what, values in (("to its card's review", counts.to_review_h), ("to public", counts.to_public_h)):
        median, slow = statistics.median(values), quantile(values, 0.95)
        print(f"from a base's change {what}: median {median:.1f} h, p95 {slow:.1f} h")
    print(
        f"newest commits by recipe: {', '.join(f'{n} {state}' for state, n in year.outcomes().most_common())}"
    )
    print("faults: " + "; ".join(f"{n} × {name}" for name, n in sorted(counts.faults.items()) if n))
    for seed, each in [(SEED, year), *((SEED + n, Year(SEED + n).run()) for n in (1, 2, 3))]:
        verdict = "reached" if each.lost() == each.doubled() == 0 else "MISSED"
        print(f"seed {seed}: lost {each.lost()}, doubled {each.doubled()} (target 0 and 0: {verdict})")


if __name__ == "__main__":
    main()
