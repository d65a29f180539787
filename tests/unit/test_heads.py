"""The comparison of MTP heads: its arithmetic, on counters made for it."""

from __future__ import annotations

import math

import measured as m
import pytest

from tests.bench import heads


def drafted(shares: list[float], curve: list[float] | None = None, **subject: object) -> heads.Drafted:
    return heads.Drafted(
        subject=m.subject(**subject), acceptance=m.acceptance(shares), soak=m.soak(shares, curve=curve)
    )


def release(*others: heads.Drafted) -> heads.ReleaseHeads:
    named = zip(heads.HEADS, ([], ["mtp.a"], ["mtp.a", "mtp.fc.weight"]), others, strict=True)
    return heads.ReleaseHeads(
        recipe="gptq-foem-g32",
        group_size=32,
        overrides={},
        engine=m.engine(),
        base=drafted([0.8, 0.6], role="base"),
        heads=[
            heads.HeadOfRelease(head=head, rounded=names, saved_bytes=len(names) * 2**20, drafted=one)
            for head, names, one in named
        ],
    )


def test_windows_are_added_up() -> None:
    soak = m.soak([0.5, 0.25], curve=[1.0, 0.5], num=200)
    found = heads.windows(soak)
    assert (found.num_drafts, found.num_draft_tokens) == (400, 800)
    assert found.accepted_by_position == [150, 75]
    assert found.rate == 225 / 800


def test_the_lowest_window_is_held_to_the_bases_at_the_same_context() -> None:
    base, own = m.soak([0.8], curve=[1.0, 0.5], num=100), m.soak([0.8], curve=[0.5, 0.5], num=100)
    assert heads.lowest_window(own, base) == pytest.approx(0.5)
    assert heads.lowest_window(base, base) == 1.0
    assert heads.lowest_window(own, m.soak([0.0])) == math.inf


def test_places_are_counted_below_and_above() -> None:
    first = drafted([0.8, 0.6], curve=[1.0, 0.9, 0.8])
    assert heads.places(first, first) == (0, 0)
    # Of two kinds, the opening, three windows and the fresh prompts the first window alone is better.
    other = drafted([0.7, 0.5], curve=[1.3, 0.9, 0.8])
    assert heads.places(other, first) == (6, 1)
    assert heads.places(first, other) == (1, 6)


def test_the_standard_error_is_a_binomial_one_of_the_first_position() -> None:
    assert heads.standard_error(m.drafts([0.5, 0.1], 400)) == pytest.approx(0.025)
    assert heads.standard_error(m.drafts([0.5], 0)) == 0.0


def test_a_row_for_the_base_and_one_for_each_head() -> None:
    found = heads.rows(release(drafted([0.8, 0.6]), drafted([0.6, 0.4]), drafted([0.4, 0.2])))
    assert all(len(row) == len(heads.COLUMNS) for row in found)
    cells = [dict(zip(heads.COLUMNS, row, strict=True)) for row in found]
    assert [row["head"] for row in cells] == ["BF16", *heads.HEADS]
    assert cells[0]["body"] == "base"
    assert [row["by position"] for row in cells] == [
        "80.0% 60.0%",
        "80.0% 60.0%",
        "60.0% 40.0%",
        "40.0% 20.0%",
    ]
    assert [row["tokens a pass"] for row in cells] == ["2.400", "2.400", "2.000", "1.600"]
    assert [row["saves"] for row in cells] == ["", "", "1.0 MiB", "2.0 MiB"]
    assert [row["places below, above"] for row in cells] == ["", "", "8 0", "8 0"]
    ratios = [row[2:] for row in found]
    assert "0.714" in ratios[2]  # 0.5 of the drafted, over 0.7
    assert "0.429" in ratios[3]
