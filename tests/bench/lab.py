"""The lab without network: `python -m tests.bench.lab [--base FOLDER]… -- LAB ARGUMENTS`.

Starts an embedded Hub below RELEASE_BOT_HOME, seeds it with the stand-ins and the tiny base, brings each base
FOLDER to it (as Qwen/<its name>, once), and runs `release-bot lab` on each with the same arguments. Every
record is kept, so the same command again runs nothing. For searching levers over several small bases.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bot import cli, config, localhub
from bot.demo import rehearsal
from bot.errors import InputError, ReleaseBotError


def main(argv: list[str]) -> int:
    """Run the lab on every base; the first exit code that is not 0 ends it, or that of what failed before."""
    at = argv.index("--") if "--" in argv else len(argv)
    own, rest = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lab")
    parser.add_argument("--base", action="append", type=Path, default=[], metavar="FOLDER")
    bases = parser.parse_args(own).base
    try:
        with on_embedded_hub(bases or [rehearsal.FIXTURE]) as repos:
            for repo in repos:
                if code := cli.main(["lab", repo, *rest]):
                    return code
    except ReleaseBotError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    return 0


@contextmanager
def on_embedded_hub(bases: Sequence[Path]) -> Iterator[list[str]]:
    """The repos of these bases on an embedded Hub with all stand-ins, which the process then talks to.

    Raises InputError for a folder without a model.
    """
    if missing := [each for each in bases if not (each / "config.json").is_file()]:
        raise InputError("there is no model", where=str(missing[0]), fix="name a folder with a config.json")
    home = config.load().home
    with localhub.running(home / "lab-hub") as running:
        os.environ["HF_ENDPOINT"], os.environ["HF_TOKEN"] = running.url, running.token
        from bot.edges import hub as hubs

        hub = hubs.Hub(embedded=hubs.prepare_environment(home))
        rehearsal.seed(hub)
        for folder in bases:
            rehearsal.bring(hub, repo_of(folder), folder)
        yield [repo_of(folder) for folder in bases]


def repo_of(folder: Path) -> str:
    """The fixture's own name, or one after the folder."""
    same = folder.resolve() == rehearsal.FIXTURE.resolve()
    return rehearsal.BASE if same else f"Qwen/{folder.resolve().name}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
