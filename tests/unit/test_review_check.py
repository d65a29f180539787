"""The check of a pull request's cards: what holds, what does not, and hostile files that must not get far."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cards import golden

from bot.errors import InputError
from bot.models import write_json
from bot.review import check, layout
from bot.review.check import CardVerdict
from bot.stages import card

NAME = "nvfp4"
KEY = golden(NAME).release.key
FOLDER = layout.folder_of(golden(NAME).release.target_repo)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    card.render_to(root / FOLDER, golden(NAME))
    return root


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    """A checkout with one good card, to be broken."""
    shutil.copytree(good, tmp_path / "checkout")
    return tmp_path / "checkout"


def verdict(root: Path, key: str | None = KEY) -> CardVerdict:
    return check.card_verdict(root, FOLDER, key)


def change_evidence(root: Path, change: Callable[[dict], None]) -> None:
    path = root / FOLDER / "evidence.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def test_a_card_as_rendered_holds(root: Path):
    found = check.check(root, key=KEY, since=None)
    assert found.passed
    assert [(each.folder, each.key, each.problems) for each in found.cards] == [(FOLDER, KEY, [])]


def test_an_edited_figure_fails_and_says_why(root: Path):
    readme = root / FOLDER / "README.md"
    text = readme.read_text()
    assert "| MTP head | BF16 | 15 |" in text
    readme.write_text(text.replace("| MTP head | BF16 | 15 |", "| MTP head | BF16 | 16 |"))
    (problem,) = verdict(root).problems
    assert "MTP head | BF16 | 16" in problem
    assert "a figure changes only with its evidence" in problem


def test_edited_words_hold_and_a_figure_among_them_does_not(root: Path):
    readme = root / FOLDER / "README.md"
    text = readme.read_text()
    mark = "<!-- prose:note -->\n"
    readme.write_text(text.replace(mark, mark + "Good in German.\n"))
    assert verdict(root).problems == []
    readme.write_text(text.replace(mark, mark + "Good in 12 languages.\n"))
    (problem,) = verdict(root).problems
    assert "'12' does not stand in prose:note" in problem


def test_other_evidence_is_not_this_card(root: Path):
    write_json(root / FOLDER / "evidence.json", golden("gptq-foem-g32"))
    shown = " ".join(verdict(root).problems)
    assert f"lies in {FOLDER}" in shown
    assert f"the branch of {KEY}" in shown


def test_edited_evidence_is_found(root: Path):
    change_evidence(root, lambda e: e["release"].update(toolchain_epoch=7))
    assert any("its content of" in each for each in verdict(root).problems)


def test_a_verdict_that_was_turned_is_found(root: Path):
    def turn(evidence: dict) -> None:
        evidence["gates"]["results"][0].update(status="anomalous")

    change_evidence(root, turn)
    assert any("verdicts are not those of the figures" in each for each in verdict(root).problems)


def test_evidence_in_another_format_is_found(root: Path):
    path = root / FOLDER / "evidence.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert verdict(root).problems == [
        "evidence.json is not written as the bot writes it: it was edited or formatted"
    ]


def test_evidence_of_an_earlier_version_of_the_bot_holds(root: Path):
    """It lacks fields that have a default now; everything that it has is as it was written."""
    path = root / FOLDER / "evidence.json"
    text = golden(NAME).model_dump_json(indent=2, exclude_defaults=True) + "\n"
    path.write_text(text)
    assert "schema_version" not in json.loads(text)
    assert verdict(root).problems == []


def test_evidence_out_of_shape_is_told_by_its_field(root: Path):
    change_evidence(root, lambda e: e["release"].update(surprise=1))
    (problem,) = verdict(root).problems
    assert "release.surprise" in problem
    assert str(root) not in problem


def test_evidence_with_its_schema_and_no_sense_ends_in_a_problem(root: Path):
    change_evidence(root, lambda e: e["audit"]["report"].update(checks=[]))
    assert verdict(root).problems != []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run.py", "'run.py' does not belong to a card"),
        ("plots/x.html", "does not belong to a card"),
        ("plots/deep/x.png", "does not belong to a card"),
        (".github/workflows/x.yml", "does not belong to a card"),
        ("plots/-x.png", "does not belong to a card"),
        ("plots/a b.png", "does not belong to a card"),
    ],
)
def test_nothing_else_lies_beside_a_card(root: Path, name: str, words: str):
    path = root / FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    assert any(words in each for each in verdict(root).problems)


def test_links_out_of_the_folder_are_not_followed(root: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("hf_secret")
    for name in ("README.md", "plots"):
        case = tmp_path / f"case-{name}"
        shutil.copytree(root, case)
        path = case / FOLDER / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(secret if name != "plots" else tmp_path)
        (problem,) = check.card_verdict(case, FOLDER, KEY).problems
        assert "is no plain file" in problem
        assert "hf_secret" not in problem
    os.mkfifo(root / FOLDER / "plots" / "x.png")
    assert any("is no plain file" in each for each in verdict(root).problems)


def test_too_many_and_too_large_files_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(layout.MAX_FILES + 1):
        (root / FOLDER / "plots" / f"x{number}.png").write_text("x")
    assert any("more than 64 files" in each for each in verdict(root).problems)
    monkeypatch.setattr(layout, "MAX_FILE_BYTES", 1000)
    assert any("more than" in each for each in verdict(root).problems)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../b",
        "a/b/c",
        "/a/b",
        "a",
        "a/",
        "a/-b",
        "a/b--c",
        "a/b..c",
        "a/b\n",
        "a/b c",
        "a/.b",
        "a/b.",
        "é/x",
    ],
)
def test_a_hostile_repo_name_is_no_folder(name: str):
    with pytest.raises(InputError, match="no name of a repo"):
        layout.folder_of(name)


def test_every_repo_has_its_own_folder():
    names = ["a-b/c", "a/b-c", "a/b", "A/b", "a_b/c", "a.b/c"]
    assert len({layout.folder_of(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "branch", ["release/", "release/xyz", f"release/{KEY}/..", f"x/release/{KEY}", f"release/{KEY}\n", KEY]
)
def test_a_hostile_branch_is_no_release(branch: str):
    assert layout.key_of(branch) is None
    assert layout.key_of(f"release/{KEY}") == KEY


# ── what a branch may change ───────────────────────────────────────────────────────────────


def git(root: Path, *argv: str) -> str:
    own = [
        "git",
        "-C",
        str(root),
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "-c",
        "commit.gpgsign=false",
    ]
    return subprocess.run([*own, *argv], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def history(tmp_path: Path) -> Path:
    root = tmp_path / "history"
    (root / "bot").mkdir(parents=True)
    (root / "bot" / "x.py").write_text("x")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root


def test_a_release_branch_changes_its_card_only(history: Path, good: Path):
    shutil.copytree(good / FOLDER, history / FOLDER)
    git(history, "add", ".")
    git(history, "commit", "-qm", "two")
    assert check.check(history, key=KEY, since="HEAD^1").passed
    (history / "bot" / "x.py").write_text("import os")
    git(history, "commit", "-qam", "three")
    found = check.check(history, key=KEY, since="HEAD~2")
    assert not found.passed
    assert found.problems == ["a release's branch changes only its card, and this one also bot/x.py"]
    assert check.check(history, key=None, since="HEAD~2").passed


def test_a_release_branch_without_its_card_fails(history: Path):
    (history / "bot" / "x.py").write_text("y")
    git(history, "commit", "-qam", "two")
    assert (
        check.check(history, key=KEY, since="HEAD^1").problems[0] == f"the branch release/{KEY} holds no card"
    )
    assert check.check(history, key=None, since="HEAD^1").passed


def test_git_that_cannot_tell_is_said(history: Path):
    for since in ("no-such", "--output=/tmp/x"):
        with pytest.raises(InputError, match="git cannot compare"):
            check.check(history, key=KEY, since=since)
