"""A stand-in for the part of GitHub that mints id tokens for jobs, on loopback.

A job with `permissions: id-token: write` finds `ACTIONS_ID_TOKEN_REQUEST_URL` and `_TOKEN` in its environment
and asks there for a token with an audience of its choice; `huggingface_hub` does so when `HF_OIDC_RESOURCE`
is set. This one answers the same way with whatever claims the test gives it, signed by a key whose public
half (`jwk`) goes into the embedded Hub's accounts file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from loopback import Asked, serving

REQUEST_TOKEN = "runtime-token-of-the-job"
CLAIMS = {
    "sub": "repo:acme/bot:environment:hub-release",
    "repository": "acme/bot",
    "ref": "refs/heads/main",
    "environment": "hub-release",
    "workflow_ref": "acme/bot/.github/workflows/publish.yml@refs/heads/main",
}


@dataclass
class Issuer:
    """Where it listens, what it puts into a token, and its key."""

    url: str = ""
    claims: dict[str, Any] = field(default_factory=lambda: dict(CLAIMS))
    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))

    @property
    def jwk(self) -> dict[str, Any]:
        content = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {**content, "kid": "k1", "alg": "RS256", "use": "sig"}

    def token(self, audience: str, **changes: Any) -> str:
        """A signed id token for `audience`; `changes` replace or (None) drop claims."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": audience, "iat": now, "exp": now + 300, **self.claims, **changes}
        content = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(content, self.key, algorithm="RS256", headers={"kid": "k1"})

    def environment(self) -> dict[str, str]:
        """What GitHub sets for a job that may ask for an id token."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/token?job=1",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": REQUEST_TOKEN,
        }

    def publisher(self, repo: str, **more: Any) -> dict[str, Any]:
        """An entry under `publishers` of an accounts file."""
        names = ("repository", "ref", "environment", "workflow_ref")
        claims = {name: CLAIMS[name] for name in names}
        return {"repo": repo, "issuer": self.url, "keys": [self.jwk], "claims": claims, **more}


@contextmanager
def serve() -> Iterator[Issuer]:
    """An issuer on a free port, for as long as the block runs."""
    issuer = Issuer()

    def answer(asked: Asked) -> tuple[int, dict[str, str]]:
        target = urlsplit(asked.path)
        if asked.headers.get("Authorization") != f"Bearer {REQUEST_TOKEN}" or target.path != "/token":
            return 401, {"message": "no"}
        return 200, {"value": issuer.token(parse_qs(target.query).get("audience", [""])[0])}

    with serving(answer) as port:
        issuer.url = f"http://127.0.0.1:{port}"
        yield issuer
