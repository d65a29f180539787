"""What people copy out of the documents exists: links, commands, make targets, workflow inputs, secrets."""

from __future__ import annotations

import argparse
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from workflowfiles import ROOT, WORKFLOWS, parsed

from bot.cli import _parser

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "house").glob("*.md")),
    *sorted((ROOT / "runners").rglob("*README.md")),
]
FENCED = re.compile(r"(?ms)^```[a-z]*\n(.*?)^```$")
INDENTED = re.compile(r"(?m)^(?: {4}|\t)+(?=\S)(.*)$")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# Up to what ends a command in a shell, a comment, a drawn arrow, or the end of the line.
COMMAND = re.compile(r"(?:^|[\s/])release-bot ([a-z][^\n;&|#─]*)")


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def code_of(path: Path) -> list[str]:
    """The lines of code blocks, and code spans, folded to a line each."""
    text = text_of(path)
    rest = FENCED.sub("", text)
    blocks = "\n".join([*FENCED.findall(text), *INDENTED.findall(rest)]).replace("\\\n", " ")
    spans = [" ".join(each.split()) for each in SPAN.findall(INDENTED.sub("", rest))]
    return [*blocks.splitlines(), *spans]


def commands_of(path: Path) -> list[str]:
    """What is called of `release-bot`, without the brackets of what may be left out."""
    lines = [each for each in code_of(path) if "--namespace" not in each]
    return [re.sub(r"[\[\]]", "", found).strip() for line in lines for found in COMMAND.findall(line)]


def slugs(path: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", FENCED.sub("", text_of(path)))
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path):
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", FENCED.sub("", text_of(path))):
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in slugs(file), target


def is_name(parser: argparse.ArgumentParser, words: list[str]) -> bool:
    """Whether the words are a command's name and nothing more, as a sentence has it."""
    choices = [each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    if not words or not choices:
        return not words
    return words[0] in choices[0] and is_name(choices[0][words[0]], words[1:])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_every_command_is_one_that_the_bot_has(path: Path):
    parser = _parser()
    for command in commands_of(path):
        words = shlex.split(command)
        assert is_name(parser, words) or callable(parser.parse_args(words).handler), command


def test_commands_are_found():
    """The test above would hold for documents of which it understood nothing."""
    readme = commands_of(ROOT / "README.md")
    assert len(readme) > 20
    assert {"status", "override KEY --gate ID --why TEXT", "publish KEY --card DIR"} <= set(readme)
    assert any(each.startswith("run Qwen/") for each in commands_of(ROOT / "runners" / "README.md"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_every_make_target_and_path_is_there(path: Path):
    targets = re.findall(r"(?m)^([a-z-]+):", text_of(ROOT / "Makefile"))
    for line in code_of(path):
        assert set(re.findall(r"^(?:\$ )?make ([a-z-]+)", line)) <= set(targets), line
        for named in re.findall(r"(?:^|[\s])((?:tests|docs|bot|recipes)/[\w./-]+\.[a-z]+)", line):
            assert (ROOT / named).exists(), line


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_workflows_are_started_with_inputs_that_they_take(path: Path):
    for line in code_of(path):
        if found := re.search(r"gh workflow run (\S+)(.*)", line):
            taken = parsed(ROOT / ".github" / "workflows" / found[1])["on"]["workflow_dispatch"]["inputs"]
            assert set(re.findall(r"-f (\w+)=", found[2])) <= taken.keys(), line


def test_the_set_up_names_every_secret_and_variable_of_the_workflows():
    used = {each for path in WORKFLOWS for each in re.findall(r"(?:secrets|vars)\.(\w+)", text_of(path))}
    lines = [
        each for each in code_of(ROOT / "README.md") if re.match(r"gh (secret|variable) |for name in", each)
    ]
    assert used == set(re.findall(r"\b(?:HUB|APP)_\w+\b", "\n".join(lines)))
