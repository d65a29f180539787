"""What runs inside a Hugging Face Job: one `release-bot run`, and its small results brought out.

A job's disk is gone when it ends. Weights leave it as they always do, as the pull request on the target
repo; all else that a run leaves (job.json, evidence, card, logs) goes into a second pull request there, which
is never merged: `edges/hf_jobs.py` fetches it and closes it. So the job needs no right but the one of its
identity: to read, and to open pull requests on that repo.

The last line of the log says how it ended, since a job's status does not tell the exit code.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bot import log
from bot.errors import InfrastructureError, Refused, ReleaseBotError
from bot.models import Model
from bot.workspace import Workspace

PREFIX = "work"
MARK = "release-bot-job-ended"
MAX_FILE_BYTES = 64 * 2**20
_CARRIED = re.compile(
    r"(job\.json|evidence/[a-z]+\.json|logs/[\w.-]{1,80}|card/(plots/)?[\w.-]{1,80})", re.ASCII
)


class Ended(Model):
    """The marked line: how a job's run ended. `nonce` says which submission it was."""

    nonce: str
    exit_code: int


def title(key: str, nonce: str) -> str:
    """Of the pull request that carries the results; no release is looked for under such a title."""
    return f"Work of {key} ({nonce}): not to be merged"


def is_carried(path: str) -> bool:
    """Whether a path of a work folder is brought out, and may be written into one."""
    return bool(_CARRIED.fullmatch(path)) and ".." not in path


def carried(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a work folder that are brought out."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if is_carried(name) and path.is_file() and not path.is_symlink():
            if path.stat().st_size <= MAX_FILE_BYTES:
                yield name, path
            else:
                log.warning(f"{name} is too large to be brought out of the job")


def carry(key: str, nonce: str) -> None:
    """Open the pull request with the work folder's small files. Raises Refused when the job made none."""
    from bot import config
    from bot.edges import hub as edge

    settings = config.load()
    hub = edge.Hub(embedded=edge.prepare_environment(settings.home))
    space = Workspace(settings.work / key)
    if not space.job.is_file():
        raise Refused(
            f"the job made no release {key}",
            why="its checkout has another recipe or toolchain_epoch than yours",
            fix="commit and push what you have, then run it again",
        )
    repo_id = space.release().target_repo
    hub.commit(
        repo_id,
        title=title(key, nonce),
        description="Results of a job, for whoever submitted it. They are fetched, and this is closed.",
        add={f"{PREFIX}/{name}": path for name, path in carried(space.root)},
        parent=hub.head(repo_id),
        create_pr=True,
    )


def main(argv: Sequence[str]) -> int:
    """Run, carry, and say how it ended; returns the run's exit code."""
    from bot import cli

    parser = argparse.ArgumentParser(prog="python -m bot.jobside")
    for name in ("key", "nonce", "base", "recipe", "until"):
        parser.add_argument(name)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args(argv)
    sets = [text for each in given.overrides for text in ("--set", each)]
    code = cli.main(["run", given.base, "--recipe", given.recipe, "--until", given.until, *sets])
    try:
        carry(given.key, given.nonce)
    except ReleaseBotError as e:
        log.error("the results stay in the job", str(e))
        code = code or (e.exit_code if isinstance(e, Refused) else InfrastructureError.exit_code)
    ended = Ended(nonce=given.nonce, exit_code=code)
    print(f"{MARK} {json.dumps(ended.model_dump())}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
