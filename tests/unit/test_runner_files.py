"""What a maintainer copies out of `runners/`: the texts agree with the code that they are about."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from bot import cache, commands_fleet, fleet
from bot.edges import hf_jobs
from bot.webhook import DISPATCHES_AN_HOUR, EVENT_TYPE, MAX_BODY_BYTES

RUNNERS = Path(__file__).resolve().parents[2] / "runners"
TEXTS = [path for path in sorted(RUNNERS.rglob("*")) if path.is_file() and "environments" not in path.parts]


def read(name: str) -> str:
    return (RUNNERS / name).read_text(encoding="utf-8")


def parse(*texts: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commands_fleet.add_parsers(parser.add_subparsers(required=True), argparse.ArgumentParser(add_help=False))
    return parser.parse_args(texts)


def test_the_relay_s_container_starts_the_relay_on_the_space_s_port():
    command = json.loads(re.search(r"^CMD (.+)$", read("relay/Dockerfile"), re.MULTILINE)[1])  # type: ignore[index]
    assert command[0] == "release-bot"
    arguments = parse(*command[1:])
    assert arguments.handler is commands_fleet.webhook_serve
    assert f"app_port: {arguments.port}\n" in read("relay/space.md")
    assert "\nUSER 1000\n" in read("relay/Dockerfile")


def test_the_relay_s_limits_are_those_of_the_code():
    text = read("relay/README.md")
    assert f"repository_dispatch: {EVENT_TYPE}" in text
    assert MAX_BODY_BYTES == 256 * 1024
    assert "256 KiB" in text
    assert DISPATCHES_AN_HOUR == 60
    assert "sixty an hour" in text


def test_the_readme_s_numbers_are_those_of_the_code():
    text = read("README.md")
    assert f"`RELEASE_BOT_CACHE_MAX_GIB` ({cache.DEFAULT_MAX_GIB:g})" in text
    assert cache.KEEP_S == 6 * 3600
    assert "last six hours" in text
    assert f"after {hf_jobs.TIMEOUT_S // 3600} hours" in text
    assert hf_jobs.IMAGE in text
    flavor = re.search(r"--on (\S+)", text)
    assert flavor
    assert hf_jobs.parse_target(flavor[1]) == "l40sx1"
    classes = {each.name for each in fleet.load().classes}
    assert set(re.findall(r"--class ([a-z0-9-]+)", text)) <= classes


@pytest.mark.parametrize("path", TEXTS, ids=lambda each: each.name)
def test_links_between_the_files_lead_somewhere(path: Path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", TEXTS, ids=lambda each: each.name)
def test_no_file_holds_a_secret_or_names_a_package_registry(path: Path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(hf_[A-Za-z0-9]{20,}|gh[ps]_[A-Za-z0-9]{20,}|github_pat_\w{20,})", text)
    assert not re.search(r"-----BEGIN [A-Z ]*PRIVATE KEY", text)
    assert not re.search(r"index-url|pypi\.|/simple/", text)
