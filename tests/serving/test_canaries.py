"""Canaries, acceptance and soak on the real server of the tiny base; rules of answers without one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.errors import EngineError, InputError
from bot.measurements import Canaries
from bot.recipe_evaluation import SoakPlan
from bot.serving import canaries, command, drafting, prompts, soak
from bot.serving.canary_rules import degenerate, is_city, names_only, says
from bot.serving.canary_texts import BEGINNINGS, ledger
from bot.serving.client import Client
from bot.serving.engine import Engine
from bot.serving.server import Server, free_port
from bot.serving.subject import Subject

# What 5.6 M parameters can do: no facts, no sums and no number in a long text, and everything else.
HELD = {"text.agreement", "image", "video", "tool_call", "reasoning", "batch"}
COLOURS = ("red", "green", "blue", "yellow")
TEXT = [f"Paragraph {i} says what the one before it said, and one thing more.\n" for i in range(400)]


@pytest.fixture(scope="module")
def seen(tiny_server: Server, tiny: Subject, engine: Engine) -> Canaries:
    spared = command.spared(tiny, engine, drafting=True)
    return canaries.run(tiny_server.client, tiny, prefix_caching=False, spared=spared)


# ── canaries ───────────────────────────────────────────────────────────────────────────────


def test_the_tiny_base_serves_all_and_holds_what_it_can(seen: Canaries) -> None:
    rows = {row.id: row for row in seen.rows}
    assert list(rows) == list(canaries.CANARIES)
    assert {row.id for row in seen.rows if not row.applicable} == {"prefix_cache", "sampled"}
    assert "samples" in rows["sampled"].detail
    asked = [row for row in seen.rows if row.applicable]
    assert all(row.served for row in asked), [row.detail for row in asked if not row.served]
    assert {row.id for row in asked if row.held} == HELD


def test_each_colour_is_named(seen: Canaries) -> None:
    (row,) = (row for row in seen.rows if row.id == "image")
    named = [names_only(answer, colour) for answer, colour in zip(row.answers, COLOURS, strict=True)]
    assert named == [True] * 4


def test_the_long_prompt_is_nearly_as_long_as_the_context(seen: Canaries, tiny_server: Server) -> None:
    (row,) = (row for row in seen.rows if row.id == "long_prompt")
    tokens, served = (int(word) for word in row.detail.split() if word.isdigit())
    assert served == tiny_server.load.max_model_len
    assert 0.97 * served < tokens <= served - canaries.ANSWER_TOKENS


def test_agreement_keeps_greedy_tokens(seen: Canaries) -> None:
    (row,) = (row for row in seen.rows if row.id == "text.agreement")
    assert [len(tokens) for tokens in row.tokens] == [canaries.AGREEMENT_TOKENS] * canaries.NUM_AGREEMENT
    assert len({tuple(tokens) for tokens in row.tokens}) > canaries.NUM_AGREEMENT // 2


def test_a_request_that_is_refused_is_a_finding(tiny_server: Server, tiny: Subject) -> None:
    nobody = replace(tiny_server.client, model="nobody")
    rows = canaries.run(nobody, tiny, prefix_caching=True, spared={}).rows
    assert not any(row.served or row.held for row in rows)
    assert all("nobody" in row.detail for row in rows if row.applicable)


def test_a_server_that_is_not_there_is_an_error(tiny: Subject) -> None:
    gone = Client(url=f"http://127.0.0.1:{free_port()}", model="tiny")
    with pytest.raises(EngineError) as caught:
        canaries.run(gone, tiny, prefix_caching=False, spared={})
    assert caught.value.kind == "died"


def test_what_does_not_concern_a_checkpoint_is_not_asked(tiny: Subject) -> None:
    blind = replace(tiny, facts=tiny.facts.model_copy(update={"num_visual_tensors": 0}))
    still = replace(tiny, serve=tiny.serve.model_copy(update={"limit_mm_per_prompt": {"video": 0}}))
    assert canaries.not_applicable("image", blind, prefix_caching=True)
    assert canaries.not_applicable("video", blind, prefix_caching=True)
    assert canaries.not_applicable("video", still, prefix_caching=True)
    assert canaries.not_applicable("prefix_cache", tiny, prefix_caching=False)
    assert [
        name for name in canaries.CANARIES if canaries.not_applicable(name, tiny, prefix_caching=True)
    ] == []


# ── rules ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "word", "held"),
    [
        ("The capital of France is **Paris**.", "Paris", True),
        ("paris", "Paris", True),
        ("Parisian", "Paris", False),
        ("17 + 25 = 42.", "42", True),
        ("It is 420.", "42", False),
        ("", "42", False),
    ],
)
def test_says(answer: str, word: str, held: bool) -> None:
    assert says(answer, word) is held


def test_a_colour_must_be_the_only_one_named() -> None:
    assert names_only("The image is red.", "red")
    assert not names_only("It is red or blue.", "red")
    assert not names_only("The image is reddish.", "red")


@pytest.mark.parametrize(
    ("arguments", "held"),
    [
        ('{"city": "Paris"}', True),
        ('{"city": ""}', False),
        ('{"town": "x"}', False),
        ("[1]", False),
        ("{", False),
    ],
)
def test_is_city(arguments: str, held: bool) -> None:
    assert is_city(arguments) is held


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([[1, 2], []], "empty"),
        ([[1, 2], [1, 2]], "same answer"),
        ([[1, 1], [2, 2], [3, 4]], "2 answers repeat"),
        ([[1, 1], [3, 4]], None),
        ([[1, 2], [3, 4]], None),
    ],
)
def test_degenerate(answers: list[list[int]], words: str | None) -> None:
    found = degenerate(answers)
    assert (found is None) == (words is None)
    assert words is None or words in str(found)


def test_what_is_asked() -> None:
    assert len(set(BEGINNINGS)) == len(BEGINNINGS) == 16
    assert ledger(30).count("7412") == 1
    assert ledger(30).index("7412") < len(ledger(30)) / 2


# ── drafting ───────────────────────────────────────────────────────────────────────────────


def test_acceptance_counts_every_kind(tiny_server: Server) -> None:
    found = drafting.acceptance(tiny_server.client, num_speculative_tokens=2, output_tokens=24)
    assert {row.kind: row.num_prompts for row in found.kinds} == {
        kind: len(texts) for kind, texts in prompts.kinds().items()
    }
    for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens"):
        assert getattr(found.total, name) == sum(getattr(row.drafts, name) for row in found.kinds)
    first, second = found.total.by_position
    assert found.total.num_draft_tokens == 2 * found.total.num_drafts
    assert 0.4 < second <= first < 1  # the head was trained, and is no oracle


def test_greedy_answers_are_all_as_long_and_do_not_change(tiny_server: Server) -> None:
    one, other = (drafting.greedy(tiny_server.client, 16).tokens for _ in range(2))
    assert [len(tokens) for tokens in one] == [16] * sum(map(len, prompts.kinds().values()))
    assert drafting.equality(one, other).num_equal == len(one)


# ── soak ───────────────────────────────────────────────────────────────────────────────────


def test_the_soak_answers_at_exactly_the_planned_contexts(tiny_server: Server) -> None:
    plan = SoakPlan(context_tokens=1500, window_tokens=512, output_tokens=32)
    found = soak.run(tiny_server.client, TEXT, plan, max_model_len=tiny_server.load.max_model_len)
    assert [window.context_tokens for window in found.windows] == [512, 1024, 1500]
    assert [window.output_tokens for window in found.windows] == [32, 32, 32]
    assert found.reached_context_tokens == found.target_context_tokens
    assert found.limit == "the target was reached"
    assert found.fresh.by_position == found.opening.by_position  # nothing wears out in so short a talk
    assert all(window.drafts.num_drafts > 0 for window in found.windows)


def test_too_little_text_is_no_soak(tiny_server: Server) -> None:
    plan = SoakPlan(context_tokens=4096, window_tokens=512, output_tokens=32)
    with pytest.raises(InputError, match=r"text ended at [\d,]+ tokens of context; the soak goes to 4,096"):
        soak.run(tiny_server.client, iter(TEXT[:40]), plan, max_model_len=8192)


def test_the_soak_ends_at_the_model_s_limit(tiny_server: Server) -> None:
    plan = SoakPlan(context_tokens=40960, window_tokens=4096, output_tokens=32)
    served = tiny_server.load.max_model_len
    found = soak.run(tiny_server.client, TEXT, plan, max_model_len=served)
    assert [window.context_tokens for window in found.windows] == [4096, served - 32 - soak.END_TOKENS]
    assert str(served) in found.limit
