"""The comparison of MTP heads: its arithmetic, on counters made for it."""

from __future__ import annotations

import math
from pathlib import Path

import measured as m
import pytest

from bot.errors import InputError, UsageError
from tests.bench import heads

DOCS = Path(__file__).resolve().parents[2] / "docs"


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


def test_the_change_over_the_soak_is_paired_by_window() -> None:
    """Windows that differ widely among themselves, and by the same ten points from the other head's."""
    one, other = m.soak([1.0], curve=[0.9, 0.5, 0.2], num=100), m.soak([1.0], curve=[0.8, 0.4, 0.1], num=100)
    found = heads.change(one, other)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    mixed = heads.change(one, m.soak([1.0], curve=[0.8, 0.6, 0.2], num=100))
    assert mixed.low < 0 < mixed.high
    with pytest.raises(ValueError, match="shorter"):
        heads.change(one, m.soak([1.0], curve=[0.9], num=100))


def test_the_standard_error_is_a_binomial_one_of_the_first_position() -> None:
    assert heads.standard_error(m.drafts([0.5, 0.1], 400)) == pytest.approx(0.025)
    assert heads.standard_error(m.drafts([0.5], 0)) == 0.0


def test_a_row_for_the_base_and_one_for_each_head() -> None:
    found = release(drafted([0.8, 0.6]), drafted([0.6, 0.4]), drafted([0.4, 0.2]))
    base, *others = heads.rows(found)
    assert base[1:3] == ("base, its own", "80.0% 60.0%")
    assert base[3:6] == (f"{40 / math.sqrt(m.NUM_DRAFTS):.1f}%", "2.400", "1.000")
    assert [row[1] for row in others] == list(heads.HEADS)
    assert [row[2] for row in others] == ["80.0% 60.0%", "60.0% 40.0%", "40.0% 20.0%"]
    assert [row[4:6] for row in others] == [("2.400", "1.000"), ("2.000", "0.833"), ("1.600", "0.667")]
    ratios = [float(row[7]) for row in others]  # 0.5 and 0.3 of what is drafted, over 0.7
    assert ratios == pytest.approx([1, 5 / 7, 3 / 7], abs=0.002)
    assert [row[-1] for row in others] == ["", "1.0 MiB", "2.0 MiB"]
    assert others[0][-2] == ""
    assert others[1][-2].endswith(" points")
    table = heads.markdown(heads.HeadsEvidence(releases=[found])).splitlines()
    assert len(table) == 2 + 4
    assert {line.count("|") for line in table} == {len(heads.COLUMNS) + 1}


@pytest.mark.parametrize("name", ["drafting", "drafting-long"])
def test_the_document_shows_the_table_of_its_evidence(name: str) -> None:
    evidence = heads.HeadsEvidence.model_validate_json((DOCS / f"{name}.json").read_bytes())
    assert heads.markdown(evidence) in (DOCS / "drafting.md").read_text(encoding="utf-8")


def test_what_cannot_be_is_a_message_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RELEASE_BOT_HOME", str(tmp_path / "home"))
    assert heads.main([str(tmp_path), "--set", "foo"]) == UsageError.exit_code
    assert "'foo' is not KEY=VALUE" in capsys.readouterr().err
    assert heads.main([str(tmp_path / "none")]) == InputError.exit_code
    assert "there is no such folder" in capsys.readouterr().err
