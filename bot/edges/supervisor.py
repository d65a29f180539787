"""The process between the bot and a child: no descendant outlives it, whatever happens to the bot.

`python supervisor.py PARENT_PID GRACE_S COMMAND…`, with only the standard library, so that it starts in a few
milliseconds. A quantizer or a server starts workers of its own, and some of them leave the process group;
a SIGKILL of the bot (or of a CI job) would leave them running and holding the GPU. So this process

- asks the kernel for SIGTERM when the bot's thread that started it ends (PR_SET_PDEATHSIG), however it ended;
- adopts every orphan below it (PR_SET_CHILD_SUBREAPER), so that its descendants are all that is to be found;
- on SIGTERM, or when the command has ended, ends every descendant: SIGTERM, then SIGKILL after GRACE_S;
- ends as the command did: with its exit status, or by the same signal.

The command itself is bound to this process in turn: it gets SIGKILL when this one is killed. On systems
without prctl and /proc only the process group is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
PROC = "/proc"


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def hide() -> None:
    """Keep this process's memory, and the environment that it was started with, from all but itself and root.

    Linux shows them to every process of the same user, children too; what is taken out of `os.environ` still
    stands in /proc/PID/environ. A program that this one starts can be looked at as ever.
    """
    _prctl(PR_SET_DUMPABLE, 0)


def descendants(root: int) -> list[int]:
    """The process ids below `root`, children before grandchildren; [] where there is no /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(PROC) if os.path.isdir(PROC) else []:
        if name.isdigit():
            with (
                contextlib.suppress(OSError, IndexError, ValueError),
                open(f"{PROC}/{name}/stat", "rb") as file,
            ):
                # The second field, the program's name, may hold spaces and brackets: cut after its end.
                children.setdefault(int(file.read().rpartition(b")")[2].split()[1]), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        queue += (below := children.get(queue.pop(0), []))
        found += below
    return found


def _end_all(signum: int) -> None:
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            os.kill(pid, signum)
    if not os.path.isdir(PROC):
        with contextlib.suppress(OSError):
            os.killpg(os.getpid(), signum)


def _start(command: list[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        for each in (signal.SIGTERM, signal.SIGALRM):
            signal.signal(each, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as e:
        os.write(2, f"{command[0]}: {e.strerror}\n".encode())
    os._exit(127)


def main(argv: list[str]) -> int:
    """Run the command in `argv`; returns its exit status, or ends by its signal."""
    parent, grace_s, command = int(argv[0]), float(argv[1]), argv[2:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(PR_SET_CHILD_SUBREAPER, 1)

    def stop(_signum: int, _frame: FrameType | None) -> None:
        _end_all(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, grace_s, 0.2)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda *_: _end_all(signal.SIGKILL))
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the line above
        return 128 + signal.SIGTERM
    child = _start(command)
    _, status = os.waitpid(child, 0)
    stop(signal.SIGTERM, None)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        if signum != signal.SIGKILL:
            signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
