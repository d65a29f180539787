"""Cards: golden files from real evidence, outside text kept harmless, and a lint that finds what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
import yaml

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


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("| bits per weight, all | 16.00 |", "| bits per weight, all | 16.00 | 3.99 |\n| x |", "'3.99"),
        ("## Limits", "It reaches 87.31% of the base.\n\n## Limits", "'87.31 %'"),
        ("## Limits", "TODO\n\n## Limits", "placeholder 'TODO'"),
        ("## Limits", "{{ perplexity }}\n\n## Limits", "placeholder '{{'"),
        ("## Limits", "<your model>\n\n## Limits", "placeholder '<your model>'"),
        ("## Limits", "perplexity: None\n\n## Limits", "placeholder 'None'"),
        ("## Limits", "![x](https://elsewhere/y.png)\n\n## Limits", "is not one of this card's plots"),
        ("license: apache-2.0\n", "", "metadata lacks license"),
        ("base_model_relation: quantized", "base_model_relation: finetune", "not 'quantized'"),
        ("---\nbase_model", "--\nbase_model", "no YAML metadata"),
    ],
)
def test_the_lint_finds(before: str, after: str, words: str):
    found = evidence("nvfp4")
    text = card.render(found)
    assert before in text
    assert any(words in each for each in problems(text.replace(before, after, 1), found))


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
