"""What the embedded Hub answers when it refuses.

The real Hub speaks in three places at once: the status, the headers `X-Error-Code` and `X-Error-Message`, and
a JSON body. `huggingface_hub` picks its exception class from the first two (`utils/_http.py`,
`hf_raise_for_status`), so a refusal here must carry the very codes it looks for, or a rehearsal would take
another path than a release does.
"""

from __future__ import annotations


class HubError(Exception):
    """A refusal with the status and code that the client expects."""

    status = 400
    code: str | None = None

    def __init__(self, message: str, *, status: int | None = None, code: str | None = None, **extra: object):
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.code = code or self.code
        self.extra = extra

    def headers(self) -> dict[str, str]:
        """Headers as the real Hub sends them; the text is folded to one ASCII line."""
        line = " ".join(self.message.split()).encode("ascii", "replace").decode()
        headers = {"X-Error-Message": line[:500]}
        if self.code:
            headers["X-Error-Code"] = self.code
        return headers


class BadRequest(HubError):
    """The request itself is wrong."""


class Unauthorized(HubError):
    """No token where one is needed, or a token nobody has."""

    status = 401


class Forbidden(HubError):
    """A known caller without the right."""

    status = 403


class RepoNotFound(HubError):
    """A repo that does not exist or that this caller may not know of."""

    status = 404
    code = "RepoNotFound"


class RevisionNotFound(HubError):
    """No such branch, tag, pull request or commit."""

    status = 404
    code = "RevisionNotFound"


class EntryNotFound(HubError):
    """No such file at that revision."""

    status = 404
    code = "EntryNotFound"


class Conflict(HubError):
    """Something of that name exists, or two changes collide."""

    status = 409


class StaleParent(HubError):
    """The branch moved on since the caller read it."""

    status = 412


class GatedRepo(HubError):
    """A public page whose files are handed out on approval."""

    status = 403
    code = "GatedRepo"


class FolderBusyError(OSError):
    """Another embedded Hub serves this folder."""
