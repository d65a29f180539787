"""The Hub, through huggingface_hub, with its failures turned into the bot's own.

`prepare_environment` runs before huggingface_hub is imported, because the client reads its
settings at import: against the embedded Hub it turns Xet off (that endpoint has none; against
the real Hub it stays on), keeps a cache apart (the cache is keyed by repo id and not by
endpoint, and stand-ins must never be taken for the real data), and uses the ready-made token.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from bot import localhub, log
from bot.errors import (
    InfrastructureError,
    InputError,
    NoPublisher,
    Refused,
    ReleaseBotError,
    UsageError,
)
from bot.models import FileDigest

RepoType = Literal["model", "dataset"]
# Weights in formats that nothing here reads: pickles, and other programs' own.
_NEVER_READ = ["*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.msgpack", "*.h5"]


def prepare_environment(home: Path) -> bool:
    """Set what huggingface_hub reads at import; True when the endpoint is an embedded Hub."""
    endpoint = os.environ.get("HF_ENDPOINT", "")
    if endpoint and not re.fullmatch(r"https?://[\w.:\[\]-]+(/.*)?", endpoint, re.ASCII):
        raise UsageError(
            f"HF_ENDPOINT is {endpoint!r}, which is no address", fix="set it to http(s)://host, or unset it"
        )
    if not os.environ.get("HF_TOKEN", "").isascii():
        raise UsageError("HF_TOKEN has characters that no token has", fix="copy the token again")
    embedded = bool(endpoint) and localhub.probe(endpoint)
    if embedded:
        os.environ["HF_HUB_DISABLE_XET"] = "1"
        if not os.environ.get("HF_OIDC_RESOURCE"):
            os.environ.setdefault("HF_TOKEN", localhub.DEFAULT_TOKEN)
        os.environ.setdefault("RELEASE_BOT_HF_HOME", str((home / "embedded-hf-home").resolve()))
        os.environ["HF_HOME"] = os.environ["RELEASE_BOT_HF_HOME"]
        for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CACHE", "HUGGINGFACE_HUB_CACHE"):
            os.environ.pop(name, None)
        os.environ.pop("HF_HUB_OFFLINE", None)  # a loopback server is there, whatever the network is
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost,::1")))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    log.hide(os.environ.get("HF_TOKEN"))
    return embedded


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repo at a commit. `sha256` is known for LFS files, `blob_id` (git's sha1) for all."""

    path: str
    size_bytes: int
    blob_id: str
    sha256: str | None

    def is_same_as(self, local: FileDigest, git_sha1: str) -> bool:
        return self.sha256 == local.sha256 if self.sha256 else self.blob_id == git_sha1


@dataclass(frozen=True, kw_only=True)
class RepoState:
    """A repo at one commit: what watch, plan and publish compare."""

    repo_id: str
    revision: str
    private: bool
    files: dict[str, RemoteFile]
    card: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    num: int
    title: str
    status: str
    author: str

    @property
    def revision(self) -> str:
        return f"refs/pr/{self.num}"


class Hub:
    """One endpoint and one token.

    Where `HF_OIDC_RESOURCE` is set, the token is the Trusted Publisher's, which the client fetches and renews
    itself; `HF_TOKEN` is then not looked at, so that a job never falls back to more rights than it was given.

    `before_write` is called before everything that changes the Hub, and may raise: the kill switch.
    """

    def __init__(
        self,
        *,
        embedded: bool,
        endpoint: str | None = None,
        token: str | None = None,
        before_write: Callable[[], None] = lambda: None,
    ) -> None:
        import huggingface_hub

        self.embedded = embedded
        self.before_write = before_write
        resource = "" if token else os.environ.get("HF_OIDC_RESOURCE", "")
        self.api = huggingface_hub.HfApi(
            endpoint=endpoint or os.environ.get("HF_ENDPOINT"),
            token=token or (None if resource else os.environ.get("HF_TOKEN")),
            library_name="release-bot",
        )
        if resource:  # now, so that it is hidden, and so that a missing publisher is told before any work
            with translated(resource):
                log.hide(huggingface_hub.get_token())

    @property
    def endpoint(self) -> str:
        return str(self.api.endpoint)

    @property
    def kind(self) -> Literal["hub", "embedded"]:
        return "embedded" if self.embedded else "hub"

    def url(self, repo_id: str) -> str:
        return f"{self.endpoint}/{quote(repo_id)}"

    # ── reading ────────────────────────────────────────────────────────────────────────────

    def state(self, repo_id: str, revision: str | None = None, *, repo_type: RepoType = "model") -> RepoState:
        """The repo at `revision` (default: its main branch), files with their digests."""
        with translated(f"{repo_id}@{revision or 'main'}"):
            info: Any = self.api.repo_info(
                repo_id, revision=revision, repo_type=repo_type, files_metadata=True
            )
        files = {}
        for each in info.siblings or []:
            sha256 = each.lfs.sha256 if each.lfs else None
            files[each.rfilename] = RemoteFile(
                path=each.rfilename, size_bytes=each.size or 0, blob_id=each.blob_id or "", sha256=sha256
            )
        card = info.card_data.to_dict() if info.card_data else {}
        return RepoState(
            repo_id=info.id, revision=info.sha or "", private=bool(info.private), files=files, card=card
        )

    def account(self) -> str:
        """The name of the account that the token belongs to. Raises UsageError without a token."""
        if not self.api.token and not os.environ.get("HF_OIDC_RESOURCE"):
            raise UsageError("no account is known: there is no token", fix="set HF_TOKEN, or name --who")
        with translated("whoami"):
            return str(self.api.whoami()["name"])

    def members(self, organization: str) -> set[str]:
        """The accounts in an organization. Raises InputError where there is none, or it hides them."""
        with translated(f"members of {organization}"):
            return {str(each.username) for each in self.api.list_organization_members(organization)}

    def exists(self, repo_id: str) -> bool:
        with translated(repo_id):
            return bool(self.api.repo_exists(repo_id))

    def head(self, repo_id: str, revision: str = "main", *, repo_type: RepoType = "model") -> str:
        """The commit that `revision` is at now."""
        with translated(f"{repo_id}@{revision}"):
            return str(self.api.repo_info(repo_id, revision=revision, repo_type=repo_type).sha)

    def has_revision(self, repo_id: str, revision: str, *, repo_type: RepoType) -> bool:
        try:
            self.head(repo_id, revision, repo_type=repo_type)
        except InputError:
            return False
        return True

    def download(self, repo_id: str, revision: str) -> Path:
        """The repo's files in the Hub client's cache, verified; what is there already is not fetched again.

        Raises as `bot.edges.snapshot.bring`.
        """
        from bot import cache
        from bot.edges import snapshot

        return snapshot.bring(self, repo_id, revision, ignore=_NEVER_READ, shared=cache.shared()).folder

    def download_dataset(self, repo_id: str, revision: str, patterns: list[str]) -> Path:
        """The files of a data set that match `patterns`, as `download`."""
        from bot import cache
        from bot.edges import snapshot

        shared = cache.shared()
        return snapshot.bring(
            self, repo_id, revision, repo_type="dataset", allow=patterns, shared=shared
        ).folder

    def pull_requests(self, repo_id: str) -> Iterator[PullRequest]:
        """All pull requests of a repo, newest first."""
        with translated(repo_id):
            for each in self.api.get_repo_discussions(repo_id, discussion_type="pull_request"):
                yield PullRequest(num=each.num, title=each.title, status=each.status, author=each.author)

    # ── writing ────────────────────────────────────────────────────────────────────────────

    def create_private(self, repo_id: str) -> None:
        self.before_write()
        with translated(repo_id):
            self.api.create_repo(repo_id, private=True, exist_ok=True)

    def commit(
        self,
        repo_id: str,
        *,
        title: str,
        description: str = "",
        add: dict[str, Path],
        delete: list[str] | None = None,
        revision: str = "main",
        parent: str,
        create_pr: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[str, int | None]:
        """One atomic commit on top of `parent`; returns its sha and the number of the opened PR.

        Large files are uploaded beforehand, one by one: after a break, those that arrived are not
        sent again. 412 (the branch moved) is Refused.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(local)) for path, local in add.items()
        ]
        total = sum(each.upload_info.size for each in additions)
        done = 0
        self.before_write()
        with translated(repo_id):
            for addition in additions:
                self.api.preupload_lfs_files(
                    repo_id, [addition], revision=revision, create_pr=create_pr, free_memory=False
                )
                done += addition.upload_info.size
                if progress:
                    progress(done, total)
            self.before_write()  # the upload may have taken hours
            info = self.api.create_commit(
                repo_id,
                operations=[*additions, *(CommitOperationDelete(path_in_repo=p) for p in delete or [])],
                commit_message=title,
                commit_description=description,
                revision=revision,
                parent_commit=parent,
                create_pr=create_pr,
            )
        return str(info.oid), int(info.pr_num) if info.pr_num is not None else None

    def merge(self, repo_id: str, num: int, *, comment: str) -> None:
        self.before_write()
        with translated(f"{repo_id} pull request {num}"):
            self.api.merge_pull_request(repo_id, num, comment=comment)

    def supersede(self, repo_id: str, pull: PullRequest, *, comment: str) -> None:
        """Take our pull request out of the way: renamed, so that its key finds it no more, and closed."""
        self.before_write()
        with translated(f"{repo_id} pull request {pull.num}"):
            self.api.rename_discussion(repo_id, pull.num, new_title=f"Superseded: {pull.title}"[:200])
            if pull.status in ("open", "draft"):
                self.before_write()
                self.api.change_discussion_status(repo_id, pull.num, "closed", comment=comment)

    def tag(self, repo_id: str, tag: str, revision: str) -> bool:
        """Tag `revision`; False when it is tagged so already. Raises Refused when the tag is elsewhere."""
        with translated(f"{repo_id} tag {tag}"):
            tags = {each.name: each.target_commit for each in self.api.list_repo_refs(repo_id).tags}
            if tag not in tags:
                self.before_write()
                self.api.create_tag(repo_id, tag=tag, revision=revision)
            elif tags[tag] != revision:
                raise Refused(
                    f"tag {tag} of {repo_id} is at {tags[tag][:8]}, not at {revision[:8]}",
                    why="a tag marks one release and is never moved",
                    fix="find out who set it; delete it on the Hub if it is wrong",
                )
        return tag not in tags

    def make_public(self, repo_id: str) -> None:
        self.before_write()
        with translated(repo_id):
            self.api.update_repo_settings(repo_id, visibility="public")

    def collect(self, title: str, namespace: str, repo_id: str) -> str:
        """Add `repo_id` to the namespace's collection called `title`; returns the collection's slug."""
        self.before_write()
        with translated(f"collection {title!r}"):
            collection = self.api.create_collection(title=title, namespace=namespace, exists_ok=True)
            self.api.add_collection_item(collection.slug, item_id=repo_id, item_type="model", exists_ok=True)
            return str(collection.slug)


def digests_of(path: Path) -> tuple[str, str]:
    """A file's sha256 and the blob id that git gives it, from one reading in pieces."""
    sha256 = hashlib.sha256()
    git_sha1 = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            sha256.update(chunk)
            git_sha1.update(chunk)
    return sha256.hexdigest(), git_sha1.hexdigest()


@contextmanager
def translated(where: str) -> Iterator[None]:
    """huggingface_hub's errors as the bot's: gone, forbidden, moved, or worth another try."""
    try:
        yield
    except ReleaseBotError:
        raise
    except Exception as e:
        found = _translate(e, where)
        if found is None:
            raise
        raise found from e


def _translate(error: BaseException, where: str) -> ReleaseBotError | None:
    """The bot's error for one of huggingface_hub's; None when it is none of them."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _translate(error.__cause__, where)  # a failed upload arrives wrapped
    if _is_exchange(error):
        return NoPublisher(
            "the Hub gives this job no token for the repo",
            where=where,
            why="it has no Trusted Publisher for this repository, workflow, branch and environment",
            fix="set one in the repo's settings on the Hub, or use HUB_PUBLISH_TOKEN (docs/identities.md)",
        )
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            "access is gated",
            where=where,
            why=_server_words(error),
            fix="accept its terms with the token's account, then try again",
        )
    if isinstance(
        error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError)
    ):
        return InputError(
            "there is no such repo, revision or file, or the token may not see it",
            where=where,
            why=_server_words(error),
            fix="check the name and revision, and HF_TOKEN if it is private",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _http_error(error, where)
    if isinstance(error, (httpx2.HTTPError, ConnectionError, TimeoutError)):
        return InfrastructureError(
            f"the Hub cannot be reached: {type(error).__name__}",
            where=where,
            why=_plain(str(error)),
            fix="check the network and HF_ENDPOINT; what was uploaded is kept, so run the same command again",
        )
    if isinstance(error, errors.HFValidationError):
        return InputError("not a valid repo name", where=where, why=_plain(str(error)))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return InfrastructureError("the disk is full", where=where, fix="free space, then run it again")
    return None


def _is_exchange(error: BaseException) -> bool:
    """Whether a token exchange was refused, or could not begin."""
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        response = error.response
        return response.status_code == 400 and response.request.url.path.endswith("/oauth/token")
    return isinstance(error, errors.OIDCError)


def _http_error(error: Any, where: str) -> ReleaseBotError:
    status = error.response.status_code if error.response is not None else 0
    words = _server_words(error)
    if status in (401, 403):
        return InputError(
            f"the Hub refused ({status})",
            where=where,
            why=words,
            fix="check HF_TOKEN and what it may do in this namespace",
        )
    if status in (404, 410):
        return InputError(
            f"the Hub has no such thing ({status})", where=where, why=words, fix="check the name"
        )
    if status in (409, 412):
        return Refused(
            f"the Hub reports a conflict ({status})",
            where=where,
            why=words or "the branch moved since it was read",
            fix="look at the repo's latest commits, then run the release again",
        )
    if status in (400, 413, 422):
        return InputError(f"the Hub does not take it ({status})", where=where, why=words)
    if status in (408, 429, 500, 502, 503, 504, 0):
        return InfrastructureError(
            f"the Hub failed ({status})", where=where, why=words, fix="run the same command again later"
        )
    return ReleaseBotError(f"the Hub answered {status}", where=where, why=words)


def _server_words(error: BaseException) -> str:
    return _plain(getattr(error, "server_message", None) or str(error).splitlines()[0])


def _plain(text: str) -> str:
    """A server's words on one line, without addresses: an upload's address is signed, and so a secret."""
    text = re.sub(r"(https?://[^/\s'\"]+)\S*", r"\1/…", text)
    return re.sub(r"\s+", " ", log.printable(text))[:300]
