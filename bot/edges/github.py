"""GitHub, through PyGithub, with its failures turned into the bot's own: one repository, one token.

Requests are counted, since a workflow's token has a thousand an hour: objects are lazy (naming a pull request
asks nothing), a listing takes its facts from the page it came on, and many files are one commit. PyGithub's
own retrying is off, because it repeats POST after a cut connection, which would say everything twice.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import urlsplit

from bot import log
from bot.edges.github_errors import pause_s, translate
from bot.edges.github_facts import Comment, Issue, Pull, TreeFile, comment_of, issue_of, pull_of
from bot.errors import InputError, UsageError

if TYPE_CHECKING:
    from github.Repository import Repository

__all__ = ["Comment", "GitHub", "Issue", "Pull", "TreeFile"]
T = TypeVar("T")
API_URL: Final = "https://api.github.com"
ATTEMPTS = 4
MAX_TEXT_CHARS = 65_000  # GitHub takes 65,536 in a body or comment
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,99}/[\w.-]{1,100}", re.ASCII)


class GitHub:
    """One repository and one token. `login`: the account that writes here, where it is known.

    `web_url` is the server's address for people (GITHUB_SERVER_URL); `self.web_url` the repository's.
    """

    def __init__(
        self,
        *,
        repository: str,
        token: str,
        api_url: str = API_URL,
        login: str = "",
        web_url: str = "",
        first_pause_s: float = 1.0,
    ) -> None:
        import github

        if not _REPOSITORY.fullmatch(repository):
            raise UsageError(
                f"GITHUB_REPOSITORY is {repository!r}, which names no repository", fix="set it to owner/name"
            )
        log.hide(token)
        self.repository, self.login = repository, login
        self.web_url = f"{web_url or api_url.replace('//api.', '//', 1)}/{repository}"
        self.owner = repository.partition("/")[0]
        self._first_pause_s = first_pause_s
        on_loopback = urlsplit(api_url).hostname in ("localhost", "127.0.0.1", "::1")
        self._api = github.Github(
            auth=github.Auth.Token(token),
            base_url=api_url,
            retry=None,
            lazy=True,
            per_page=100,
            user_agent="release-bot",
            seconds_between_requests=0,
            seconds_between_writes=0 if on_loopback else 1,  # GitHub's advice against its secondary limit
        )
        self._repo: Repository = self._api.get_repo(repository)

    @classmethod
    def from_environment(cls) -> GitHub:
        """What GITHUB_REPOSITORY, GITHUB_TOKEN and GITHUB_API_URL name. Raises UsageError without a token."""
        token = os.environ.get("GITHUB_TOKEN", "")
        if not token or not token.isascii():
            raise UsageError(
                "GITHUB_TOKEN is not set, or has characters that no token has",
                fix="set GITHUB_TOKEN and GITHUB_REPOSITORY (owner/name), in a workflow by `env:`",
            )
        return cls(
            repository=os.environ.get("GITHUB_REPOSITORY", ""),
            token=token,
            api_url=os.environ.get("GITHUB_API_URL") or API_URL,
            login=os.environ.get("RELEASE_BOT_GITHUB_LOGIN", ""),
            web_url=os.environ.get("GITHUB_SERVER_URL", ""),
        )

    def _ask(self, what: str, call: Callable[[], T], *, writes: bool = False) -> T:
        """`call`, repeated where that is safe. Raises the bot's own errors."""
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except Exception as e:
                found = translate(e, f"{self.repository} {what}")
                wait = pause_s(e, attempt, writes=writes, first_s=self._first_pause_s)
                if found is None:
                    raise
                if wait is None or attempt + 1 == ATTEMPTS:
                    raise found from e
                log.warning(f"{found.what}; again in {wait:.0f} s")
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _find(self, what: str, call: Callable[[], T]) -> T | None:
        """`call`; None where GitHub has no such thing."""
        from github import UnknownObjectException

        def asked() -> T | None:
            try:
                return call()
            except UnknownObjectException:
                return None

        return self._ask(what, asked)

    # ── branches and files ─────────────────────────────────────────────────────────────────

    @property
    def default_branch(self) -> str:
        return self._ask("", lambda: self._repo.default_branch)

    def head(self, branch: str) -> str | None:
        """The commit that `branch` is at; None when there is no such branch."""
        return self._find(f"branch {branch}", lambda: self._repo.get_git_ref(f"heads/{branch}").object.sha)

    def tree(self, revision: str) -> dict[str, TreeFile]:
        """Every file at `revision` by its path, in one request. Raises InputError when it is too large."""

        def asked() -> tuple[bool, list[Any]]:
            found = self._repo.get_git_tree(revision, recursive=True)
            return bool(found.raw_data.get("truncated")), list(found.tree)

        truncated, entries = self._ask(f"tree of {revision}", asked)
        if truncated:
            raise InputError(
                f"the tree of {revision} is too large for one answer",
                where=self.repository,
                fix="move old cards or state out of the branch",
            )
        return {
            each.path: TreeFile(path=each.path, sha=each.sha, size_bytes=each.size or 0, mode=each.mode)
            for each in entries
            if each.type != "tree"
        }

    def blob(self, sha: str) -> bytes:
        """A file's bytes by its git id, up to GitHub's 100 MB."""
        found = self._ask(f"blob {sha[:12]}", lambda: self._repo.get_git_blob(sha).content)
        return base64.b64decode(found)

    def read(self, path: str, branch: str) -> tuple[bytes, str] | None:
        """A small file's bytes and git id; None when it, or the branch, is not there."""

        def asked() -> tuple[bytes, str]:
            found = self._repo.get_contents(path, ref=branch)
            if isinstance(found, list):
                raise InputError(f"{path} is a folder", where=f"{self.repository}@{branch}")
            return found.decoded_content, found.sha

        return self._find(f"{path}@{branch}", asked)

    def put(self, path: str, data: bytes, *, branch: str, message: str, replaces: str | None) -> None:
        """Write one file if it is still the blob `replaces` (None: if it is not there). Raises Refused."""
        if replaces is None:
            self._ask(path, lambda: self._repo.create_file(path, message, data, branch=branch), writes=True)
        else:
            known = replaces
            self._ask(
                path, lambda: self._repo.update_file(path, message, data, known, branch=branch), writes=True
            )

    def remove(self, path: str, *, branch: str, message: str, replaces: str) -> None:
        """Delete one file if it is still the blob `replaces`. Raises Refused."""
        self._ask(path, lambda: self._repo.delete_file(path, message, replaces, branch=branch), writes=True)

    def commit(
        self,
        branch: str,
        changes: dict[str, bytes | None],
        *,
        message: str,
        parent: str | None,
        on: str | None,
    ) -> str:
        """One commit of `changes` (None deletes) on `parent`, made the head of `branch`; returns its id.

        `on` is where the branch is now: None makes it, else it moves forward only. That is GitHub's own
        compare-and-swap; Refused when the branch moved, or appeared, in between. `parent` None: no history.
        """
        tree = self._write_tree(changes, parent)

        def commit() -> str:
            parents = [self._repo.get_git_commit(parent)] if parent else []
            return self._repo.create_git_commit(message, tree, parents).sha

        sha = self._ask(f"commit on {branch}", commit, writes=True)
        if on is None:
            self._ask(
                f"branch {branch}",
                lambda: self._repo.create_git_ref(f"refs/heads/{branch}", sha),
                writes=True,
            )
        else:
            self._ask(f"branch {branch}", lambda: self._forward(branch, sha), writes=True)
        return sha

    def _forward(self, branch: str, sha: str) -> None:
        """PyGithub's lazy ref has the address that only reads; one that was asked for has the right one."""
        found = self._repo.get_git_ref(f"heads/{branch}")
        found.complete()
        found.edit(sha, force=False)

    def _write_tree(self, changes: dict[str, bytes | None], parent: str | None) -> Any:
        from github import InputGitTreeElement

        elements = []
        for path, data in sorted(changes.items()):
            sha = None if data is None else self._write_blob(data)
            elements.append(InputGitTreeElement(path, "100644", "blob", sha=sha))

        def create() -> Any:
            if parent is None:
                return self._repo.create_git_tree(elements)
            return self._repo.create_git_tree(elements, self._repo.get_git_tree(parent))

        return self._ask("tree", create, writes=True)

    def _write_blob(self, data: bytes) -> str:
        text = base64.b64encode(data).decode()
        return self._ask("blob", lambda: self._repo.create_git_blob(text, "base64").sha, writes=True)

    def archive(self, revision: str) -> bytes:
        """Every file at `revision` as one gzipped tar: what reading thousands of documents would take."""
        import requests

        def asked() -> bytes:
            link = self._repo.get_archive_link("tarball", revision)
            answer = requests.get(link, timeout=60)  # signed, so without the token
            answer.raise_for_status()
            return answer.content

        return self._ask(f"archive of {revision}", asked)

    # ── pull requests ──────────────────────────────────────────────────────────────────────

    def pull(self, number: int) -> Pull:
        return self._ask(f"pull request {number}", lambda: pull_of(self._repo.get_pull(number)))

    def pulls(self, *, branch: str = "", state: Literal["open", "closed", "all"] = "all") -> list[Pull]:
        """Pull requests, newest first; with `branch`, those from that branch of this repository."""
        options: dict[str, Any] = {"head": f"{self.owner}:{branch}"} if branch else {}

        def asked() -> list[Pull]:
            return [pull_of(each) for each in self._repo.get_pulls(state=state, **options)]

        found = self._ask("pull requests", asked)
        return [each for each in found if not branch or (each.branch == branch and each.same_repo)]

    def open_pull(self, *, branch: str, base: str, title: str, body: str) -> Pull:
        """Raises Refused when there is one already, or when the branch holds nothing new."""
        return self._ask(
            f"pull request of {branch}",
            lambda: pull_of(self._repo.create_pull(base=base, head=branch, title=title, body=body)),
            writes=True,
        )

    def edit_pull(self, number: int, *, title: str, body: str) -> None:
        self._ask(
            f"pull request {number}",
            lambda: self._repo.get_pull(number).edit(title=title, body=body),
            writes=True,
        )

    def close_pull(self, number: int) -> None:
        self._ask(
            f"pull request {number}", lambda: self._repo.get_pull(number).edit(state="closed"), writes=True
        )

    def relabel(self, pull: Pull, wanted: Iterable[str], *, among: Iterable[str]) -> bool:
        """Give `pull` exactly `wanted` of our labels `among`; people's own stay. False when it has them."""
        kept = [each for each in pull.labels if each not in set(among)]
        new = [*kept, *sorted(set(wanted))]
        if set(new) == set(pull.labels):
            return False
        self._ask(
            f"labels of {pull.number}",
            lambda: self._repo.get_issue(pull.number).set_labels(*new),
            writes=True,
        )
        return True

    # ── what is said ───────────────────────────────────────────────────────────────────────

    def comments(self, number: int) -> list[Comment]:
        """The comments under an issue or pull request, oldest first."""

        def asked() -> list[Comment]:
            found = self._repo.get_issue(number).get_comments()
            return [comment_of(each) for each in found]

        return self._ask(f"comments of {number}", asked)

    def say(self, number: int, body: str, *, instead_of: int | None = None) -> None:
        """Add a comment under an issue or pull request, or write it over the comment `instead_of`."""
        issue = self._repo.get_issue(number)
        if instead_of is None:
            self._ask(f"comment on {number}", lambda: issue.create_comment(body), writes=True)
        else:
            known = instead_of
            self._ask(f"comment {known}", lambda: issue.get_comment(known).edit(body), writes=True)

    def may_write(self, login: str) -> bool:
        """Whether GitHub grants `login` write access or more here; a stranger and a typo have none."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,38}(\[bot\])?", login, re.ASCII):
            return False
        found = self._find(f"rights of {login}", lambda: self._repo.get_collaborator_permission(login))
        return found in ("admin", "write")

    def issues(self, *, label: str) -> list[Issue]:
        """Open issues with `label`, oldest first; only people with rights here can give one."""

        def asked() -> list[Issue]:
            found = self._repo.get_issues(state="open", labels=[label], sort="created", direction="asc")
            return [issue_of(each) for each in found if each.pull_request is None]

        return self._ask(f"issues labelled {label}", asked)

    def open_issue(self, *, title: str, body: str, label: str) -> Issue:
        return self._ask(
            "issue", lambda: issue_of(self._repo.create_issue(title, body, labels=[label])), writes=True
        )

    def start_workflow(self, name: str, inputs: dict[str, str]) -> None:
        """Start a workflow of the default branch, by its file's name."""
        branch = self.default_branch

        def start() -> None:
            self._repo.get_workflow(name).create_dispatch(branch, inputs, throw=True)

        self._ask(f"workflow {name}", start, writes=True)

    def edit_issue(self, number: int, *, body: str) -> None:
        self._ask(f"issue {number}", lambda: self._repo.get_issue(number).edit(body=body), writes=True)
