"""The pull request's text: what a reviewer needs, and nothing that text from outside could do with it."""

from __future__ import annotations

import itertools
import re

import pytest
from cards import golden, judged, siblings_of
from markdown_it import MarkdownIt
from measured import canaries, measurement

from bot.edges.github import MAX_TEXT_CHARS
from bot.evidence import Evidence, Override, Republished
from bot.review import body, change
from bot.review.body import Places

PLACES = Places(hub="https://hub.test", files="https://git.test/raw/1/x", card="https://git.test/blob/1/x")
# What GitHub turns into a mention or a reference, in the text that Markdown renders to.
LINKED = re.compile(r"@[A-Za-z0-9]|#\d|(?i:\bGH-\d)")
EVIL = "x](https://evil.test)\n\n## Merge me @eve fixes #1\n/retry\n<img src=x onerror=y> ``` | `"


def hostile() -> Evidence:
    """Text from outside in every place that the body shows."""
    found = measurement(release={"canaries": canaries(image={"held": False, "answers": [EVIL]})})
    said = Override(gates=["canary.image"], who=EVIL, why=EVIL, at=EVIL, inputs_digest="f" * 64)
    evil = siblings_of("gptq-foem-g32")[0].model_copy(update={"recipe_name": EVIL, "headline": EVIL})
    made = judged(found, siblings=[evil], override=said)
    base = made.release.base.model_copy(update={"repo_id": EVIL})
    upload = made.upload.model_copy(update={"repo_id": f"a/{EVIL}"})
    release = made.release.model_copy(update={"base": base, "recipe_name": EVIL})
    return made.model_copy(update={"release": release, "upload": upload})


def test_what_a_reviewer_needs_is_there():
    evidence = judged(siblings=siblings_of("gptq-foem-g32"))
    text = body.body(evidence, golden("gptq-foem-g32"), PLACES)
    for heading in ("Gates", "TL;DR", "Change", "Reviewing"):
        assert f"## {heading}\n" in text
    repo, num = evidence.upload.repo_id, evidence.upload.pr_num
    assert f"(https://hub.test/{repo}/discussions/{num})" in text
    assert "| perplexity ± standard error (change) | 7.1300 ± 0.0371 (+1.86%) |" in text
    assert "| KL divergence from the base, nats | 0.0050 | 0.0210 |" in text
    assert "https://git.test/raw/1/x/plots/quality-dark.png" in text
    assert "/override GATE why" in text
    for each in evidence.gates.results:
        assert f"\n| `{each.id}` | {each.status.replace('_', ' ')} | " in text
    assert "- Not measured: speed of nvfp4: this machine only emulates the format" in text
    assert body.title(evidence).startswith(f"Release {evidence.release.key}: Qwen/Qwen3.5-tiny")


def test_the_same_weights_once_more_are_told_as_that():
    note = Republished(
        key="0123456789abcdef", base_revision="c" * 40, files=["chat_template.jinja", "`@eve` #1.json"]
    )
    text = body.body(judged().model_copy(update={"republished": note}), None, PLACES)
    assert "**A metadata release.** The same weights are published once more" in text
    assert "those of release `0123456789abcdef` of the base at `cccccccccccc`" in text
    assert "`chat_template.jinja`, `` `@eve` #1.json ``." in text
    assert "metadata release" not in body.body(judged(), None, PLACES)
    many = note.model_copy(update={"files": [f"{n}.json" for n in range(50)]})
    assert " and 10 more." in body.body(judged().model_copy(update={"republished": many}), None, PLACES)


@pytest.mark.parametrize("before", [None, "itself"])
def test_text_from_outside_is_only_shown(before: str | None):
    evidence = hostile()
    text = body.body(evidence, evidence if before else None, PLACES)
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    children = [child for token in tokens for child in token.children or []]
    links = [str(each.attrs["href"]) for each in children if each.type == "link_open"]
    assert links
    assert all(each.startswith(("https://hub.test/", "https://git.test/")) for each in links)
    headings = [after.content for one, after in itertools.pairwise(tokens) if one.type == "heading_open"]
    assert headings == ["Gates", "TL;DR", "Change", "Reviewing"]
    shown = " ".join(each.content for each in children if each.type == "text")
    assert not LINKED.search(shown)
    html = " ".join(each.content for each in tokens if each.type == "html_block")
    html += " ".join(each.content for each in children if each.type == "html_inline")
    assert "onerror" not in html
    assert not re.search(r"(?m)^/(retry|skip|override)", text)


def test_a_title_from_outside_is_one_line():
    assert "\n" not in body.title(hostile())
    assert not LINKED.search(body.title(hostile()))


def test_a_body_too_long_gives_up_plots_first(monkeypatch: pytest.MonkeyPatch):
    evidence = judged()
    whole = body.body(evidence, None, PLACES)
    assert len(whole) < MAX_TEXT_CHARS
    monkeypatch.setattr(body, "MAX_TEXT_CHARS", len(whole) - 1)
    cut = body.body(evidence, None, PLACES)
    assert "Plots" not in cut
    assert "## Reviewing" in cut


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("model_cards/o--Qwen3.6-27B-NVFP4", "model_cards/o--Qwen3.6-27B-NVFP4"),
        ("model_cards/o--Qwen3.7-27B-NVFP4", "model_cards/o--Qwen3.6-27B-NVFP4"),
        ("model_cards/o--Llama-8B-NVFP4", None),
    ],
)
def test_the_predecessor_is_the_same_recipes(folder: str, expected: str | None):
    known = [
        f"model_cards/o--{name}" for name in ("Qwen3.6-27B-NVFP4", "Qwen3.6-27B-GPTQ", "Qwen3-0.6B-NVFP4")
    ]
    assert change.folder_before(folder, "NVFP4", known) == expected
