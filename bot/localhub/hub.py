"""The parts of a running embedded Hub, in one value that every handler is given."""

from __future__ import annotations

from dataclasses import dataclass

from bot.localhub.accounts import Accounts, Caller
from bot.localhub.jobs import Jobs
from bot.localhub.oidc import Exchange
from bot.localhub.store import Store
from bot.localhub.webhooks import Webhooks

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes that decide how a file travels. The real Hub's order of magnitude; tests make them small."""

    regular_bytes: int = 10 * MIB
    """A file above this is LFS whatever its name; a regular file above it is refused."""
    multipart_bytes: int = 512 * MIB
    """An LFS upload above this is asked for in parts."""
    part_bytes: int = 64 * MIB


@dataclass(frozen=True, kw_only=True)
class Hub:
    store: Store
    accounts: Accounts
    webhooks: Webhooks
    exchange: Exchange
    jobs: Jobs
    limits: Limits
    allow_remote: bool = False

    def caller(self, token: str | None) -> Caller | None:
        """Who has this token, kept in the accounts or minted for a publisher; None when nobody has it."""
        return self.accounts.caller(token) or self.exchange.caller(token)
