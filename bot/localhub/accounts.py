"""Who calls, and what they may do.

The project splits trust between four identities (a preparer that creates repos, a GPU job that reads and
opens pull requests, a publisher for one repo, a keeper of collections). That split is only worth something if
it can be tested, so the embedded Hub enforces it: what a call may do is what its *user's role* allows **and**
its *token's scopes* allow.

Roles, by namespace: `read` sees private repos; `contributor` may also create repos and write to its own;
`write` writes to all; `admin` may also delete and move. A user is admin of the namespace of its own name. A
user marked `admin: true` is admin everywhere (the ready-made default is, so that it can seed any repo).
Everyone with a token may open discussions and pull requests on what they can read, as on the real Hub.

Scopes, by token (default `[write]`): `read`; `contribute`, read and open pull requests, push to them, and
comment; `create`, read and create repos; `collections`, read and keep collections; `jobs`, read and run jobs;
`write`, everything the role allows. Each includes `read`: a fine-grained token of the real Hub must be given
that right beside the one to create (docs/identities.md). A token limited by `repos` (ids or patterns such as
`acme/*`) sees and touches only those private repos and writes only to those; its `write` never includes
creating, deleting, moving, collections, webhooks or jobs, as with the real Hub's one-repo tokens: name those
scopes beside it if they are meant.

An accounts file (YAML or JSON) replaces the default accounts:

    users:
      alice: {fullname: Alice, email: alice@example.org}
      root: {admin: true}
    orgs:
      acme: {fullname: Acme, members: {alice: admin}}
    tokens:
      - {token: hf_alice_all, user: alice}
      - {token: hf_gpu_job, user: alice, name: gpu job, scopes: [contribute], repos: [acme/model]}
    publishers:
      - {repo: acme/model, issuer: "http://127.0.0.1:4410", keys: [{kty: RSA, …}],
         claims: {repository: acme/bot, ref: refs/heads/main, environment: hub-release}}

A publisher is the real Hub's Trusted Publisher: who proves those claims gets a short-lived token for that
repo (`oidc.py`).

Tokens here are not secrets worth guarding: the server is a rehearsal on loopback. They are still never
logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEFAULT_USER = "release-bot"
DEFAULT_TOKEN = (
    "hf_embedded_release_bot_token"  # no secret: it opens an embedded Hub on loopback, nothing else
)


class Action(StrEnum):
    """What a request does to a repo or a namespace."""

    READ = "read"
    CONTRIBUTE = "contribute"
    WRITE = "write"
    CREATE = "create"
    ADMIN = "admin"
    COLLECTIONS = "collections"
    WEBHOOKS = "webhooks"
    JOBS = "jobs"


Scope = Literal["read", "contribute", "create", "collections", "jobs", "write"]
Role = Literal["read", "contributor", "write", "admin"]

_ALL = frozenset(Action)
_ROLE_ACTIONS: Mapping[str, frozenset[Action]] = {
    "read": frozenset({Action.READ, Action.CONTRIBUTE}),
    "contributor": frozenset({Action.READ, Action.CONTRIBUTE, Action.CREATE}),
    "write": _ALL - {Action.ADMIN},
    "admin": _ALL,
}
_SCOPE_ACTIONS: Mapping[str, frozenset[Action]] = {
    "read": frozenset({Action.READ}),
    "contribute": frozenset({Action.READ, Action.CONTRIBUTE}),
    "create": frozenset({Action.READ, Action.CREATE}),
    "collections": frozenset({Action.READ, Action.COLLECTIONS}),
    "jobs": frozenset({Action.READ, Action.JOBS}),
    "write": _ALL,
}
_LIMITED_WRITE = frozenset({Action.READ, Action.CONTRIBUTE, Action.WRITE})


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class User(_Strict):
    fullname: str = ""
    email: str = ""
    admin: bool = False


class Org(_Strict):
    fullname: str = ""
    members: dict[str, Role] = Field(default_factory=dict)


class Token(_Strict):
    token: str = Field(min_length=1, repr=False)
    user: str
    name: str = "token"
    scopes: tuple[Scope, ...] = ("write",)
    repos: tuple[str, ...] | None = None


class Publisher(_Strict):
    """Who may exchange an id token for a token to `repo`: `claims` must all be in it, word for word.

    `keys` are the issuer's public keys (JWK); the real Hub fetches them from the issuer, which this one, a
    rehearsal that calls nobody, does not. `repo` may be a pattern; the real Hub takes one repo at a time.
    """

    repo: str
    issuer: str
    keys: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]
    claims: Annotated[dict[str, str], Field(min_length=1)]
    lifetime_s: Annotated[int, Field(gt=0, le=3600)] = 3600


class Accounts(_Strict):
    """Users, organizations, tokens, publishers; checked to agree with each other when loaded."""

    users: dict[str, User]
    orgs: dict[str, Org] = Field(default_factory=dict)
    tokens: tuple[Token, ...] = ()
    publishers: tuple[Publisher, ...] = ()

    def caller(self, token: str | None) -> Caller | None:
        """The caller behind a token; anonymous without one, None when nobody has it."""
        if token is None:
            return ANONYMOUS
        for known in self.tokens:
            if known.token == token:
                return self._caller_of(known)
        return None

    def member(self, user: str) -> Caller:
        """What a user may do with nothing held back: for deliveries made in their name."""
        return self._caller_of(Token(token="-", user=user))

    def _caller_of(self, token: Token) -> Caller:
        roles: dict[str, str] = {
            name: org.members[token.user] for name, org in self.orgs.items() if token.user in org.members
        }
        roles[token.user] = "admin"
        return Caller(
            user=token.user,
            admin=token.user in self.users and self.users[token.user].admin,
            roles=roles,
            token_name=token.name,
            scopes=frozenset(token.scopes),
            repos=token.repos,
        )


@dataclass(frozen=True, kw_only=True)
class Caller:
    """One request's identity: user, roles by namespace, and what the token narrows them to."""

    user: str | None = None
    admin: bool = False
    roles: Mapping[str, str] = field(default_factory=dict)
    token_name: str = ""
    scopes: frozenset[str] = frozenset()
    repos: tuple[str, ...] | None = None

    def _covers(self, repo_id: str) -> bool:
        return self.repos is None or any(fnmatchcase(repo_id, pattern) for pattern in self.repos)

    def _token_allows(self, action: Action) -> bool:
        if self.repos is not None and "write" in self.scopes and action in _LIMITED_WRITE:
            return True
        scopes = self.scopes - {"write"} if self.repos is not None else self.scopes
        if action is Action.WEBHOOKS and self.repos is not None:
            return False
        return any(action in _SCOPE_ACTIONS[scope] for scope in scopes)

    def _role_actions(self, namespace: str) -> frozenset[Action]:
        if self.admin:
            return _ALL
        return _ROLE_ACTIONS.get(self.roles.get(namespace, ""), frozenset())

    def may(self, action: Action, namespace: str, name: str, *, private: bool, created_by: str = "") -> bool:
        """Whether this caller may do this to the repo `namespace/name`."""
        if action is Action.READ and not private:
            return True
        if self.user is None or not self._token_allows(action) or not self._covers(f"{namespace}/{name}"):
            return False
        role = self._role_actions(namespace)
        if action is Action.CONTRIBUTE and not private:
            return True
        if action is Action.WRITE and created_by == self.user and Action.CREATE in role:
            return True
        return action in role

    def may_in(self, action: Action, namespace: str) -> bool:
        """Whether this caller may do this in a namespace, where no repo is named."""
        return (
            self.user is not None and self._token_allows(action) and action in self._role_actions(namespace)
        )


ANONYMOUS = Caller()


def default_accounts() -> Accounts:
    """One user that may do anything, and nothing to configure."""
    return Accounts(
        users={DEFAULT_USER: User(fullname="Release bot", email="release-bot@localhost", admin=True)},
        orgs={"Qwen": Org(fullname="Qwen (stand-in)", members={DEFAULT_USER: "admin"})},
        tokens=(Token(token=DEFAULT_TOKEN, user=DEFAULT_USER, name="embedded default"),),
    )


def load_accounts(path: Path | None) -> Accounts:
    """Accounts from a file, or the default ones; ValueError names the file and the field."""
    if path is None:
        return default_accounts()
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        accounts = Accounts.model_validate(raw)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: the accounts file cannot be read: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)
        )
        raise ValueError(f"{path}: not an accounts file: {wrong}") from None
    strangers = {token.user for token in accounts.tokens} | {
        m for org in accounts.orgs.values() for m in org.members
    }
    strangers -= accounts.users.keys()
    if strangers:
        raise ValueError(f"{path}: not under `users`: {', '.join(sorted(strangers))}")
    if both := accounts.users.keys() & accounts.orgs.keys():
        raise ValueError(f"{path}: both a user and an organization: {', '.join(sorted(both))}")
    if len({token.token for token in accounts.tokens}) != len(accounts.tokens):
        raise ValueError(f"{path}: two entries under `tokens` have the same token")
    return accounts
