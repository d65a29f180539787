"""The embedded Hub: the Hugging Face Hub's HTTP API over a folder, on loopback.

It is for the demo, rehearsals and tests. The code that releases talks to it through the same
`huggingface_hub` client, and `HF_ENDPOINT` is the only difference, so the code that releases is the code that
is tested. It is not the real Hub: anybody on this machine may use its default token, nothing is scanned, and
Xet, inference, Spaces that run and social features do not exist.

    serve     blocks and serves a folder
    running   a context manager: serves a folder from a child process
    probe     whether an endpoint is an embedded Hub

Importing this package imports no server library; `serve` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bot.localhub.process import DEFAULT_TOKEN, Running, probe, running

if TYPE_CHECKING:
    from bot.localhub.hub import Limits

DEFAULT_USER = "release-bot"

__all__ = ["DEFAULT_TOKEN", "DEFAULT_USER", "Running", "probe", "running", "serve"]


def serve(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    accounts: Path | None = None,
    ready: Callable[[str], None] | None = None,
    allow_remote: bool = False,
    limits: Limits | None = None,
    webhook_retry_s: float = 1.0,
    run_jobs: bool = False,
    stopper: Callable[[Callable[[], None]], None] | None = None,
) -> None:
    """Serve the folder `root`, made when missing, until SIGINT or SIGTERM; `ready(url)` is called once it
    listens.

    `run_jobs` makes submitted jobs processes of this machine (`jobs.py`); without it they end as errors.
    In a thread there are no signals: `stopper` is called once with a function that ends the server. Raises
    OSError that names host:port when it cannot listen there, `FolderBusyError` (an OSError) when another
    server has the folder, ValueError for a host that is not loopback (unless `allow_remote`) or a bad
    accounts file."""
    from bot.localhub import server
    from bot.localhub.hub import Limits

    server.serve(
        Path(root),
        host=host,
        port=port,
        accounts=accounts,
        ready=ready,
        allow_remote=allow_remote,
        limits=limits or Limits(),
        webhook_retry_s=webhook_retry_s,
        run_jobs=run_jobs,
        stopper=stopper,
    )
