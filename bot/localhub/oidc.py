"""Trusted Publishers: an id token of a CI job against a short-lived token for one repo.

What `huggingface_hub`'s `_oidc.py` does when `HF_OIDC_RESOURCE` is set: it has GitHub mint an id token whose
audience is this Hub, and posts it here with the repo it wants to write to (RFC 8693). The signature, issuer,
audience and every configured claim must hold; which one did not is not said, as on the real Hub. What comes
back reads and writes that one existing repo for an hour. It cannot create, delete or move a repo, and keeps
no collection: `accounts.py` holds it to that as it does any token limited to repos.

Minted tokens live in memory: a restart of the server ends them.
"""

from __future__ import annotations

import secrets
import threading
import time
from fnmatch import fnmatchcase

import jwt

from bot.localhub.accounts import Accounts, Caller, Publisher
from bot.localhub.errors import HubError
from bot.localhub.repos import Repo, Repos

USER = "[OIDC]"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
SUBJECT_TYPE = "urn:ietf:params:oauth:token-type:id_token"
_REQUIRED = ["exp", "iat", "aud", "iss", "sub"]


class Exchange:
    """The publishers of one embedded Hub, and the tokens that it minted for them."""

    def __init__(self, accounts: Accounts, repos: Repos):
        self._publishers = accounts.publishers
        self._repos = repos
        self._lock = threading.Lock()
        self._minted: dict[str, tuple[Caller, float]] = {}

    def mint(self, subject_token: str, resource: str, *, audience: str) -> tuple[str, int]:
        """A token for the model repo `resource`, and its seconds; HubError `invalid_grant` for any doubt."""
        repo = self._model(resource)
        for publisher in self._publishers:
            if fnmatchcase(repo.full_name, publisher.repo) and vouches(publisher, subject_token, audience):
                return self._keep(repo, publisher.lifetime_s), publisher.lifetime_s
        raise invalid_grant()

    def caller(self, token: str | None) -> Caller | None:
        """The caller behind a minted token, until it expires."""
        with self._lock:
            caller, until = self._minted.get(token or "", (None, 0.0))
        return caller if time.monotonic() < until else None

    def _model(self, resource: str) -> Repo:
        namespace, _, name = resource.partition("/")
        try:
            return self._repos.find("model", namespace, name)
        except HubError:
            raise invalid_grant() from None

    def _keep(self, repo: Repo, lifetime_s: int) -> str:
        token = f"hf_jwt_{secrets.token_urlsafe(32)}"
        caller = Caller(
            user=USER,
            roles={repo.namespace: "write"},
            token_name=f"trusted publisher of {repo.full_name}",
            scopes=frozenset({"write"}),
            repos=(repo.full_name,),
        )
        now = time.monotonic()
        with self._lock:
            self._minted = {t: kept for t, kept in self._minted.items() if kept[1] > now}
            self._minted[token] = (caller, now + lifetime_s)
        return token


def vouches(publisher: Publisher, subject_token: str, audience: str) -> bool:
    """Whether this id token is signed by the publisher's issuer, for this Hub, with every claim it asks."""
    try:
        kid = jwt.get_unverified_header(subject_token).get("kid")
        key = next(each for each in publisher.keys if each.get("kid") == kid)
        claims = jwt.decode(
            subject_token,
            jwt.PyJWK(key, algorithm="RS256").key,
            algorithms=["RS256"],
            audience=audience,
            issuer=publisher.issuer,
            options={"require": _REQUIRED},
        )
    except (jwt.PyJWTError, StopIteration):
        return False
    return all(claims.get(name) == value for name, value in publisher.claims.items())


def invalid_grant() -> HubError:
    """One refusal for every reason, so that it tells nobody what to try next."""
    return HubError("invalid_grant", error_description="No matching trusted publisher for this token")
