"""`python -m bot.localhub DIR`: serve a folder from the command line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from bot.localhub import DEFAULT_TOKEN, serve


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        prog="python -m bot.localhub", description="Serve an embedded Hub from a folder."
    )
    out.add_argument("root", type=Path, metavar="DIR", help="where everything is kept; made when missing")
    out.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    out.add_argument("--port", type=int, default=0, help="port to listen on (default: a free one)")
    out.add_argument("--accounts", type=Path, help="users, organizations and tokens, as YAML or JSON")
    out.add_argument("--allow-remote", action="store_true", help="listen and deliver beyond loopback")
    out.add_argument("--multipart-bytes", type=int, metavar="N", help="ask for parts above this size")
    out.add_argument("--part-bytes", type=int, metavar="N", help="size of a part")
    out.add_argument(
        "--webhook-retry-s", type=float, default=1.0, metavar="S", help="wait before a second delivery"
    )
    out.add_argument("--run-jobs", action="store_true", help="run submitted jobs as processes here")
    out.add_argument("--json", action="store_true", help="print one JSON line instead of the banner")
    out.add_argument("--until-stdin-closes", action="store_true", help="also stop when standard input ends")
    return out


def banner(url: str, *, own_accounts: bool) -> str:
    token = "a token from your accounts file" if own_accounts else DEFAULT_TOKEN
    return (
        f"Embedded Hub of release-bot, not the Hugging Face Hub: {url}\n"
        f"  export HF_ENDPOINT={url}\n"
        f"  export HF_TOKEN={token!s}\n"
        "  export HF_HUB_DISABLE_XET=1\n"
        "The token is no secret. Stop with ^C."
    )


def main(argv: list[str] | None = None) -> int:
    options = parser().parse_args(argv)
    from bot.localhub.hub import Limits

    sizes = {"multipart_bytes": options.multipart_bytes, "part_bytes": options.part_bytes}
    limits = Limits(**{name: value for name, value in sizes.items() if value is not None})

    def ready(url: str) -> None:
        text = (
            json.dumps({"url": url})
            if options.json
            else banner(url, own_accounts=options.accounts is not None)
        )
        print(text, flush=True)

    if options.until_stdin_closes:
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    try:
        serve(
            options.root,
            host=options.host,
            port=options.port,
            accounts=options.accounts,
            ready=ready,
            allow_remote=options.allow_remote,
            limits=limits,
            webhook_retry_s=options.webhook_retry_s,
            run_jobs=options.run_jobs,
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 4
    return 0


def _stop_with_stdin() -> None:
    """End this server when whoever started it is gone."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
