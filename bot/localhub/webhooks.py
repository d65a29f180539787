"""Webhooks, delivered for real.

What happened is queued in the same transaction that made it happen, so that no crash can lose or invent a
delivery. A thread sends the queue: a POST with the real Hub's payload (version 3, `_webhooks_payload.py` in
`huggingface_hub`) and the secret in `X-Webhook-Secret`. A delivery that fails is tried again, later each
time, and given up after `ATTEMPTS`; order is kept per webhook only as long as nothing fails.

A loopback server sends to loopback addresses only and never follows a redirect: a rehearsal must not be able
to reach anybody. A webhook is told of a private repo only if its owner may read it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from bot.localhub.accounts import Accounts, Action
from bot.localhub.errors import BadRequest, HubError
from bot.localhub.repos import Repo, new_id
from bot.localhub.store import MAIN, Store

ATTEMPTS = 6
DOMAINS = ("repo", "discussion")
WATCHABLE = ("model", "dataset", "space", "user", "org")
_log = logging.getLogger("bot.localhub")


class Webhooks:
    """The registered webhooks, their queue, and the thread that empties it."""

    def __init__(self, store: Store, accounts: Accounts, *, allow_remote: bool = False, retry_s: float = 1.0):
        self.store = store
        self.accounts = accounts
        self.allow_remote = allow_remote
        self.retry_s = retry_s
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None

    # Registry

    def create(self, owner: str, url: str, secret: str | None, watched: list[Any], domains: list[Any]) -> str:
        webhook = new_id()
        row = (
            webhook,
            owner,
            self._check_url(url),
            secret,
            _check_watched(watched),
            _check_domains(domains),
            0,
        )
        with self.store.write() as db:
            db.execute("INSERT INTO webhooks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return webhook

    def update(
        self,
        webhook: str,
        owner: str,
        *,
        url: str | None,
        secret: str | None,
        watched: list[Any],
        domains: list[Any] | None,
    ) -> None:
        """Change what is given; an empty `watched` (the client's default) leaves it as it was."""
        self.get(webhook, owner)
        changes: dict[str, Any] = {}
        if url is not None:
            changes["url"] = self._check_url(url)
        if secret is not None:
            changes["secret"] = secret
        if watched:
            changes["watched"] = _check_watched(watched)
        if domains is not None:
            changes["domains"] = _check_domains(domains)
        with self.store.write() as db:
            for column, value in changes.items():
                db.execute(f"UPDATE webhooks SET {column} = ? WHERE id = ?", (value, webhook))

    def set_disabled(self, webhook: str, owner: str, disabled: bool) -> None:
        self.get(webhook, owner)
        with self.store.write() as db:
            db.execute("UPDATE webhooks SET disabled = ? WHERE id = ?", (disabled, webhook))

    def delete(self, webhook: str, owner: str) -> None:
        self.get(webhook, owner)
        with self.store.write() as db:
            db.execute("DELETE FROM webhooks WHERE id = ?", (webhook,))

    def get(self, webhook: str, owner: str) -> dict[str, Any]:
        for found in self.of(owner):
            if found["id"] == webhook:
                return found
        raise HubError("Webhook not found", status=404)

    def of(self, owner: str) -> list[dict[str, Any]]:
        with self.store.read() as db:
            rows = db.execute("SELECT * FROM webhooks WHERE owner = ? ORDER BY rowid", (owner,)).fetchall()
        return [
            {
                "id": row["id"],
                "url": row["url"],
                "watched": json.loads(row["watched"]),
                "domains": json.loads(row["domains"]),
                "secret": row["secret"],
                "disabled": bool(row["disabled"]),
            }
            for row in rows
        ]

    def _check_url(self, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise BadRequest(f"not a webhook address: {url[:200]!r}")
        if not self.allow_remote and not is_loopback(parts.hostname):
            raise BadRequest(
                f"this embedded Hub delivers to loopback addresses only, not to {parts.hostname!r}"
            )
        return url

    # Queue

    def announce(self, repo: Repo, action: str, scope: str, *, base_url: str, **more: Any) -> None:
        """Queue a payload for every webhook that watches this repo, its owner, and this domain."""
        with self.store.write() as db:
            for row in db.execute("SELECT * FROM webhooks WHERE disabled = 0").fetchall():
                if scope.split(".")[0] not in json.loads(row["domains"]) or not self._watches(row, repo):
                    continue
                payload = {
                    "event": {"action": action, "scope": scope},
                    "repo": self._repo(repo, base_url),
                    **more,
                    "webhook": {"id": row["id"], "version": 3},
                }
                sql = "INSERT INTO deliveries (webhook_id, payload, due_at) VALUES (?, ?, ?)"
                db.execute(sql, (row["id"], json.dumps(payload), time.time()))
        self._wake.set()

    def _watches(self, row: Any, repo: Repo) -> bool:
        owner = self.accounts.member(row["owner"])
        if not owner.may(
            Action.READ, repo.namespace, repo.name, private=repo.private, created_by=repo.created_by
        ):
            return False
        named = {(repo.type, repo.full_name), ("user", repo.namespace), ("org", repo.namespace)}
        return any((item["type"], item["name"]) in named for item in json.loads(row["watched"]))

    def _repo(self, repo: Repo, base_url: str) -> dict[str, Any]:
        head = self.store.refs(repo).get(MAIN)
        return {
            "type": repo.type,
            "name": repo.full_name,
            "id": repo.id,
            "private": repo.private,
            "url": {"web": base_url + repo.web_path, "api": f"{base_url}/api/{repo.type}s/{repo.full_name}"},
            "owner": {"id": repo.namespace},
            "headSha": head,
            "tags": [],
        }

    # Sending

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._send_due()
            except Exception:
                _log.exception("webhook queue")
            self._wake.wait(timeout=0.25)
            self._wake.clear()
        self.store.db.close()

    def _send_due(self) -> None:
        with self.store.read() as db:
            due = db.execute(
                "SELECT deliveries.*, url, secret, disabled FROM deliveries JOIN webhooks "
                "ON webhooks.id = webhook_id WHERE state = 'queued' AND due_at <= ? "
                "ORDER BY deliveries.id LIMIT 50",
                (time.time(),),
            ).fetchall()
        for row in due:
            if self._stopping:
                return
            detail = "disabled" if row["disabled"] else self._post(row["url"], row["secret"], row["payload"])
            attempts = row["attempts"] + 1
            state = (
                "sent" if not detail else "failed" if attempts >= ATTEMPTS or row["disabled"] else "queued"
            )
            due_at = time.time() + self.retry_s * 2 ** (attempts - 1)
            with self.store.write() as db:
                db.execute(
                    "UPDATE deliveries SET attempts = ?, state = ?, detail = ?, due_at = ? WHERE id = ?",
                    (attempts, state, detail, due_at, row["id"]),
                )
                db.execute("DELETE FROM deliveries WHERE state != 'queued' AND id <= ? - 1000", (row["id"],))

    def _post(self, url: str, secret: str | None, payload: str) -> str:
        """Empty when it was taken, else what went wrong."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not self.allow_remote and not is_loopback(host):
            return "not a loopback address"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind("127.0.0.1" if host == "localhost" else host, parts.port, timeout=5)
        headers = {"Content-Type": "application/json", "User-Agent": "release-bot-embedded-hub"}
        if secret:
            headers["X-Webhook-Secret"] = secret
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body=payload.encode(), headers=headers)
            status = connection.getresponse().status
            return "" if 200 <= status < 300 else f"HTTP {status}"
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        finally:
            connection.close()


def is_loopback(host: str) -> bool:
    """Whether this is a loopback address or `localhost`; no name is ever looked up."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_watched(watched: list[Any]) -> str:
    items = []
    for item in watched:
        known = isinstance(item, dict) and item.get("type") in WATCHABLE and isinstance(item.get("name"), str)
        if not known:
            raise BadRequest(f"`watched` takes objects of type ({', '.join(WATCHABLE)}) and name")
        items.append({"type": item["type"], "name": item["name"]})
    if not items:
        raise BadRequest("a webhook watches at least one thing")
    return json.dumps(items)


def _check_domains(domains: list[Any]) -> str:
    if not domains or any(domain not in DOMAINS for domain in domains):
        raise BadRequest(f"`domains` takes {' and '.join(DOMAINS)}")
    return json.dumps(domains)
