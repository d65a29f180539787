"""The heavy Python environments, made on demand from a pinned requirement file and kept while it is
unchanged.

The quantizers and vLLM pin packages that exclude each other and the bot, so each lives in a virtual
environment of its own below `<home>/envs/`. Its folder's name carries a digest of the requirement file, the
Python version and the machine: an edited file makes a new environment, and an old one is never changed in
place. A marker file is written last, atomically; a folder without one is a build that was interrupted, and
is rebuilt.

`torch` is installed by a call of its own, before anything that depends on it, and the rest with `--no-deps`
from full pins, checked by `pip check` afterwards, which may complain of nothing but the packages that the
requirement file leaves out by name and with a reason (`# left out: NAME: WHY`). So no resolver gets to choose
another torch, which is how a CUDA build of several GB ends up on a machine without a GPU; that the right
build came is checked all the same. Which registry serves it is pip's configuration, and no business of the
files here.

A runner's host keeps environments for its jobs (RELEASE_BOT_ENVIRONMENTS). A job runs third-party code, so
what one job may write the next may not run: such an environment is used only where this user could not have
altered it, being another user's and writable by nobody else; `runners/setup.sh` has it built by a user of its
own, and systemd mounts it read-only. Otherwise the job builds its own, in its own home, and says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot import log
from bot.edges import process
from bot.errors import InfrastructureError, UsageError
from bot.models import write_atomically

REQUIREMENTS_DIR = Path(__file__).resolve().parents[2] / "runners" / "environments"
MARKER = "complete.json"
# What a build writes at most, pip's downloads included; the CUDA figures are estimates, never measured.
NEEDED_BYTES = {
    "quantize-cpu": 3 * 2**30,
    "quantize-cuda": 12 * 2**30,
    "vllm-cpu": 6 * 2**30,
    "vllm-cuda": 16 * 2**30,
}
LOCK_PERIOD_S = 1.0
# Sources whose build imports the torch that is installed: an isolated build would bring another.
_BUILT_AGAINST_TORCH = ("causal-conv1d",)

_PROBE = """
import json, platform
from importlib.metadata import distributions
import torch
packages = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
print(json.dumps({"python": platform.python_version(), "cuda": torch.version.cuda, "packages": packages}))
"""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """A ready environment: its interpreter, the digest of what it was made from, what is installed."""

    name: str
    python: Path
    digest: str
    versions: dict[str, str]


def digest(name: str) -> str:
    """sha256 over what an environment depends on: requirement file, Python version, kind of machine."""
    parts = [_requirements(name).read_text(encoding="utf-8"), platform.python_version(), sys.platform]
    return hashlib.sha256("\0".join([*parts, platform.machine()]).encode()).hexdigest()


def ensure(name: str, home: Path) -> Environment:
    """The environment `name` below `home`, built now if there is none for the present requirement file.

    Raises UsageError for an unknown name; InfrastructureError when the disk is too small, pip fails, or the
    torch build that was served is for another device.
    """
    key = digest(name)
    folder = _folder(name, home, key)
    if ready := find(name, home):
        return ready
    _tell_why_not_the_hosts(name, key)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock"), name):
        if ready := _read(name, folder, key):  # the other process built it
            return ready
        with log.step(f"Building the environment {name}"):
            _build(name, folder, key)
    ready = _read(name, folder, key)
    assert ready is not None
    return ready


def find(name: str, home: Path) -> Environment | None:
    """The environment `name` of this host, or below `home`, when it is built already; never builds."""
    key = digest(name)
    return of_host(name) or _read(name, _folder(name, home, key), key)


def of_host(name: str) -> Environment | None:
    """The environment that this host keeps for its jobs, if it is out of their reach."""
    key = digest(name)
    folder = _host_folder(name, key)
    return _read(name, folder, key) if folder and is_out_of_reach(folder) else None


def is_out_of_reach(folder: Path) -> bool:
    """Whether this user could not have altered what lies there: another's, and writable by nobody else."""
    if os.geteuid() == 0:
        return False
    return all(map(_is_anothers, (folder.parent, folder, folder / "bin", folder / "lib", folder / MARKER)))


def prune(home: Path) -> list[str]:
    """Remove the environments below `home` that no requirement file asks for any more; their names."""
    wanted = {_folder(name, home, digest(name)).name for name in NEEDED_BYTES}
    found = [each for each in (home / "envs").glob("*-*-*") if each.is_dir() and each.name not in wanted]
    for each in found:
        shutil.rmtree(each)
    return sorted(each.name for each in found)


def _is_anothers(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    plain = stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)
    return plain and found.st_uid != os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _host_folder(name: str, key: str) -> Path | None:
    root = os.environ.get("RELEASE_BOT_ENVIRONMENTS")
    return Path(root).resolve() / _called(name, key) if root else None


def _tell_why_not_the_hosts(name: str, key: str) -> None:
    """A job that builds what its host should have says why: it takes minutes, every time."""
    folder = _host_folder(name, key)
    if folder is None:
        return
    why = "this user may write there" if folder.exists() else "it has none for these requirements"
    log.warning(f"this host's {name} is not used: {why}; run runners/setup.sh on it again")


def _folder(name: str, home: Path, key: str) -> Path:
    return home.resolve() / "envs" / _called(name, key)


def _called(name: str, key: str) -> str:
    return f"{name}-{key[:12]}"


def _requirements(name: str) -> Path:
    path = REQUIREMENTS_DIR / f"{name}.txt"
    if name not in NEEDED_BYTES or not path.is_file():
        raise UsageError(
            f"no environment is called {name!r}", where=str(path), fix=f"there are: {', '.join(NEEDED_BYTES)}"
        )
    return path


def _read(name: str, folder: Path, key: str) -> Environment | None:
    python = folder / "bin" / "python"
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if marker["digest"] == key and python.exists():
            return Environment(name=name, python=python, digest=key, versions=dict(marker["versions"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold the build lock; the kernel drops it when its holder dies, so it is never stale."""
    with open(path, "w", encoding="ascii") as file:
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - started < LOCK_PERIOD_S:
                    log.info(f"  another process is building {name}; waiting for it")
                time.sleep(LOCK_PERIOD_S)
        yield


def _build(name: str, folder: Path, key: str) -> None:
    _refuse_full_disk(name, folder.parent)
    shutil.rmtree(folder, ignore_errors=True)
    requirements = _requirements(name)
    pinned = pins(name)
    build_log = folder.parent / f"{folder.name}.log"
    build_log.unlink(missing_ok=True)
    pip = _Pip(folder / "bin" / "python", build_log)
    pip.run([sys.executable, "-m", "venv", str(folder)], "creating")
    install = [
        str(pip.python),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
    ]
    rest, late = folder / "rest.txt", folder / "built-against-torch.txt"
    for path, wanted in ((rest, False), (late, True)):
        lines = [f"{n}=={pin}\n" for n, pin in pinned.items() if (n in _BUILT_AGAINST_TORCH) == wanted]
        path.write_text("".join(lines), encoding="ascii")
    with log.Progress("packages", total=len(pinned)) as pip.progress:
        pip.run([*install, f"torch=={pinned['torch']}", "-c", str(requirements)], "torch")
        pip.run([*install, "--no-deps", "-r", str(rest)], "the rest")
        if late.stat().st_size:
            pip.run([*install, "--no-deps", "--no-build-isolation", "-r", str(late)], "kernels")
    _check(pip, left_out(name))
    marker = {"digest": key, "versions": _probe(name, pip, build_log)}
    write_atomically(folder / MARKER, json.dumps(marker, indent=2).encode())


def pins(name: str) -> dict[str, str]:
    """Package name, in lower case with hyphens, → version of every line of the requirement file.

    Raises UsageError for an unknown environment and for a line without an exact pin.
    """
    requirements = _requirements(name)
    found: dict[str, str] = {}
    for number, line in enumerate(requirements.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.partition("#")[0].strip()
        if line:
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line)
            if not match:
                where = f"{requirements}:{number}"
                raise UsageError(f"not an exact pin: {line!r}", where=where, fix="write name==version")
            found[re.sub(r"[-_.]+", "-", match[1].lower())] = match[2]
    if "torch" not in found:
        raise UsageError("torch is not pinned", where=str(requirements), fix="add a line torch==…")
    return found


def left_out(name: str) -> dict[str, str]:
    """Package name → why, for what the requirement file of the environment `name` leaves out on purpose."""
    text = _requirements(name).read_text(encoding="utf-8")
    return dict(re.findall(r"(?m)^# left out: ([A-Za-z0-9._-]+): (.+)$", text))


def _check(pip: _Pip, missing: Iterable[str]) -> None:
    """`pip check`, which may complain of nothing but the packages left out on purpose."""
    try:
        pip.run([str(pip.python), "-m", "pip", "check", "--disable-pip-version-check"], "checking")
    except InfrastructureError:
        expected = tuple(f" requires {name}, which is not installed." for name in missing)
        if not pip.lines or not all(line.endswith(expected) for line in pip.lines):
            raise


class _Pip:
    """Calls pip with its output in a log, and shows which package it is at."""

    def __init__(self, python: Path, build_log: Path) -> None:
        self.python = python
        self.progress: log.Progress | None = None
        self.lines: list[str] = []  # what the last call printed
        self._log = build_log
        self._collected: set[str] = set()
        self._note = ""

    def run(self, argv: list[str], note: str) -> None:
        self._note, self.lines = note, []
        env = {**process.inherited(), "PYTHONNOUSERSITE": "1", "PIP_NO_COLOR": "1"}
        process.run(
            argv,
            env=env,
            log_file=self._log,
            on_line=self._line,
            on_tick=self._tick,
            failure=InfrastructureError,
        )

    def _line(self, line: str) -> None:
        self.lines.append(line)
        if match := re.match(r"\s*(Collecting|Processing|Downloading|Building wheels? for) (\S+)", line):
            package = re.split(r"[=<>!~;\[(]", Path(match[2]).name)[0]
            if match[1] in ("Collecting", "Processing"):
                self._collected.add(package.lower())
            self._note = f"{match[1].lower()} {package}"
        elif line.startswith("Installing collected packages"):
            self._note = "installing"

    def _tick(self) -> None:
        """Collecting is counted as a third of the work, what lies installed as the rest."""
        if self.progress:
            installed = len(list(self.python.parents[1].glob("lib/python*/site-packages/*.dist-info")))
            done = len(self._collected) / 3 + installed * 2 / 3
            self.progress.update(round(min(done, self.progress.total - 1), 1), note=self._note)


def _probe(name: str, pip: _Pip, build_log: Path) -> dict[str, str]:
    """What is installed, from the environment itself; refuses a torch for another device."""
    pip.run([str(pip.python), "-I", "-c", _PROBE], "probing")
    found = json.loads(pip.lines[-1])
    versions = {"python": found["python"], **found["packages"]}
    check_torch(name, versions.get("torch", "?"), found["cuda"], where=str(build_log))
    return versions


def check_torch(name: str, version: str, cuda: str | None, *, where: str) -> None:
    """Raise InfrastructureError when a GPU's environment got a torch that cannot use it.

    The other way round it is said and accepted: a CUDA build runs on a CPU too, it is only several GB larger,
    and on many machines it is what the package registry serves.
    """
    if name.endswith("cuda") and cuda is None:
        raise InfrastructureError(
            f"torch {version} is built without CUDA, but {name} needs a build for it",
            where=where,
            why="pip installs what the package registry it is configured for serves",
            fix="configure pip so that torch comes as its CUDA build, then run it again",
        )
    if name.endswith("cpu") and cuda is not None:
        log.warning(
            f"torch {version} is a build for CUDA {cuda}: it works without a GPU, and takes more disk"
        )


def _refuse_full_disk(name: str, folder: Path) -> None:
    needed = NEEDED_BYTES[name]
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InfrastructureError(
            f"{free / 2**30:.1f} GiB are free, and the environment {name} needs {needed / 2**30:.0f} GiB",
            where=str(folder),
            fix="free some space, or set RELEASE_BOT_HOME to a larger disk",
        )
