"""What may stand beside each other: engines, machines, and the age of a speed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import measured
import pytest

from bot.comparable import DIFFERENCES, comparable, differences, fresh
from bot.measurements import EngineFacts
from bot.models import Hardware


def test_every_fact_of_an_engine_is_looked_at():
    assert DIFFERENCES.keys() | {"hardware"} == EngineFacts.model_fields.keys()


def test_all_differences_are_told_not_only_the_first():
    other = measured.engine(version="0.33.0", torch="2.14.0")
    assert len(differences(measured.engine(), other)) == 2


def test_figures_of_one_engine_on_one_machine_are_comparable():
    assert comparable(measured.engine(), measured.engine()) is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("package", "other", "engines: vllm and other"),
        ("version", "0.33.0", "engine versions: 0.32.0 and 0.33.0"),
        ("environment", "vllm-cpu", "kinds of engine environment: vllm-cuda and vllm-cpu"),
        ("environment_digest", "e" * 64, "engine environments: cccccccccccc… and eeeeeeeeeeee…"),
        ("torch", "2.14.0", "builds of torch"),
        ("transformers", "5.20.0", "versions of transformers"),
        ("device", "cpu", "kinds of device: cuda and cpu"),
        ("driver", None, "drivers: 580.65.06 and None"),
        ("compute_capability", "12.0", "compute capabilities: 9.0 and 12.0"),
    ],
)
def test_figures_of_two_engines_are_not(field: str, value: object, words: str):
    changed = measured.engine().model_copy(update={field: value})
    assert words in (comparable(measured.engine(), changed) or "")
    assert comparable(changed, measured.engine()) is not None


@pytest.mark.parametrize("field", sorted(Hardware.model_fields))
def test_another_machine_is_never_comparable(field: str):
    one = measured.engine()
    hardware = dict(one.hardware)
    hardware[field] = hardware[field] + 1 if isinstance(hardware[field], int) else "another"
    other = measured.engine(hardware=Hardware(**hardware))
    assert f"two machines, whose {field}" in (comparable(one, other) or "")


NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(0), True),
        (timedelta(hours=24), True),
        (timedelta(hours=24, seconds=1), False),
        (timedelta(minutes=-4), True),
        (timedelta(minutes=-6), False),
    ],
)
def test_a_speed_lasts_a_day(age: timedelta, expected: bool):
    at = (NOW - age).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert fresh(at.isoformat(), NOW) is expected


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-21T12:00:00"])
def test_a_time_that_says_nothing_is_not_fresh(text: str):
    assert fresh(text, NOW) is False
