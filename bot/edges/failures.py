"""The typed error for a child process that did not end well.

A child of ours leaves its error as a small JSON file (`bot.backends.worker`); the same class is raised
again here, with the same words. A child that was killed leaves none: the signal tells, and what its process
tree held.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from bot import errors

if TYPE_CHECKING:
    from bot.edges.process import Child


def of_child(
    child: Child,
    *,
    error_file: Path | None = None,
    failure: type[errors.ReleaseBotError] = errors.BackendError,
) -> errors.ReleaseBotError:
    """The typed error for a child that did not end well."""
    code = child.returncode or 0
    if error_file is not None and error_file.is_file():
        return read_error(error_file)
    tail = "\n".join(child.tail)
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        memory = f"its process tree held {child.peak_memory_bytes / 2**30:.1f} GiB at most"
        return errors.InfrastructureError(
            f"{Path(child.argv[0]).name} was killed by {name}; {memory}",
            where=str(child.log_file),
            why="most likely the machine ran out of memory"
            if code == -signal.SIGKILL
            else "something outside ended it",
            fix="run it again; what can be resumed is. Last lines:\n" + tail,
        )
    return failure(
        f"{Path(child.argv[0]).name} ended with status {code}",
        where=str(child.log_file),
        fix="the last lines of its log:\n" + tail,
    )


def read_error(path: Path) -> errors.ReleaseBotError:
    """The error in `path`; a file that holds none is itself a defect, shown as such."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        kind = getattr(errors, str(fields["error"]), errors.BackendError)
        if not (isinstance(kind, type) and issubclass(kind, errors.ReleaseBotError)):
            kind = errors.BackendError
        details = {name: str(fields.get(name, "")) for name in ("where", "why", "fix")}
        return kind(str(fields["what"]), **details)
    except (OSError, ValueError, KeyError, TypeError) as e:
        return errors.BackendError(f"the child failed and left no readable error: {e}", where=str(path))
