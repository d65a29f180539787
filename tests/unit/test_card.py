"""Cards: golden files from real evidence, outside text kept harmless, and a lint that finds what is wrong."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jinja2
import pytest
import yaml
from cards import GOLDEN, golden, judged, siblings_of
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from measured import canaries, divergence, load, measurement, perplexity, soak, subject

from bot import cardlint, cardtext, comparison, figures, plots
from bot.errors import GateFailed, InputError
from bot.evidence import Evidence, Override
from bot.localhub import cards as localcards
from bot.measurements import Failure
from bot.models import write_json
from bot.recipe import faithful
from bot.stages import card

NOTHING = dict.fromkeys(
    ("load", "canaries", "acceptance", "soak", "speed", "load_plain", "equality", "speed_plain")
) | dict.fromkeys(("perplexity", "divergence"))


def evidence(name: str) -> Evidence:
    return golden(name)


@cache
def full() -> Evidence:
    """A release measured in every way, beside base, FP8 repo and two siblings."""
    return judged(siblings=siblings_of("gptq-foem-g32"))


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
    known, quoted = card.known_figures(found), card.quoted_texts(found)
    return cardlint.lint(text, known=known, rendered=card.render(found), quoted=quoted)


@pytest.mark.parametrize("name", faithful())
def test_cards_render_as_the_golden_ones(name: str):
    """Write them anew with tests/fixtures/cards/update.py after looking at the difference."""
    assert card.render(evidence(name)) == (GOLDEN / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", faithful())
def test_golden_cards_hold(name: str):
    assert problems((GOLDEN / name / "README.md").read_text(encoding="utf-8"), evidence(name)) == []


@pytest.mark.parametrize("name", faithful())
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
    escaped = cardtext.markdown(f"x{text}x")
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
    assert shown(cardtext.code(text)) == ((plain, {"code_inline"}) if plain else ("", set()))


def test_a_broken_command_is_to_a_shell_what_it_was():
    command = shlex.join(["vllm", "serve", "a b", "--x", '{"a": "it\'s\\n"}', "--y", "--z=1", "two", "$(no)"])
    shown = cardtext.broken(command)
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {shown}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\0")[:-1] == shlex.split(command)
    assert [line.split()[0] for line in shown.splitlines()] == ["vllm", "--x", "--y", "--z=1"]


def test_fenced_text_keeps_lines_and_cannot_close_the_fence():
    inside = cardtext.fenced("a\tb\n```\n<x>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}")
    (token,) = MarkdownIt().parse(f"```console\n{inside}\n```")
    assert token.content == "a\tb\n'''\n<x>[31m\n"


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://x/)[y](z", "http://x y"])
def test_a_link_from_outside_cannot_break_out(link: str):
    shown = cardtext.url(link)
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
    ("It reaches 87.31377% of the base.", "'87.31377' is not in the evidence"),
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
        ("| 16.00 |", "| 16.00 | 3.99771 |\n| x |", "'3.99771' is not in the evidence"),
        ("| vision tower |", "| towers |", "'| vision tower | BF16 | 33 | 0.6 MiB |' is missing"),
        ("> **Rehearsal.** This release", "This release", "the line '> **Rehearsal.** This release"),
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
        ("---\nbase_model", f"---\nx: {'[' * 20_000}\nbase_model", "nested deeper than 16"),
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
    source = (card.TEMPLATES / "making.md.j2").read_text(encoding="utf-8")
    shutil.copytree(card.TEMPLATES, tmp_path / "templates")
    edited = source.replace("## Audit", "It keeps 98.765%.\n\n## Audit")
    (tmp_path / "templates" / "making.md.j2").write_text(edited, encoding="utf-8")
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


def test_a_card_is_written_whole_or_not_at_all(tmp_path: Path):
    found = evidence("gptq-foem-g32")
    assert card.render_to(tmp_path / "card", found) is True
    before = {p: p.read_bytes() for p in (tmp_path / "card").rglob("*") if p.is_file()}
    drawn = {path for plot in plots.of(found, comparison.of(found)) for path in plot.paths}
    written = {p.relative_to(tmp_path / "card").as_posix() for p in before}
    assert written == {"README.md", "evidence.json", *drawn}
    assert set(re.findall(r"\((plots/[\w-]+\.png)#", card.render(found))) == {p for p in drawn if ".png" in p}
    assert card.render_to(tmp_path / "card", found) is False
    broken = changed(found, base__license="")
    with pytest.raises(GateFailed, match="metadata lacks license"):
        card.render_to(tmp_path / "card", broken)
    assert before == {p: p.read_bytes() for p in (tmp_path / "card").rglob("*") if p.is_file()}
    assert [p.name for p in tmp_path.iterdir()] == ["card"]


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


# ── what is printed, and where ─────────────────────────────────────────────────────────────


def sections(text: str) -> dict[str, str]:
    """The body of each section by its heading, code blocks included."""
    parts = re.split(r"(?m)^##+ (.+)$", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str) -> dict[str, list[str]]:
    """The rows of the first table, by their first cell."""
    lines = [line for line in text.split("\n") if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("| "): row[1:] for row in cells}


def test_a_card_measured_in_every_way_holds():
    assert problems(card.render(full()), full()) == []


def test_what_a_reader_wants_first_stands_first():
    headings = list(sections(card.render(full())))
    first = ["TL;DR", "Which recipe should I take?", "Serve it", "Known engine issues", "Perplexity"]
    assert headings[:5] == first
    wanted = {"Reproduce", "Tested on", "Files", "Citation", "Limits", "Gates", "Speed", "Memory"}
    assert wanted <= set(headings)


def test_the_table_sets_every_checkpoint_beside_the_base():
    text = sections(card.render(full()))["TL;DR"]
    rows = table(text)
    assert rows[""] == ["this release", "base", "official FP8", "gptq-w4a16-g128", "nvfp4"]
    assert rows["perplexity ± standard error (change)"][:2] == ["7.1300 ± 0.0371 (+1.86%)", "7.0000 ± 0.0364"]
    kld = next(cells for label, cells in rows.items() if label.startswith("KL divergence"))
    assert kld[:2] == ["0.0210 (0.0204–0.0218), full", "itself"]
    one_stream = ["118.0 (1.90×)", "62.0", "96.0 (1.55×)", "100.0 (1.61×)", "emulated"]
    assert rows["tokens/s, 1 stream (over the base)"] == one_stream
    assert rows["tokens/s, 16 streams (over the base)"][-1] == "emulated"
    assert "- speed of nvfp4: this machine only emulates the format (it needs FP4 matrix units;" in text


def test_the_validated_command_stands_to_the_letter_and_its_overlay_with_it():
    found, text = full().measurement.release.load, sections(card.render(full()))
    assert found is not None
    (shown,) = re.findall(r"```sh\n(vllm serve .*?)\n```", text["Serve it"], re.DOTALL)
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(found.command)
    assert all(line.startswith(("vllm serve", "    --")) for line in shown.split("\n"))
    for item in found.overlay:
        row = f"| {cardtext.code(item.name)} | {cardtext.code(item.value)} | {cardtext.markdown(item.why)} |"
        assert row in text["Tested on"]


def test_the_examples_are_the_files_that_tests_run():
    found = card.card_examples(full())
    assert list(found) == ["text", "image", "loading"]
    text = card.render(full())
    for program in found.values():
        compile(program, "example", "exec")
        assert f"```python\n{program}\n```" in text
        assert full().release.target_repo in program
        assert "org/model" not in program
    assert "http://localhost:8000/v1" in found["text"]


def test_no_loading_example_where_transformers_has_no_loader():
    found = judged(recipe="nvfp4")
    assert list(card.card_examples(found)) == ["text", "image"]
    assert "transformers has no loader for this packing." in card.render(found)


def test_advice_comes_from_figures_and_a_single_release_says_so():
    text = sections(card.render(full()))["Which recipe should I take?"]
    assert "- **Closest to the base**: `gptq-foem-g32`, with a mean KL divergence of 0.0210 nats." in text
    assert "- **Smallest**: `gptq-w4a16-g128`, 5.9 MiB." in text
    assert "- **Fastest** with 1 stream: `gptq-foem-g32`, 118.0 tokens/s." in text
    alone = sections(card.render(judged()))["Which recipe should I take?"]
    assert "No other recipe of this base was measured" in alone
    assert "**" not in alone


def test_one_line_reproduces_the_release():
    found = full().release
    line = f"release-bot run {found.base.repo_id}@{found.base.revision} --recipe gptq-foem-g32 --set "
    (shown,) = [each for each in card.render(full()).split("\n") if each.startswith("release-bot run ")]
    assert shown.startswith(line)
    assert all(key in shown for key in found.overrides)


def test_files_say_what_losses_and_settings_are():
    text = sections(card.render(full()))["Files"]
    assert "| `quant_log.csv`: loss of every quantized module |" in text
    assert "| `quantize_config.json`: the quantizer's settings |" in text


def test_shortened_measurements_are_stated():
    short = measurement(
        release={
            "perplexity": perplexity(7.13, shortened=True, num_tokens=16_384, num_tokens_scored=16_383),
            "divergence": divergence(kind="lower_bound", k=128, tail_mass=0.0123),
            "soak": soak(),
        }
    )
    text = card.render(judged(short))
    limits = sections(text)["Limits"]
    assert "Perplexity was shortened to the first 16,384 tokens" in limits
    assert "The soak was shortened: it reached 8,192 of 40,960 tokens" in limits
    assert "a lower bound" in limits
    assert "**Shortened**: only the first 16,384 tokens" in text
    assert "the base's 128 likeliest tokens and one bucket for the rest, which holds 1.2%" in text
    assert ", lower bound |" in sections(text)["TL;DR"]


# ── what is not there ──────────────────────────────────────────────────────────────────────


def figures_of(section: str) -> list[str]:
    return figures.numbers(re.sub(r"```.*?```", "", section, flags=re.S))


def failed() -> Evidence:
    log = [
        "INFO quantization=None, x={name}",
        "ERROR TODO not initialized: {'mtp.fc.weight'}",
        "```",
        "<NAME>",
    ]
    failure = Failure(kind="weights_missing", what="weights are missing: {'mtp.fc.weight'}", log_tail=log)
    return judged(measurement(release={**NOTHING, "failure": failure, "sittings": {}}))


def test_a_release_that_does_not_serve_still_gets_its_card_marked():
    found = failed()
    text = card.render(found)
    assert problems(text, found) == []
    head = text.split("## TL;DR")[0]
    assert "> **This release does not serve**: weights are missing from it." in head
    assert "> **This release does not pass its gates.**" in head
    assert "ERROR TODO not initialized: {'mtp.fc.weight'}" in head
    parts = sections(text)
    silent = [
        "Perplexity",
        "Divergence from the base",
        "Drafting with MTP",
        "As a conversation grows",
        "Speed",
    ]
    for name in [*silent, "Drafting on against off", "Memory", "Serve it"]:
        assert figures_of(parts[name]) == [], name
        assert "weights are missing from it" in parts[name]
    assert "```python" not in text
    assert "plots/latency" not in text
    assert "plots/soak" not in text


@pytest.mark.parametrize("line", ["ERROR TODO not initialized: {'mtp.fc.weight'}", "<NAME>"])
def test_a_log_line_is_no_excuse_elsewhere(line: str):
    found = failed()
    edited = card.render(found).replace("## Limits", f"{line}\n\n## Limits")
    assert any("placeholder" in each for each in problems(edited, found))


def test_reasons_in_other_words_do_not_stop_a_card():
    why = "Qwen/x-FP8 does not serve here: quantization = None, TODO"
    found = judged(measurement(release={}).model_copy(update={"fp8": None, "not_measured": {"fp8": why}}))
    text = card.render(found)
    assert "TODO" in sections(text)["Limits"]
    assert problems(text, found) == []


def test_a_base_without_mtp_and_vision_says_so():
    bare = {"drafts": False, "num_mtp_tensors": 0, "num_visual_tensors": 0}
    parts = dict.fromkeys(("acceptance", "soak", "equality", "load_plain", "speed_plain"))
    measured = measurement(
        release={"subject": subject(**bare), "load": load(drafting=False), **parts},
        base={"subject": subject("base", **bare), "load": load(drafting=False), **parts},
        fp8={"subject": subject("fp8", **bare), **parts},
    )
    found = changed(judged(measured), base__num_mtp_tensors=0, base__num_visual_tensors=0)
    text = card.render(found)
    assert problems(text, found) == []
    for name in ("Drafting with MTP", "As a conversation grows", "Drafting on against off"):
        assert "it has no MTP head." in sections(text)[name]
        assert figures_of(sections(text)[name]) == []
    assert "The base has no vision tower, so it takes text only." in text
    assert "image.png" not in text


def test_an_override_says_who_and_why():
    broken = measurement(release={"canaries": canaries(image={"held": False, "answers": ["return None"]})})
    decision = Override(
        gates=["canary.image"], who="Ann <a@b.c>", why="seen | fine", at="2026-11-21", inputs_digest="f" * 64
    )
    held, let = judged(broken), judged(broken, override=decision)
    num_gates = len(held.gates.results)
    words = f"> **This release does not pass its gates.** 1 of {num_gates} hold it back"
    assert words in card.render(held)
    text = card.render(let)
    assert "does not pass its gates" not in text
    line = (
        r"**To be published in spite of canary.image.** Ann \<a\@b.c\> decided so on 2026-11-21: seen \| fine"
    )
    assert f"> {line}" in text
    assert "('return None')" in text.split("## TL;DR")[0]
    assert problems(text, let) == []


def test_anomalous_is_shown_as_such():
    found = judged(measurement(release={"perplexity": perplexity(6.0)}))
    text = card.render(found)
    assert re.search(r"(?m)^ppl\.ratio, anomalous \(0\.8571, limit 0\.97\): ", text.split("## TL;DR")[0])
    assert "| `ppl.ratio` | **anomalous** | 0.8571 | 0.97 |" in text


# ── figures ────────────────────────────────────────────────────────────────────────────────


def edits(text: str) -> Iterator[tuple[str, str]]:
    """Every number with a decimal point of the card's body, and the card with that one changed."""
    start = text.index("## TL;DR")
    for match in figures.NUMBER.finditer(text, start):
        if "." in match[0] and text[match.start() - 1] not in "`-_":
            yield match[0], text[: match.start()] + "73.9137" + text[match.end() :]


def test_every_measured_figure_that_is_edited_is_found():
    found, text = full(), card.render(full())
    known, rendered = card.known_figures(found), text
    tried = [(value, cardlint.lint(edited, known=known, rendered=rendered)) for value, edited in edits(text)]
    assert len(tried) > 150
    assert [value for value, shown in tried if not shown] == []


def test_a_derived_figure_is_known_and_another_one_is_not():
    known = card.known_figures(full())
    assert {"1.86", "1.90", "0.972", "1.0186"} <= known
    assert not {"1.87", "1.93", "0.9723"} & known


def test_siblings_from_the_hub_are_text_from_outside():
    evil = siblings_of("gptq-foem-g32")[0].model_copy(update={"headline": "x](https://evil) <b>| `y` \n# z"})
    found = judged(siblings=[evil])
    text = card.render(found)
    html = localcards.render(text)
    assert "<b>" not in html
    assert 'href="https://evil"' not in html
    assert "\n# z" not in text
    assert problems(text, found) == []


def test_the_overlay_may_name_folders_in_braces():
    item = full().measurement.release.load.overlay[0].model_copy(update={"value": "{home}/cache:{shims}"})
    found = judged(measurement(release={"load": load(overlay=[item])}))
    text = card.render(found)
    assert "| `…/cache:…` |" in sections(text)["Tested on"]
    assert problems(text, found) == []
