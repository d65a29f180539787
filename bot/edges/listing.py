"""An author's models, listed a page at a time with all that watching decides by.

One request tells of up to a thousand models: commit, time, tags, config, parameter counts. `list_models` of
huggingface_hub asks the same address; the loop here is its own because it counts its requests, stops at a
bound, and follows a page's `next` address only on the same Hub: that address is the server's word, and the
token goes with it. Everything in an answer is text from outside; what is not as it should be is told, not
guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from bot import log, naming
from bot.edges.hub import Hub, RepoState, translated
from bot.errors import InputError, UsageError

PAGE: Final = 1000
MAX_PAGES: Final = 50
_EXPAND: Final = (
    "sha", "lastModified", "createdAt", "private", "disabled", "gated", "tags", "config", "safetensors",
)  # fmt: skip
_SHA: Final = re.compile(r"[0-9a-f]{40}")
_WORD: Final = re.compile(r"[\w.:/+ -]{1,200}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A model as a listing tells of it; None is what the Hub does not say."""

    repo_id: str
    hub_id: str
    revision: str
    modified_at: datetime | None
    private: bool
    disabled: bool
    gated: bool
    tags: tuple[str, ...]
    quantized: bool
    model_type: str | None
    architectures: tuple[str, ...]
    num_parameters: int | None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """One author's models by name; `unreadable` are entries that no model can be made of, with why."""

    models: dict[str, Listed]
    unreadable: list[tuple[str, str]]
    num_calls: int


def models_of(hub: Hub, author: str) -> Listing:
    """Every model of `author` that the token may see. Raises InputError, InfrastructureError."""
    models: dict[str, Listed] = {}
    unreadable: list[tuple[str, str]] = []
    num_calls = 0
    with translated(f"models of {author}"):
        for page in _pages(hub, author):
            num_calls += 1
            for entry in page:
                try:
                    found = _listed(entry, author)
                    models[found.repo_id] = found
                except ValueError as e:
                    unreadable.append((_shown(entry), str(e)))
    return Listing(models=models, unreadable=unreadable, num_calls=num_calls)


def look(hub: Hub, repo_id: str) -> RepoState:
    """One base with its files, by its own word. Raises InputError also for an answer that is none."""
    try:
        return hub.state(repo_id)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InputError(f"what the Hub says of it cannot be read: {type(e).__name__}", where=repo_id) from e


def may_read(hub: Hub, repo_id: str) -> str | None:
    """Why the files of a gated repo are closed to this token; None when they are open. One request."""
    try:
        with translated(repo_id):
            hub.api.auth_check(repo_id)
    except InputError as e:
        return f"{e.what}: {e.why}" if e.why else e.what
    return None


def _pages(hub: Hub, author: str) -> Iterator[list[Any]]:
    """Sorted by creation, so that what changes while pages are read moves nothing from one to another."""
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_backoff,
    )

    headers = build_hf_headers(token=hub.api.token, library_name="release-bot")
    url: str | None = f"{hub.endpoint}/api/models"
    params: dict[str, Any] | None = {"author": author, "sort": "createdAt", "limit": PAGE, "expand": _EXPAND}
    for _ in range(MAX_PAGES):
        response = http_backoff("GET", str(url), params=params, headers=headers)
        hf_raise_for_status(response)
        try:
            page = response.json()
        except ValueError:
            raise _misread(author, "it is no JSON") from None
        if not isinstance(page, list):
            raise _misread(author, "it is no list")
        yield page
        url, params = response.links.get("next", {}).get("url"), None
        if url is None:
            return
        if not url.startswith(f"{hub.endpoint}/api/models"):
            raise _misread(author, "its next page is at another address")
    raise _misread(author, f"it has more than {MAX_PAGES} pages of {PAGE}")


def _misread(author: str, what: str) -> InputError:
    return InputError(
        f"the listing of {author} cannot be read: {what}",
        why="it is not what the Hub answers",
        fix="check HF_ENDPOINT, and watch.authors in pyproject.toml",
    )


def _listed(entry: Any, author: str) -> Listed:
    """One entry. Raises ValueError when it is none, or of another author."""
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    repo_id, revision = entry.get("id"), entry.get("sha")
    if not isinstance(repo_id, str) or not _is_model(repo_id):
        raise ValueError("its name is none that a model can have")
    if repo_id.partition("/")[0].lower() != author.lower():
        raise ValueError(f"it is not one of {author}'s")
    if not isinstance(revision, str) or not _SHA.fullmatch(revision):
        raise ValueError("it has no commit yet")
    told = entry.get("config")
    config: dict[str, Any] = told if isinstance(told, dict) else {}
    return Listed(
        repo_id=repo_id,
        hub_id=_word(entry.get("_id")) or "",
        revision=revision,
        modified_at=_moment(entry.get("lastModified")),
        private=entry.get("private") is not False,
        disabled=entry.get("disabled") is True,
        gated=entry.get("gated") not in (None, False, ""),
        tags=_words(entry.get("tags")),
        quantized=bool(config.get("quantization_config")),
        model_type=_word(config.get("model_type")),
        architectures=_words(config.get("architectures")),
        num_parameters=_count(entry.get("safetensors")),
    )


def _is_model(repo_id: str) -> bool:
    try:
        return naming.parse_base(repo_id) == (repo_id, None) and "--" not in repo_id
    except UsageError:
        return False


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _words(value: Any) -> tuple[str, ...]:
    listed = value[:500] if isinstance(value, list) else []
    return tuple(word for each in listed if (word := _word(each)))


def _count(value: Any) -> int | None:
    """The Hub's count of parameters, from safetensors headers."""
    total = value.get("total") if isinstance(value, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and 0 < total < 10**15 else None


def _moment(value: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _shown(entry: Any) -> str:
    name = entry.get("id") if isinstance(entry, dict) else entry
    return log.printable(str(name))[:120]
