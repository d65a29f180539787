"""Where large files are put: addresses that carry their own permission.

The client sends file contents without its token, because on the real Hub they go straight to object storage.
So the batch endpoint hands out addresses that are signed (HMAC, a key kept in the folder) over everything
they allow: this content, this size, this repo, this part, until this time. They authorize nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import threading
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from bot.localhub.errors import Forbidden
from bot.localhub.store import Store

VALID_S = 24 * 3600


class Signer:
    """Turns a small dict into a token only this folder can have made, and back."""

    def __init__(self, store: Store):
        self._key = store.secret("upload_key")

    def sign(self, claim: dict[str, Any]) -> str:
        body = json.dumps({**claim, "until": int(time.time()) + VALID_S}, sort_keys=True).encode()
        return urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def read(self, token: str) -> dict[str, Any]:
        """The dict; Forbidden when it was not signed here, or too long ago."""
        try:
            raw = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            raw = b""
        mac, body = raw[:32], raw[32:]
        if not body or not hmac.compare_digest(mac, self._mac(body)):
            raise Forbidden("this upload address is not valid")
        claim: dict[str, Any] = json.loads(body)
        if claim["until"] < time.time():
            raise Forbidden("this upload address has expired: ask for another")
        return claim

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, hashlib.sha256)


class Parts:
    """Multipart uploads under way: which parts came, by their etag. A restart forgets them, as it does the
    bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploads: dict[str, dict[int, str]] = {}

    def begin(self) -> str:
        upload = secrets.token_hex(12)
        with self._lock:
            self._uploads[upload] = {}
        return upload

    def known(self, upload: str) -> bool:
        with self._lock:
            return upload in self._uploads

    def add(self, upload: str, number: int, etag: str) -> None:
        with self._lock:
            if upload in self._uploads:
                self._uploads[upload][number] = etag

    def take(self, upload: str) -> dict[int, str] | None:
        """The parts that came, once: completing an upload ends it."""
        with self._lock:
            return self._uploads.pop(upload, None)
