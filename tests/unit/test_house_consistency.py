"""Evidence whose figures do not follow from its own records: the bar refuses each such change."""

from __future__ import annotations

import housed
import pytest
from housed import with_base, with_figures
from hypothesis import given
from hypothesis import strategies as st

from bot import house
from bot.errors import InputError
from bot.house import bar, consistency, page
from bot.house.model import HouseEvidence, gain, over_all
from bot.lab.record import ALL, Paired

FOUND = housed.evidence()
BASE = FOUND.bases[1]
SHIPPED = sorted(each.stem for each in house.FOLDER.glob("*.json"))


def refusals(found: HouseEvidence) -> list[str]:
    return bar.refusals(*housed.pair(), found, housed.PINS)


def with_row(domain: str, **changes: object) -> HouseEvidence:
    """One base with these values in the row of a domain."""
    rows = [row.model_copy(update=changes if row.domain == domain else {}) for row in BASE.against]
    return with_base(against=rows)


def with_text(**changes: object) -> HouseEvidence:
    """One base with these values in the first text, which is of prose."""
    first, *rest = BASE.texts
    return with_base(texts=[first.model_copy(update=changes), *rest])


def row(domain: str) -> Paired:
    return next(each for each in BASE.against if each.domain == domain)


def wide(domain: str) -> dict[str, object]:
    """Intervals that hold nearly any figure below zero."""
    found = row(domain).change_interval.model_copy(update={"low": -1.0, "high": -1e-9})
    return {"change_interval": found, "difference_interval": found}


FORGED: dict[str, tuple[HouseEvidence, str]] = {
    "a change": (with_row("all", **wide("all") | {"change": -0.55}), "all: the change is -55.0000%"),
    "a domain's change": (
        with_row("code", **wide("code") | {"change": -0.55}),
        "code: the change is -55.0000%",
    ),
    "a difference": (
        with_row("chat", **wide("chat") | {"difference": -0.02}),
        "chat: the difference is -0.02",
    ),
    "a divergence": (with_row("code", kld=0.01), "code: the divergence is 0.01"),
    "the mean of the domains": (with_row("all", kld=0.01), "all: the divergence is 0.01"),
    "the counterpart's mean": (with_base(counterpart_kld=0.03), "counterpart_kld is 0.03"),
    "a change outside its interval": (
        with_row("all", change_interval=housed.paired("all", -0.3).change_interval),
        "all: the change -0.15 is outside -0.32 to -0.28",
    ),
    "a difference outside its interval": (
        with_row("all", difference_interval=housed.paired("all", -0.3).difference_interval),
        "all: the difference -0.003 is outside",
    ),
    "a row twice": (with_base(against=[*BASE.against, row("all")]), "the comparison has all more than once"),
    "a row of no domain": (
        with_base(against=[*BASE.against, housed.paired("poetry", -0.2)]),
        "the comparison has poetry, which the lab does not score",
    ),
    "figures twice": (
        with_base(house__figures=[*BASE.house.figures, BASE.house.figures[0]]),
        "the record of house-g32 has prose more than once",
    ),
    "a failure": (with_base(house__failure="no memory"), "house-g32 failed: no memory"),
    "a failure of the other": (
        with_base(counterpart__failure="no memory"),
        "gptq-foem-g32 failed: no memory",
    ),
    "another recipe": (with_base(house__recipe_name="x"), "the record of house-g32 is of x"),
    "another counterpart": (with_base(counterpart__recipe_name="x"), "the record of gptq-foem-g32 is of x"),
    "other tokens": (with_figures("house", tokens_sha256="1" * 64), "prose: the two were not scored alike"),
    "more windows": (with_figures("house", num_windows=129), "num_windows is 129 beside 128"),
    "more tokens": (with_figures("counterpart", num_tokens=32_769), "num_tokens is 32768 beside 32769"),
    "another base": (with_figures("house", base_ppl=7.001), "the base's perplexity is 7.001 beside 7.0"),
    "the split to choose by": (
        with_text(split="validation"),
        "prose was scored on Salesforce/wikitext wikitext-2-raw-v1 validation text, not on",
    ),
    "another data set": (with_text(dataset="a/b"), "prose was scored on a/b"),
    "another config": (with_text(config="c"), "prose was scored on Salesforce/wikitext c test text"),
    "another column": (with_text(column="c"), "Salesforce/wikitext wikitext-2-raw-v1 test c, not"),
    "a text missing": (with_base(texts=BASE.texts[1:]), "no text of prose is named"),
    "a text twice": (with_base(texts=[*BASE.texts, BASE.texts[0]]), "texts has prose more than once"),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_each_part_of_the_evidence_that_disagrees_is_refused_alone(case: str):
    forged, words = FORGED[case]
    (problem,) = refusals(forged)
    assert problem.startswith("on tiny-b: ")
    assert words in problem


@pytest.mark.parametrize("name", SHIPPED)
def test_committed_evidence_agrees_with_itself(name: str):
    found = HouseEvidence.model_validate_json((house.FOLDER / f"{name}.json").read_bytes())
    assert [line for each in found.bases for line in consistency.problems(each, *housed.pair(name))] == []


@given(st.sampled_from([*housed.DOMAINS, ALL]), st.floats(-1e-4, 1e-4))
def test_a_change_may_be_off_by_its_rounding(domain: str, off: float):
    found = row(domain).change + off
    if abs(abs(off) - 0.85e-6) > 0.2e-6:
        assert (refusals(with_row(domain, change=found)) == []) == (abs(off) < 0.85e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["kld", "change", "difference"])
def test_what_is_not_a_number_is_refused(field: str, value: float):
    assert any(
        f"all: the {field.replace('kld', 'divergence')} is" in x
        for x in refusals(with_row("all", **{field: value}))
    )


def test_the_row_over_all_is_told_by_its_name():
    turned = with_base(against=BASE.against[::-1])
    assert refusals(turned) == []
    assert gain(turned) == gain(FOUND)
    assert page.page([turned]).count("| tiny-b | chat |") == 1


@pytest.mark.parametrize("rows", [[], [row("code")], [row("all"), row("all")]])
def test_evidence_without_one_row_over_all_is_not_quoted(rows: list[Paired]):
    with pytest.raises(InputError, match=f"{sum(each.domain == ALL for each in rows)} rows over all") as told:
        over_all(BASE.model_copy(update={"against": rows}))
    assert told.value.where == "tiny-b"
