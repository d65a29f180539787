"""Patches to third-party tools: small, named, pinned, and counted while they act.

A patch here mends a line of a tool that is wrong, or that a machine cannot run, until its authors do. It
edits the text of one function: each edit is an old fragment and a new one, so a patch reads as the diff that
is sent upstream. It is pinned twice, to the tool's version and to the sha256 of the function's source: when
either differs the run stops (BackendError). A patch is never skipped in silence, nor put over a source it
was not written for.

A patched line also counts how often it gave another value than the tool's own line would have
(`Acted.instead`), or stood in where the tool could only have stopped (`Acted.stood_in`). So evidence says
what acted, from the run itself; a patch that was asked for and changed nothing is listed as inert.

Not covered: functions with closures, and code that holds its own reference to the original from before.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import linecache
import re
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bot.errors import BackendError

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")
_OURS = re.compile(r"\bfrom (bot(?:\.\w+)+) import\b")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A method of a tool, `module` and `Class.method`, and the sha256 of its source in the pinned version."""

    module: str
    function: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.module}.{self.function}"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """`old` stands exactly once in the target's source, and becomes `new`."""

    target: Target
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A named mend of `package` at `version`; `unit` is what `Acted` counts, in the plural."""

    name: str
    package: str
    version: str
    what: str
    unit: str
    edits: tuple[Edit, ...]


class Acted:
    """How often each patch changed a value; quantizers call it from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def instead(self, name: str, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """`new`; counted when it differs from `old`, which the tool would have used."""
        if not old.equal(new):
            with self._lock:
                self._counts[name] += 1
        return new

    def stood_in(self, name: str, value: Value) -> Value:
        """`value`, where the tool itself has none, or could only have stopped; counted each time."""
        with self._lock:
            self._counts[name] += 1
        return value

    def counts(self) -> Mapping[str, int]:
        """Patch → number of values it changed so far."""
        with self._lock:
            return dict(self._counts)


@contextmanager
def applied(patches: Sequence[Patch]) -> Iterator[Acted]:
    """Put `patches` over the installed tools, and take them off again at the end.

    Raises BackendError when a tool's version or a function's source is not the pinned one.
    """
    acted = Acted()
    edits: dict[Target, list[tuple[Patch, Edit]]] = {}
    for patch in patches:
        _require_version(patch)
        for edit in patch.edits:
            edits.setdefault(edit.target, []).append((patch, edit))
    with ExitStack() as stack:
        for target, wanted in edits.items():
            owner, name, original = _find(target, wanted[0][0])
            text = _source(original, target, wanted[0][0])
            for patch, edit in wanted:
                text = _edited(text, patch, edit)
            setattr(owner, name, _compiled(text, original, target, acted))
            stack.callback(setattr, owner, name, original)
        yield acted


def said(patches: Iterable[Patch], counts: Mapping[str, int]) -> list[str]:
    """The patches that acted, each with how often, for the evidence."""
    return [
        f"{each.name}: {each.what} ({counts[each.name]:,} {each.unit})"
        for each in patches
        if counts.get(each.name)
    ]


def digest(patches: Iterable[Patch], modules: Iterable[str] = ()) -> str:
    """sha256 over what `patches` do: names, pins and edits, and the modules of ours that new lines import.

    Their order and their words (`what`, `unit`) do not count. A module counts as the text of its file: it
    is found without being imported, since it may need torch; so do the further `modules`. Raises BackendError
    where there is none.
    """
    ordered = sorted(patches, key=lambda each: each.name)
    edits = [(patch, edit) for patch in ordered for edit in patch.edits]
    ours = sorted({name for _, edit in edits for name in _OURS.findall(edit.new)} | set(modules))
    content = {
        "pins": [[each.name, each.package, each.version] for each in ordered],
        "edits": [[p.name, str(e.target), e.target.sha256, e.old, e.new] for p, e in edits],
        "ours": {name: hashlib.sha256(_file_of(name).read_bytes()).hexdigest() for name in ours},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_of(module: str) -> Path:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise BackendError(f"a patch imports {module}, which is not there", fix="mend the patch's new lines")
    return Path(found.origin)


def source_digest(function: Callable[..., Any]) -> str:
    """sha256 of a function's source as it stands in its file, decorators and indentation included."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()


def _require_version(patch: Patch) -> None:
    try:
        found = version(patch.package)
    except PackageNotFoundError:
        found = "absent"
    if found.partition("+")[0] != patch.version:
        raise BackendError(
            f"patch {patch.name} is for {patch.package} {patch.version}, and {found} is here",
            why="what it mends may have changed, or been mended",
            fix="read the tool's change, then renew the patch's pins or drop it from the recipe",
        )


def _find(target: Target, patch: Patch) -> tuple[type, str, Callable[..., Any]]:
    owner_name, _, name = target.function.partition(".")
    owner = getattr(importlib.import_module(target.module), owner_name, None)
    original = vars(owner).get(name) if isinstance(owner, type) else None
    if not isinstance(owner, type) or not callable(original):
        raise BackendError(
            f"patch {patch.name} finds nothing to mend", where=str(target), fix="renew the patch, or drop it"
        )
    return owner, name, original


def _source(original: Callable[..., Any], target: Target, patch: Patch) -> str:
    found = source_digest(original)
    if found != target.sha256:
        raise BackendError(
            f"patch {patch.name} was written for another source: sha256 {found[:12]}, "
            f"pinned is {target.sha256[:12]}",
            where=str(target),
            why=f"this build of {patch.package} {patch.version} was changed, or is patched already",
            fix="install the pinned tool, or renew the patch for this source",
        )
    return inspect.getsource(original)


def _edited(text: str, patch: Patch, edit: Edit) -> str:
    if text.count(edit.old) != 1:
        raise BackendError(
            f"patch {patch.name} finds its line {text.count(edit.old)} times, and needs it once",
            where=str(edit.target),
            why="two patches edit the same line",
            fix="ask for one of them",
        )
    return text.replace(edit.old, edit.new)


def _compiled(text: str, original: Callable[..., Any], target: Target, acted: Acted) -> Callable[..., Any]:
    """The function of `text` in the module of `original`, with `_acted` in reach and lines in tracebacks."""
    name = target.function.rpartition(".")[2]
    body = textwrap.indent(textwrap.dedent(text), "    ")
    factory = f"def _patched(_acted):\n{body}\n    return {name}\n"
    filename = f"<patched {target}>"
    linecache.cache[filename] = (len(factory), None, factory.splitlines(keepends=True), filename)
    space: dict[str, Any] = {}
    plain = inspect.unwrap(original)
    exec(compile(factory, filename, "exec"), plain.__globals__, space)
    made: Callable[..., Any] = space["_patched"](acted)
    return made
