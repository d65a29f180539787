"""Prose regions: a reviewer's words survive, and nothing but words can be put there."""

from __future__ import annotations

import pytest
from cards import golden, judged
from hypothesis import given
from hypothesis import strategies as st

from bot import cardcompare, cardlint, prose
from bot.errors import GateFailed
from bot.localhub import cards as localcards
from bot.models import write_json
from bot.recipe import faithful
from bot.stages import card

TEXT = "a\n<!-- prose:one -->\nx 4\n<!-- /prose:one -->\nb\n<!-- prose:two -->\n<!-- /prose:two -->\nc\n"


def rewritten(text: str, **words: str) -> str:
    """`text` as a reviewer leaves it who wrote `words` into its regions."""
    return prose.splice(text, words)


def test_regions_are_found_and_replaced():
    assert prose.regions(TEXT) == {"one": "x 4", "two": ""}
    assert prose.splice(TEXT, {"two": "y\nz", "other": "w"}) == TEXT.replace(
        "two -->\n<", "two -->\ny\nz\n<", 1
    )
    assert prose.blank(TEXT) == TEXT.replace("x 4", "")


@given(st.dictionaries(st.sampled_from(["one", "two"]), st.text("ab \n-", max_size=20)))
def test_what_is_written_comes_back(words: dict[str, str]):
    spliced = prose.splice(TEXT, words)
    assert prose.problems(spliced, TEXT) == []
    assert prose.regions(spliced) == {**prose.regions(TEXT), **words}
    assert prose.splice(TEXT, prose.regions(spliced)) == spliced
    assert prose.splice(spliced, prose.regions(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<!-- prose:one -->\n", "prose:one has no end"),
        ("<!-- /prose:one -->\n", "ends and has not begun"),
        ("<!-- prose:one -->\n<!-- prose:two -->\n<!-- /prose:two -->\n", "begins inside prose:one"),
        (TEXT + "<!-- prose:one -->\n<!-- /prose:one -->\n", "prose:one stands 2 times"),
        (TEXT + "<!-- prose:new -->\n<!-- /prose:new -->\n", "prose:new is no region of this card"),
        (TEXT.replace("prose:two", "prose:three"), "the marks of prose:two are missing"),
        (TEXT.replace("<!-- prose:two -->", "<!-- prose:two-->"), "is no mark of a prose region"),
        (TEXT.replace("<!-- prose:two -->", " <!-- prose:two -->"), "is no mark of a prose region"),
        (TEXT.replace("x 4", "```"), "prose:one has no end"),
        (TEXT.replace("x 4", "x" * 9000), "more than 8,000 characters"),
    ],
)
def test_broken_marks_are_told(text: str, words: str):
    assert any(words in each for each in prose.problems(text, TEXT)), prose.problems(text, TEXT)


def test_a_mark_in_a_fenced_block_is_text():
    text = "```text\n<!-- prose:one -->\n<!-- /prose:one -->\n```\n" + TEXT
    assert prose.problems(text, text) == []
    assert prose.splice(text, {"one": "new"}).startswith("```text\n<!-- prose:one -->\n<!-- /prose:one -->\n")


# ── on a card ──────────────────────────────────────────────────────────────────────────────


def lint(text: str, recipe: str = "nvfp4") -> list[str]:
    found = golden(recipe)
    return cardlint.lint(text, known=card.known_figures(found), rendered=card.render(found))


@pytest.mark.parametrize("name", faithful())
def test_a_card_has_its_regions(name: str):
    text = card.render(golden(name))
    assert set(prose.regions(text)) == {"summary", "note", "limits"}
    assert cardcompare.compare(text, text) == []


def test_words_of_a_reviewer_hold():
    rendered = card.render(golden("nvfp4"))
    text = rewritten(
        rendered,
        summary="Weights and activations in NVFP4.\n\nChosen for long answers.",
        note="**Seen**: it answers well in German.",
        limits="- Only chat was tried.",
    )
    assert lint(text) == []
    assert cardcompare.compare(text, rendered) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("It keeps 99.1% of the base.", "'99.1' does not stand in prose:note"),
        ("It is 2x as fast.", "'2x' does not stand in prose:note"),
        ("½ the size.", "a figure in prose:note"),
        ("See [here](https://elsewhere).", "a link in prose:note"),
        ("![x](plots/y.png)", "an image in prose:note"),
        ("<img src=x onerror=y>", "HTML in prose:note"),
        ("<!-- hidden", "HTML in prose:note"),
        ("ask me@elsewhere.org", "a link in prose:note"),
        ("tfel\N{RIGHT-TO-LEFT OVERRIDE}", "a control character in prose:note"),
        ("TODO", "placeholder 'TODO'"),
    ],
)
def test_only_words_go_into_a_region(words: str, problem: str):
    text = rewritten(card.render(golden("nvfp4")), note=words)
    assert any(problem in each for each in lint(text)), lint(text)


def test_a_figure_of_the_region_may_be_said_again_and_not_changed():
    rendered = card.render(golden("gptq-w4a16-g128"))
    assert "4 bits in groups of 128" in prose.regions(rendered)["summary"]
    kept = rewritten(rendered, summary="Groups of 128, and 4 bits.")
    changed = rewritten(rendered, summary="The Linear layers at 3 bits in groups of 128.")
    assert lint(kept, "gptq-w4a16-g128") == []
    assert any("'3' does not stand in prose:summary" in each for each in lint(changed, "gptq-w4a16-g128"))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("| MTP head | BF16 | 15 |", "| MTP head | BF16 | 16 |", "a figure changes only with its evidence"),
        ("not from its configuration.", "and not from a file.", "between the marks of a prose region only"),
        ("## Audit\n", "My own words.\n\n## Audit\n", "words of your own belong between the marks"),
        ("## Limits\n\n", "", "'## Limits' is missing before it"),
        ("<!-- prose:note -->\n", "", "prose:note ends and has not begun"),
        ("<!-- prose:note -->\n<!-- /prose:note -->\n", "", "the marks of prose:note are missing"),
        ("\n", "\r\n", "the line endings are not LF"),
    ],
)
def test_an_edit_outside_is_told_with_what_to_do(before: str, after: str, words: str):
    rendered = card.render(golden("nvfp4"))
    assert before in rendered
    text = rendered.replace(before, after) if before == "\n" else rendered.replace(before, after, 1)
    shown = cardcompare.compare(text, rendered)
    assert any(words in each for each in shown), shown


def test_every_byte_outside_counts():
    rendered = card.render(golden("nvfp4"))
    for edited in (rendered + "\n", rendered.rstrip("\n"), rendered.replace(" of ", "  of ", 1)):
        assert cardcompare.compare(edited, rendered) != []


def test_a_card_of_other_evidence_is_a_short_list():
    shown = cardcompare.compare(card.render(golden("nvfp4")), card.render(golden("gptq-foem-g32")))
    assert len(shown) == 21
    assert shown[-1].endswith("more differences")


# ── rendered again ─────────────────────────────────────────────────────────────────────────


def test_words_survive_a_new_render_with_other_evidence(tmp_path):
    before = golden("gptq-foem-g32")
    folder = tmp_path / "card"
    card.render_to(folder, before)
    readme = folder / "README.md"
    readme.write_text(rewritten(readme.read_text(), note="Tried it: good."), encoding="utf-8")
    assert card.render_to(folder, before) is False
    assert card.render_to(folder, judged()) is True
    assert prose.regions(readme.read_text())["note"] == "Tried it: good."
    assert readme.read_text() == card.render(judged(), {"note": "Tried it: good."})
    card.check(folder)


def test_words_that_nobody_changed_follow_the_recipe():
    """A summary that is the old recipe's own is not a reviewer's, and gives way to the new one's."""
    before = golden("nvfp4")
    text = card.render(before)
    assert card.edited(text, before.model_dump_json().encode()) == {}
    assert card.edited(rewritten(text, note="mine"), before.model_dump_json().encode()) == {"note": "mine"}
    assert card.edited(rewritten(text, note="mine"), b"{}")["note"] == "mine"


def test_a_card_edited_outside_is_refused_before_it_is_published(tmp_path):
    folder = tmp_path / "card"
    card.render_to(folder, golden("nvfp4"))
    readme = folder / "README.md"
    readme.write_text(readme.read_text().replace("Read from the tensors", "Taken from the tensors"))
    with pytest.raises(GateFailed, match="between the marks of a prose region only") as refused:
        card.check(folder)
    assert len(refused.value.problems) == 1
    write_json(folder / "evidence.json", golden("gptq-foem-g32"))
    with pytest.raises(GateFailed, match="more differences"):
        card.check(folder)


def test_marks_do_not_show_on_the_embedded_hub():
    html = localcards.render(rewritten(card.render(golden("nvfp4")), note="Tried it."))
    assert "prose:" not in html
    assert "<p>Tried it.</p>" in html
