"""Cards: golden files from real evidence, outside text kept harmless, and a lint that finds what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bot import cardlint, figures
from bot.errors import GateFailed, InputError
from bot.evidence import Evidence
from bot.models import read_json, write_json
from bot.recipe import names
from bot.stages import card

GOLDEN = Path(__file__).resolve().parents[1] / "fixtures" / "cards"


def evidence(name: str) -> Evidence:
    return read_json(GOLDEN / name / "evidence.json", Evidence)


def changed(found: Evidence, **values: object) -> Evidence:
    """`found` with values replaced, by path with double underscores."""
    content = found.model_dump(mode="json")
    for path, value in values.items():
        *parents, last = path.split("__")
        target = content
        for part in parents:
            target = target[int(part)] if part.isdigit() else target[part]
        target[last] = value
    return Evidence.model_validate(content)


def problems(text: str, found: Evidence) -> list[str]:
    return cardlint.lint(text, found.model_dump(mode="json"), rendered=card.render(found))


@pytest.mark.parametrize("name", names())
def test_cards_render_as_the_golden_ones(name: str):
    """Write them anew with tests/fixtures/cards/update.py after looking at the difference."""
    assert card.render(evidence(name)) == (GOLDEN / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", names())
def test_golden_cards_hold(name: str):
    assert problems((GOLDEN / name / "README.md").read_text(encoding="utf-8"), evidence(name)) == []


@pytest.mark.parametrize("name", names())
def test_metadata_is_complete(name: str):
    found = yaml.safe_load(card.metadata(evidence(name)))
    assert set(cardlint.REQUIRED) <= found.keys()
    assert found["base_model_relation"] == "quantized"
    assert f"release-{evidence(name).release.key}" in found["tags"]


def test_text_from_outside_is_neither_markup_nor_yaml():
    evil = "Qwen/x](https://evil) <img src=x onerror=1> | `rm` \n# heading {{ 7*7 }}"
    found = changed(
        evidence("nvfp4"),
        base__license='apache-2.0"\ntags: [evil]',
        quantize__hardware__cpu=evil,
        quantize__result__versions={"torch": "2.0 | x `y`\n\n# hi"},
    )
    text = card.render(found)
    assert "<img" not in text.replace("\\<img", "")
    assert "\n# heading" not in text
    assert "\n# hi" not in text
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["license"] == 'apache-2.0"\ntags: [evil]'
    assert "evil" not in data["tags"]
    assert "49" not in figures.numbers(text.split("processor")[1].split("\n")[0])


OUTSIDE = st.text(
    st.sampled_from("`|\\*_~<>[]()!&#:/@w.a1 -=+'\"") | st.characters(codec="utf-8"), max_size=40
)


def shown(source: str) -> tuple[str, set[str]]:
    """The text that one paragraph shows, and the kinds of its inline tokens."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parseInline(source)[0].children or []
    return "".join(token.content for token in tokens), {token.type for token in tokens}


@given(OUTSIDE)
@example("https://evil.example/x www.evil.example @someone me@evil.example")
@example("a\N{RIGHT-TO-LEFT OVERRIDE}b\N{ZERO WIDTH SPACE}c\x07d\te")
@example("<b>*x*</b> [a](b) ![a](b) &amp; `x` ~~y~~ \\")
def test_text_from_outside_shows_as_it_is(text: str):
    plain = "".join(c for c in " ".join(f"x{text}x".split()) if unicodedata.category(c) not in ("Cc", "Cf"))
    escaped = card.markdown(f"x{text}x")
    assert shown(escaped) == (plain, {"text"})
    # GFM links these where they stand unescaped.
    assert not re.search(r"(?i)(?<!\\):(?=//)|www(?=\.)|(?<!\\)@", escaped)


@given(OUTSIDE)
@example("`")
@example("``x`")
@example(" `x")
def test_code_from_outside_shows_as_it_is(text: str):
    plain = "".join(c for c in " ".join(text.split()) if unicodedata.category(c) not in ("Cc", "Cf"))
    plain = plain.strip().replace("|", "¦")
    assert shown(card.code(text)) == ((plain, {"code_inline"}) if plain else ("", set()))


def test_fenced_text_keeps_lines_and_cannot_close_the_fence():
    inside = card.fenced("a\tb\n```\n<x>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}")
    (token,) = MarkdownIt().parse(f"```console\n{inside}\n```")
    assert token.content == "a\tb\n'''\n<x>[31m\n"


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://x/)[y](z", "http://x y"])
def test_a_link_from_outside_cannot_break_out(link: str):
    shown = card.url(link)
    assert not shown.startswith("javascript")
    assert not set(shown) & set(" ()[]<>\"'")


def test_a_missing_value_stops_the_rendering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "card.md.j2").write_text("{{ nothing_of_this_name }}")
    monkeypatch.setattr(card, "TEMPLATES", tmp_path)
    with pytest.raises(jinja2.UndefinedError):
        card.render(evidence("nvfp4"))


def test_a_dead_mtp_head_is_never_called_identical():
    found = evidence("nvfp4")
    checks = [c.model_dump() for c in found.audit.report.checks]
    for check in checks:
        if check["id"] == "mtp.bits":
            check.update(status="failed", passed=False, detail="mtp.fc.weight differs")
    text = card.render(changed(found, audit__report__checks=checks))
    assert "**The MTP head is not the base's**" in text
    assert "MTP head are bit-identical" not in text


BEFORE_LIMITS = [
    ("It reaches 87.31% of the base.", "'87.31' is not in the evidence"),
    ("The 27B model.", "'27B' is not in the evidence"),
    ("It is 2x as fast.", "'2x' is not in the evidence"),
    ("120tok/s", "'120tok' is not in the evidence"),
    ("10k contexts", "'10k' is not in the evidence"),
    ("since v2.5x", "'v2.5x' is not in the evidence"),
    ("1_000 users", "'1_000' is not in the evidence"),
    ("٩٩ percent", "'٩٩' is not in the evidence"),
    ("½ the size", "a figure that is not in the rendered card"),
    ("in 16 bits", "'16' is not what the evidence says here"),
    ("It reaches nine&half;", "HTML that is not"),
    ("![x](https://elsewhere/y.png)", "an image that is not"),
    ("[x](elsewhere)", "a link that is not"),
    ("[x][y]", "a link that is not"),
    ("[y]: elsewhere", "a link that is not"),
    ("see https://elsewhere", "a link that is not"),
    ("see WWW.elsewhere.org", "a link that is not"),
    ("ask me@elsewhere.org", "a link that is not"),
    ("<img", "HTML that is not"),
    ("<!-- hidden", "HTML that is not"),
    ("```", "a code fence that is not"),
    ("tfel ot thgir\N{RIGHT-TO-LEFT OVERRIDE}", "a control character that is not"),
    ("TODO", "placeholder 'TODO'"),
    ("todo: say why", "placeholder 'todo'"),
    ("tbd", "placeholder 'tbd'"),
    ("FixMe", "placeholder 'FixMe'"),
    ("Lorem Ipsum dolor", "placeholder 'Lorem Ipsum'"),
    ("Coming soon.", "placeholder 'Coming soon'"),
    ("{{ perplexity }}", "placeholder '{{'"),
    ("{% if x %}", "placeholder '{%'"),
    ("%(model)s", "placeholder '%(model)s'"),
    ("the {model_name}", "placeholder '{model_name}'"),
    (r"the \{model\_name\}", "placeholder '{model_name}'"),
    ("the <NAME>", "placeholder '<NAME>'"),
    ("<your model>", "placeholder '<your model>'"),
    ("$MODEL", "placeholder '$MODEL'"),
    ("[insert figure]", "placeholder '[insert figure]'"),
    ("why???", "placeholder '???'"),
    ("perplexity: None", "placeholder 'None'"),
    ("| perplexity | nan |", "placeholder 'nan'"),
    ("Perplexity is NaN.", "placeholder 'NaN'"),
    ("perplexity = `null`", "placeholder 'null'"),
]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        *(("## Limits", f"{added}\n\n## Limits", words) for added, words in BEFORE_LIMITS),
        ("| 16.00 |", "| 16.00 | 3.99 |\n| x |", "'3.99' is not in the evidence"),
        ("| vision tower |", "| towers |", "'| vision tower | BF16 | 33 | 0.6 MiB |' is missing"),
        ("> **Rehearsal.** This release was made to try the pipeline, not to be used.\n", "", "Rehearsal"),
        ("## Limits\n", "", "'## Limits' is missing"),
        (
            "- Runs natively on Blackwell GPUs only; elsewhere engines emulate it, slowly.\n",
            "",
            "Runs natively",
        ),
        ("**Licence**: apache-2.0", "Licence: mit", "'**Licence**: apache-2.0, that"),
        ("![Size by", "[Size by", "a link that is not in the rendered card"),
        ("license: apache-2.0\n", "", "metadata lacks license"),
        ("license: apache-2.0\n", "license: mit\n", "metadata license is not what the evidence says"),
        ("license: apache-2.0\n", "license: mit\nlicense: apache-2.0\n", "metadata has license 2 times"),
        ("license: apache-2.0\n", "license: apache-2.0\nauthor: me\n", "metadata author is not what"),
        ("base_model_relation: quantized", "base_model_relation: finetune", "not 'quantized'"),
        ("---\nbase_model", "--\nbase_model", "no YAML metadata"),
        ("---\nbase_model", f"---\nx: {'[' * 20_000}\nbase_model", "metadata is not YAML"),
        ("---\nbase_model", "---\nx: 2026-13-45\nbase_model", "metadata is not YAML"),
        ("---\nbase_model", f"---\nx: {'y' * 70_000}\nbase_model", "more than 64000"),
        ("---\nbase_model", "---\nx: &a [y]\nz: *a\nbase_model", "YAML aliases"),
        ("---\nbase_model", "---\n- x\n---\n\nbase_model", "not a mapping"),
    ],
)
def test_the_lint_finds(before: str, after: str, words: str):
    found = evidence("nvfp4")
    text = card.render(found)
    assert before in text
    shown = problems(text.replace(before, after, 1), found)
    assert any(words in each for each in shown), shown


def test_rows_and_sections_that_change_places_are_found():
    found = evidence("nvfp4")
    text = card.render(found)
    row, other = "| embeddings | BF16 | 1 | 1.0 MiB |", "| vision tower | BF16 | 33 | 0.6 MiB |"
    swapped = text.replace(row, "\0").replace(other, row).replace("\0", other)
    between = r"| lm\_head | BF16 | 1 | 1.0 MiB |"
    assert problems(swapped, found) == [f"the line {between!r} is not in its place"]
    head, _, rest = text.partition("## Limits")
    moved = head.replace("## Recipe", "## Limits") + "## Recipe" + rest
    assert problems(moved, found) == [
        "the line '`nvfp4`: what the method was told, and whether it acted.' is not in its place"
    ]


def test_the_same_figure_twice_is_one_too_many():
    found = evidence("nvfp4")
    text = card.render(found)
    row = "| vision tower | BF16 | 33 | 0.6 MiB |\n"
    assert "'0.6' is not what the evidence says here" in str(problems(text.replace(row, row * 2), found))


def test_reviewers_may_edit_prose():
    """A line without figure, link or structure, edited, added or taken away."""
    found = evidence("nvfp4")
    text = card.render(found)
    prose = "Read from the tensors of this repo, not from its configuration.\n"
    assert prose in text
    added = "None of this is hard; your model may differ: a todo-list/app, nine in ten, a < b, {} and $ x.\n"
    for edited in (added, "", prose + "\n" + added):
        assert problems(text.replace(prose, edited), found) == []


def test_a_figure_written_into_the_template_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    source = (card.TEMPLATES / "card.md.j2").read_text(encoding="utf-8")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "card.md.j2").write_text(
        source.replace("## Audit", "It keeps 98.765%.\n\n## Audit")
    )
    monkeypatch.setattr(card, "TEMPLATES", tmp_path / "templates")
    with pytest.raises(GateFailed, match=r"as rendered: '98\.765' is not in the evidence") as refused:
        card.render_to(tmp_path / "card", evidence("nvfp4"))
    assert [each.split(": ")[1] for each in refused.value.problems] == ["'98.765' is not in the evidence"]
    assert not (tmp_path / "card").exists()


def test_a_card_without_evidence_beside_it(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text(card.render(evidence("nvfp4")), encoding="utf-8")
    missing = "evidence.json is missing beside the card"
    assert cardlint.lint_file(path) == [missing]
    path.write_text("---\nlicense: mit\n---\nTBD\n")
    lacking = [f"metadata lacks {key}" for key in cardlint.REQUIRED if key != "license"]
    assert cardlint.lint_file(path) == [*lacking, "line 4: placeholder 'TBD'", missing]
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        cardlint.lint_file(path)


def test_refuse_names_every_problem():
    cardlint.refuse([], "README.md")
    with pytest.raises(GateFailed, match=r"\(2\):\n  - one\n  - two\n  where: README.md") as refused:
        cardlint.refuse(["one", "two"], "README.md")
    assert refused.value.problems == ["one", "two"]


def test_every_edit_of_a_figure_is_found():
    """Each number of the body, changed alone, is a problem."""
    found = evidence("nvfp4")
    text = card.render(found)
    head, table, body = text.partition("| | base |")
    tried = missed = 0
    for match in figures.NUMBER.finditer(body):
        if body[max(0, match.start() - 1)] in "`-_" or "." not in match[0]:
            continue
        edited = body[: match.start()] + "73.9137" + body[match.end() :]
        tried += 1
        missed += not problems(f"{head}{table}{edited}", found)
    assert tried > 15
    assert missed == 0


def test_a_card_is_written_whole_or_not_at_all(tmp_path: Path):
    found = evidence("gptq-foem-g32")
    assert card.render_to(tmp_path / "card", found) is True
    before = {p: p.read_bytes() for p in (tmp_path / "card").rglob("*") if p.is_file()}
    assert {p.name for p in before} == {"README.md", "evidence.json", "size.png", "distance.png"}
    assert card.render_to(tmp_path / "card", found) is False
    broken = changed(found, base__license="")
    with pytest.raises(GateFailed, match="metadata lacks license"):
        card.render_to(tmp_path / "card", broken)
    assert before == {p: p.read_bytes() for p in (tmp_path / "card").rglob("*") if p.is_file()}
    assert [p.name for p in tmp_path.iterdir()] == ["card"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "card"
    card.render_to(folder, evidence("gptq-foem-g32"))
    return folder


def test_plots_hold_as_drawn_and_compressed_otherwise(drawn: Path, tmp_path: Path):
    folder = shutil.copytree(drawn, tmp_path / "card")
    assert card.check(folder) == evidence("gptq-foem-g32")
    data = (folder / "plots/size.png").read_bytes()
    (folder / "plots/size.png").write_bytes(recompressed(data, lambda pixels: pixels))
    assert (folder / "plots/size.png").read_bytes() != data
    card.check(folder)


def recompressed(png: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """`png` with its filtered scanlines edited and stored as one chunk without compression."""
    pieces, pixels, at = [png[:8]], b"", 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        if kind == b"IDAT":
            pixels += body
        else:
            if kind == b"IEND":
                data = b"IDAT" + zlib.compress(edit(zlib.decompress(pixels)), 0)
                pieces.append((len(data) - 4).to_bytes(4, "big") + data + zlib.crc32(data).to_bytes(4, "big"))
            pieces.append(png[at : at + 12 + size])
        at += 12 + size
    return b"".join(pieces)


def one_pixel(pixels: bytes) -> bytes:
    """The last byte of the last pixel's colour changed by one."""
    return pixels[:-2] + bytes([pixels[-2] ^ 1]) + pixels[-1:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plots: (plots / "size.png").unlink(), "plots/size.png is missing"),
        (lambda plots: shutil.rmtree(plots), "plots/distance.png is missing"),
        (
            lambda plots: (plots / "speed.png").write_bytes(b"x"),
            "plots/speed.png is not one of this card's plots",
        ),
        (
            lambda plots: (plots / "distance.png").write_bytes((plots / "size.png").read_bytes()),
            "distance.png is not",
        ),
        (
            lambda plots: (plots / "size.png").write_bytes(b"x"),
            "plots/size.png is not what the evidence draws",
        ),
        (
            lambda plots: (plots / "size.png").write_bytes(
                recompressed((plots / "size.png").read_bytes(), one_pixel)
            ),
            "plots/size.png is not what the evidence draws",
        ),
        (
            lambda plots: (plots / "size.png").write_bytes(
                (plots / "size.png").read_bytes()[:-60] + b"\0" * 60
            ),
            "plots/size.png is not what the evidence draws",
        ),
    ],
)
def test_a_plot_that_evidence_does_not_draw_is_refused(
    drawn: Path, tmp_path: Path, change: Callable[[Path], object], words: str
):
    folder = shutil.copytree(drawn, tmp_path / "card")
    change(folder / "plots")
    with pytest.raises(GateFailed, match=re.escape(words)):
        card.check(folder)


def test_a_symlink_is_no_plot(drawn: Path, tmp_path: Path):
    folder = shutil.copytree(drawn, tmp_path / "card")
    (folder / "plots/size.png").unlink()
    (folder / "plots/size.png").symlink_to(drawn / "plots/size.png")
    with pytest.raises(GateFailed, match=r"plots/size\.png is missing"):
        card.check(folder)


def test_evidence_that_was_edited_out_of_shape_is_unreadable(tmp_path: Path):
    write_json(tmp_path / "evidence.json", evidence("nvfp4"))
    content = json.loads((tmp_path / "evidence.json").read_text())
    content["audit"]["report"]["surprise"] = 1
    (tmp_path / "evidence.json").write_text(json.dumps(content))
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(InputError, match="surprise"):
        card.check(tmp_path)
    with pytest.raises(InputError, match="surprise"):
        cardlint.lint_file(tmp_path / "README.md")
