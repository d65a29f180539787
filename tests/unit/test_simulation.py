"""The simulated year in small: no release lost or doubled under faults; and it would tell if one were."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bot import lease as leases
from bot.state import lease_path, load
from tests.bench.simulation import Faults, Upstream, Year

MONTH_H = 30 * 24.0
BUSY = Upstream(first=2, families=36, weights=60, side_files=240)
MANY = Faults(
    dies_per_hour=0.1, infrastructure=0.15, answer_lost=0.1, cut_off=0.1, no_finish=0.2, bad=0.05,
    two_ticks=0.4, stale_tick=0.3, cancelled=0.1, publish=0.2,
)  # fmt: skip


def month(seed: int, **options: object) -> Year:
    return Year(seed, **{"faults": MANY, "upstream": BUSY, "hours": MONTH_H, **options}).run()  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_or_doubled_under_faults(seed: int):
    year = month(seed)
    assert (year.lost(), year.doubled()) == (0, 0), year.outcomes()
    assert sum(year.counts.published.values()) > 50
    assert year.counts.faults["turned away by another's lease"] > 0
    assert year.counts.faults["lease of a lost run ran out"] > 0


def test_the_same_seed_gives_the_same_year():
    one, other = month(1), month(1)
    assert one.counts == other.counts
    assert one.counts != month(2).counts


def test_without_an_exclusive_lease_it_would_show(monkeypatch: pytest.MonkeyPatch):
    real = leases.take

    def careless(state, work, *, holder, now, ttl):
        found, version = load(state, lease_path(work.key), leases.Lease)
        if found and version:
            state.delete(lease_path(work.key), version)
        return real(state, work, holder=holder, now=now, ttl=ttl)

    monkeypatch.setattr(leases, "take", careless)
    assert month(1).doubled() > 0


def test_with_a_queue_that_never_runs_out_it_would_show():
    assert month(1, queue_ttl=timedelta(days=1000)).lost() > 0
