"""Names that follow from content: release key, target repo, branch, commit message.

The key is what makes a rerun a no-op: it is the same for the same base commit, recipe content
and toolchain epoch, and different when one of them changes.
"""

from __future__ import annotations

import hashlib
import json
import re

from bot.errors import UsageError
from bot.models import Base
from bot.recipe import Recipe

KEY_LENGTH = 16
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)


def release_key(base: Base, recipe: Recipe, toolchain_epoch: int) -> str:
    """First 16 hex digits of the sha256 over canonical JSON of what decides the artifact.

    >>> # {"base_repo", "base_revision", "recipe", "toolchain_epoch"}, keys sorted, no spaces
    """
    content = {
        "base_repo": base.repo_id,
        "base_revision": base.revision,
        "recipe": json.loads(recipe.canonical()),
        "toolchain_epoch": toolchain_epoch,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def target_repo(organization: str, base: Base, recipe: Recipe) -> str:
    """`Qwen/Qwen3.6-27B` by `nvfp4` → `<organization>/Qwen3.6-27B-NVFP4`."""
    return f"{organization}/{base.repo_id.split('/')[1]}-{recipe.repo_suffix}"


def branch(key: str) -> str:
    return f"release/{key}"


def commit_title(key: str, base: Base, recipe_name: str) -> str:
    """The Hub commit's and pull request's title; the key in it is how a release is found again."""
    return f"Release {key}: {base.repo_id}@{base.revision[:8]} by {recipe_name}"


def parse_base(text: str) -> tuple[str, str | None]:
    """`org/name` or `org/name@revision`; UsageError otherwise."""
    repo_id, at, revision = text.partition("@")
    if not _REPO_ID.fullmatch(repo_id) or ".." in repo_id or (at and not _REVISION.fullmatch(revision)):
        raise UsageError(
            f"{text!r} does not name a model on the Hub",
            fix="write org/name or org/name@revision, as in Qwen/Qwen3.6-27B",
        )
    return repo_id, revision or None


def is_key(text: str) -> bool:
    """Whether `text` has the form of a release key."""
    return bool(re.fullmatch(rf"[0-9a-f]{{{KEY_LENGTH}}}", text))


def parse_key(text: str) -> str:
    """A release key; UsageError otherwise (it becomes a folder name)."""
    if not is_key(text):
        raise UsageError(
            f"{text!r} is not a release key",
            fix=f"a key is {KEY_LENGTH} hex digits; `release-bot run` prints it",
        )
    return text
