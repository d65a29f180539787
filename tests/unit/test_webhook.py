"""Deliveries of Hub webhooks: what is passed on, what is not, and that nothing else of them is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import InputError
from bot.webhook import HOUR_S, MAIN, MAX_REFS, Ignored, Memory, Push, is_secret, judge

SHA = "c0ffee" * 6 + "beef"
QWEN = frozenset({"Qwen"})


def body(**changes: Any) -> bytes:
    content = {
        "event": {"action": "update", "scope": "repo.content"},
        "repo": {"type": "model", "name": "Qwen/Qwen3.6-27B", "id": "1", "private": False, "headSha": SHA},
        "updatedRefs": [{"ref": MAIN, "oldSha": None, "newSha": SHA}],
        "webhook": {"id": "w", "version": 3},
    }
    return json.dumps({**content, **changes}).encode()


def repo(**changes: Any) -> dict[str, Any]:
    return {"repo": {"type": "model", "name": "Qwen/Qwen3.6-27B", **changes}}


def refs(*names: str) -> dict[str, Any]:
    return {"updatedRefs": [{"ref": name, "newSha": SHA} for name in names]}


def test_a_push_to_main_of_a_watched_model_is_passed_on():
    assert judge(body(), QWEN) == Push(repo_id="Qwen/Qwen3.6-27B", revision=SHA)
    assert judge(body(**refs("refs/tags/v1", MAIN)), frozenset({"other", "qwen"})) == judge(body(), QWEN)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (refs("refs/pr/1"), "did not move"),
        (refs("refs/heads/main-backup", "refs/heads/mainx", "heads/main", "main"), "did not move"),
        (refs("refs/tags/main"), "did not move"),
        ({"updatedRefs": None}, "did not move"),
        ({"updatedRefs": [{"ref": MAIN, "oldSha": SHA, "newSha": None}]}, "did not move"),
        ({"event": {"action": "create", "scope": "discussion"}}, "content"),
        ({"event": {"action": "update", "scope": "repo.config"}}, "content"),
        ({"event": {"action": "update", "scope": "repo.content.x"}}, "content"),
        ({"event": {"action": "delete", "scope": "repo"}}, "content"),
        (repo(type="dataset"), "model"),
        (repo(name="mallory/Qwen3.6-27B"), "author"),
        (repo(name="Qwen-x/Qwen3.6-27B"), "author"),
    ],
    ids=str,
)
def test_everything_else_is_ignored_with_its_reason(changes: dict[str, Any], why: str):
    found = judge(body(**changes), QWEN)
    assert isinstance(found, Ignored)
    assert why in found.why


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        body(updatedRefs=[{"ref": 1}]),
        body(updatedRefs=[{"ref": "x"}] * (MAX_REFS + 1)),
        body(updatedRefs=[{"ref": MAIN, "newSha": "main"}]),
        body(updatedRefs=[{"ref": MAIN, "newSha": SHA.upper()}]),
        body(updatedRefs=[{"ref": MAIN, "newSha": SHA + "\n"}]),
        *(
            body(**repo(name=name))
            for name in (
                "Qwen/a\n::error::x",
                "Qwen/$(id)",
                "Qwen/../x",
                "Qwen/",
                "Qwen/a b",
                "Qwen/é",
                "Qwen/" + "a" * 97,
            )
        ),
    ],
    ids=range(17),
)
def test_what_is_hostile_is_no_payload(text: bytes):
    with pytest.raises(InputError) as refused:
        judge(text, QWEN)
    assert "::error" not in str(refused.value), "no word of it is repeated"


@given(st.binary(max_size=300))
def test_no_bytes_make_it_fall_over(text: bytes):
    with pytest.raises(InputError):
        judge(text, QWEN)


@given(st.text(max_size=60), st.text(max_size=60))
def test_what_is_passed_on_has_a_fixed_form(name: str, sha: str):
    try:
        found = judge(body(**repo(name=f"Qwen/{name}"), updatedRefs=[{"ref": MAIN, "newSha": sha}]), QWEN)
    except InputError:
        return
    if isinstance(found, Push):
        assert set(found.repo_id + found.revision) <= set(
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/"
        )


def test_the_secret_is_compared_whole():
    assert is_secret("s3cret-s3cret-s3cret", "s3cret-s3cret-s3cret")
    for given_ in (None, "", "s3cret", "s3cret-s3cret-s3creT", "s3cret-s3cret-s3cret ", "\u00e9"):
        assert not is_secret(given_, "s3cret-s3cret-s3cret")
    assert not is_secret("", ""), "no secret is not a secret"


def test_a_push_is_passed_on_once_unless_that_failed():
    memory = Memory(lambda: 0.0)
    push = Push(repo_id="Qwen/a", revision=SHA)
    assert memory.claim(push) is None
    assert memory.claim(push) == Ignored(why="passed on already")
    memory.forget(push)
    assert memory.claim(push) is None


def test_there_is_a_limit_an_hour():
    now = 0.0
    memory = Memory(lambda: now, an_hour=2)
    pushes = [Push(repo_id=f"Qwen/m{i}", revision=SHA) for i in range(4)]
    assert [memory.claim(each) is None for each in pushes[:3]] == [True, True, False]
    now = HOUR_S + 1
    assert memory.claim(pushes[2]) is None
    assert memory.claim(pushes[0]) == Ignored(why="passed on already"), "what was passed on stays known"
