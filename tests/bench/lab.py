"""The lab without network: `python -m tests.bench.lab [--base FOLDER]… -- LAB ARGUMENTS`.

Starts an embedded Hub below RELEASE_BOT_HOME, seeds it with the stand-ins and the tiny base, brings each base
FOLDER to it (as Qwen/<its name>, once), and runs `release-bot lab` on each with the same arguments. Every
record is kept, so the same command again runs nothing. For searching levers over several small bases.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bot import cli, config, localhub
from bot.demo import rehearsal


def main(argv: list[str]) -> int:
    """Run the lab on every base; the first exit code that is not 0 ends it."""
    at = argv.index("--") if "--" in argv else len(argv)
    own, rest = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lab")
    parser.add_argument("--base", action="append", type=Path, default=[], metavar="FOLDER")
    bases = parser.parse_args(own).base
    home = config.load().home
    with localhub.running(home / "lab-hub") as running:
        os.environ["HF_ENDPOINT"], os.environ["HF_TOKEN"] = running.url, running.token
        from bot.edges import hub as hubs

        hub = hubs.Hub(embedded=hubs.prepare_environment(home))
        rehearsal.seed(hub)
        for folder in bases:
            if not rehearsal._is_seeded(hub, _repo(folder), "model"):
                rehearsal._commit(hub, _repo(folder), "model", folder)
        for repo in [_repo(folder) for folder in bases] or [rehearsal.BASE]:
            if code := cli.main(["lab", repo, *rest]):
                return code
    return 0


def _repo(folder: Path) -> str:
    return f"Qwen/{folder.resolve().name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
