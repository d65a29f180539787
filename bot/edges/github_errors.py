"""PyGithub's failures as the bot's own, and how long to wait before the same request may be sent again.

A rate limit says that nothing was done, so any request may be repeated after it. A 5xx or a cut connection
does not say: only reading is repeated then, and what writes is found or made again by the next run.
"""

from __future__ import annotations

import re
import time
from typing import Any

from bot import log
from bot.errors import InfrastructureError, InputError, Refused, ReleaseBotError

MAX_WAIT_S = 60.0


def translate(error: Exception, where: str) -> ReleaseBotError | None:
    """The bot's error for one of PyGithub's or of its HTTP client's; None when it is none of them."""
    import requests
    from github import GithubException

    if isinstance(error, ReleaseBotError):
        return error
    if isinstance(error, GithubException):
        return _of_status(error, where)
    if isinstance(error, (requests.exceptions.RequestException, ConnectionError, TimeoutError)):
        return InfrastructureError(
            f"GitHub cannot be reached: {type(error).__name__}",
            where=where,
            why=_plain(str(error)),
            fix="check the network and GITHUB_API_URL, then run the same command again",
        )
    return None


def _of_status(error: Any, where: str) -> ReleaseBotError:
    status, words = int(error.status), _words(error)
    if is_limited(error):
        return InfrastructureError(
            f"GitHub's rate limit is used up ({status})",
            where=where,
            why=words,
            fix=f"run the same command again in {retry_after_s(error):.0f} seconds",
        )
    if status in (401, 403, 404):
        return InputError(
            f"GitHub refused ({status})" if status != 404 else "GitHub has no such thing, or hides it (404)",
            where=where,
            why=words,
            fix="check GITHUB_REPOSITORY, and what GITHUB_TOKEN may do there",
        )
    if status in (409, 412, 422):
        return Refused(
            f"GitHub reports a conflict ({status})",
            where=where,
            why=words or "it moved since it was read",
            fix="look at it on GitHub, then run the same command again",
        )
    if status >= 500 or status == 0:
        return InfrastructureError(
            f"GitHub failed ({status})", where=where, why=words, fix="run the same command again later"
        )
    return ReleaseBotError(f"GitHub answered {status}", where=where, why=words)


def pause_s(error: Exception, attempt: int, *, writes: bool, first_s: float) -> float | None:
    """Seconds to wait before the request is repeated; None when it is not."""
    import requests
    from github import GithubException

    if isinstance(error, GithubException):
        if is_limited(error):
            wait = retry_after_s(error)
            return wait if wait <= MAX_WAIT_S else None
        if error.status < 500:
            return None
    elif not isinstance(error, (requests.exceptions.RequestException, ConnectionError, TimeoutError)):
        return None
    return None if writes else first_s * 2.0**attempt


def is_limited(error: Any) -> bool:
    """Whether GitHub turned the request away unread: 429, or a 403 that says so."""
    headers = _headers(error)
    exhausted = headers.get("x-ratelimit-remaining") == "0" or "retry-after" in headers
    return error.status == 429 or (
        error.status == 403 and (exhausted or "rate limit" in _words(error).lower())
    )


def retry_after_s(error: Any) -> float:
    """What Retry-After or the limit's reset says; a minute, as GitHub advises, when neither does."""
    headers = _headers(error)
    for name, origin in (("retry-after", 0.0), ("x-ratelimit-reset", time.time())):
        value = headers.get(name, "")
        if value.isdigit() and (name == "retry-after" or headers.get("x-ratelimit-remaining") == "0"):
            return max(0.0, float(value) - origin)
    return MAX_WAIT_S


def _headers(error: Any) -> dict[str, str]:
    return {str(key).lower(): str(value) for key, value in (error.headers or {}).items()}


def _words(error: Any) -> str:
    """GitHub's message and the details of a 422, on one line."""
    data = error.data if isinstance(error.data, dict) else {}
    details = [each.get("message") or each.get("code") for each in _list(data.get("errors"))]
    return _plain("; ".join(str(each) for each in [data.get("message") or error.message, *details] if each))


def _list(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _plain(text: str) -> str:
    """A server's words on one line, addresses cut to their host: an archive's address is signed."""
    text = re.sub(r"(https?://[^/\s'\"]+)\S*", r"\1/…", text)
    return re.sub(r"\s+", " ", log.printable(text))[:300]
