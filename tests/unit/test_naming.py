"""Keys and names: stable for the same content, different for other content, never a path."""

from __future__ import annotations

import hashlib
import json

import pytest

from bot import naming
from bot import recipe as recipes
from bot.errors import UsageError
from bot.models import Base

BASE = Base(repo_id="Qwen/Qwen3.6-27B", revision="a" * 40)
RECIPE = recipes.load("nvfp4")


def test_the_key_is_the_documented_digest():
    content = {
        "base_repo": BASE.repo_id,
        "base_revision": BASE.revision,
        "recipe": json.loads(RECIPE.canonical()),
        "toolchain_epoch": 1,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert naming.release_key(BASE, RECIPE, 1) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_key_changes_with_base_recipe_and_epoch():
    keys = {
        naming.release_key(BASE, RECIPE, 1),
        naming.release_key(BASE, RECIPE, 2),
        naming.release_key(BASE.model_copy(update={"revision": "b" * 40}), RECIPE, 1),
        naming.release_key(BASE.model_copy(update={"repo_id": "Qwen/Qwen3.8-27B"}), RECIPE, 1),
        naming.release_key(BASE, recipes.load("gptq-foem-g32"), 1),
        naming.release_key(BASE, RECIPE.with_revisions({"abisee/cnn_dailymail": "c" * 40}), 1),
    }
    assert len(keys) == 6


def test_names_follow_from_base_and_recipe():
    key = naming.release_key(BASE, RECIPE, 1)
    assert naming.target_repo("acme", BASE, RECIPE) == "acme/Qwen3.6-27B-NVFP4"
    assert naming.branch(key) == f"release/{key}"
    assert key in naming.commit_title(key, BASE, RECIPE.name)


@pytest.mark.parametrize(
    "text", ["Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-27B@main", "Qwen/a@refs/pr/1", "Qwen/a@" + "a" * 40]
)
def test_bases_that_can_be_named(text):
    repo_id, revision = naming.parse_base(text)
    assert repo_id.startswith("Qwen/")
    assert revision == (text.partition("@")[2] or None)


@pytest.mark.parametrize(
    "text",
    [
        "Qwen",
        "/etc/passwd",
        "../x/y",
        "Qwen/../x",
        "a/b/c",
        "Qwen/a@",
        "Qwen/a b",
        "Qwen/a@;rm -rf",
        "",
        "Qwen/a\n",
    ],
)
def test_what_is_no_base_is_a_usage_error(text):
    with pytest.raises(UsageError):
        naming.parse_base(text)


@pytest.mark.parametrize("text", ["", "../../etc", "A" * 16, "0" * 15, "0" * 17, "0123456789abcdef\n"])
def test_what_is_no_key_is_a_usage_error(text):
    with pytest.raises(UsageError):
        naming.parse_key(text)
