"""One process serving one folder, until it is told to stop.

A folder has one server at a time: the file `lock` in it is locked (`flock`) for as long as the server lives,
and the kernel lets go of it however the server ends. The socket is bound before anything is announced, so
that "port in use" is an error here and not a log line, and port 0 yields a free one."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from bot.localhub.accounts import load_accounts
from bot.localhub.app import build
from bot.localhub.errors import FolderBusyError
from bot.localhub.hub import Hub, Limits
from bot.localhub.jobs import Jobs
from bot.localhub.oidc import Exchange
from bot.localhub.store import Store
from bot.localhub.webhooks import Webhooks, is_loopback

GRACE_S = 3


class Listening(uvicorn.Server):
    """Uvicorn that returns on SIGINT and SIGTERM instead of raising the signal again."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]):
        super().__init__(config)
        self._started = started

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._started()


def serve(
    root: Path,
    *,
    host: str,
    port: int,
    accounts: Path | None,
    ready: Callable[[str], None] | None,
    allow_remote: bool,
    limits: Limits,
    webhook_retry_s: float,
    run_jobs: bool,
    stopper: Callable[[Callable[[], None]], None] | None,
) -> None:
    """See `bot.localhub.serve`; `stopper` is handed a function that ends the server."""
    if not allow_remote and not is_loopback(host):
        raise ValueError(
            f"refusing to bind {host}: the embedded Hub's tokens are public (allow_remote to do it)"
        )
    if run_jobs and allow_remote:
        raise ValueError("refusing to run jobs for callers beyond loopback")
    people = load_accounts(accounts)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root), bound(host, port) as listener:
        store = Store(root)
        store.sweep()
        webhooks = Webhooks(store, people, allow_remote=allow_remote, retry_s=webhook_retry_s)
        jobs = Jobs(root / "jobs", runs=run_jobs)
        hub = Hub(
            store=store,
            accounts=people,
            webhooks=webhooks,
            exchange=Exchange(people, store.repos),
            jobs=jobs,
            limits=limits,
            allow_remote=allow_remote,
        )
        bound_port = listener.getsockname()[1]
        url = f"http://[{host}]:{bound_port}" if ":" in host else f"http://{host}:{bound_port}"
        config = uvicorn.Config(
            build(hub),
            http="h11",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=30,
        )
        server = Listening(config, lambda: ready(url) if ready else None)
        if stopper is not None:
            stopper(lambda: setattr(server, "should_exit", True))
        webhooks.start()
        try:
            server.run(sockets=[listener])
        finally:
            jobs.stop()
            webhooks.stop()
            store.db.close()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise FolderBusyError(
                errno.EBUSY,
                f"another embedded Hub serves this folder (process {holder}): stop it, or serve another",
                str(root),
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there. Raises OSError that names host:port when it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(128)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
            ) from error
        yield listener
    finally:
        listener.close()
