"""Figures: how they are shown, and that each shown form is found again in the evidence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot import figures


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.gib(20_970_000_000), "19.53 GiB"),
        (figures.gib(10_485_760), "10.0 MiB"),
        (figures.count(1199), "1,199"),
        (figures.percent(0.1234), "12.3%"),
        (figures.seconds(3204), "53.4 min"),
        (figures.seconds(12.34), "12.3 s"),
        (figures.fixed(0.10984), "0.110"),
        (figures.change(0.01857), "+1.86%"),
        (figures.change(-0.2), "\N{MINUS SIGN}20.00%"),
        (figures.nats(0.02134), "0.0213"),
        (figures.nats(0.000217), "0.000217"),
        (figures.nats(0.0), "0.0000"),
        (figures.short(0.98711), "0.9871"),
        (figures.plain(True), "true"),
        (figures.plain(None), "none"),
    ],
)
def test_shown_forms(shown, expected):
    assert shown == expected


@given(st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9, allow_nan=False))
def test_every_shown_form_is_a_form_of_its_value(value):
    known = figures.forms({"x": [value]})
    shown = [figures.gib(value), figures.percent(value), figures.seconds(value), figures.fixed(value)]
    shown += [figures.change(value), figures.nats(value), figures.short(value)]
    if isinstance(value, int):
        shown.append(figures.count(value))
    for text in shown:
        assert {each.lstrip("-\N{MINUS SIGN}") for each in figures.numbers(text)} <= known


def test_token_ids_are_no_figures():
    assert "4711" not in figures.forms({"tokens": [[4711]]})
    assert "4711" in figures.forms({"tokens": 4711})


def test_numbers_in_text():
    text = "1,199 tensors, 19.53 GiB, 4-bit, v2.13.0, +1.95%, shard-00001-of, 256–2,048, 1e-5"
    assert figures.numbers(text) == ["1199", "19.53", "4", "1.95", "00001", "256", "2048", "1e-5"]


def test_a_digest_that_begins_with_digits_may_be_shown_by_its_beginning():
    known = figures.forms({"revision": "20659417" + "a1" * 16, "other": "1234e567" + "b" * 24})
    assert {"20659417", "1234e567"} <= known
    assert "2065941" not in known
