"""The machines that jobs may run on, and which is the cheapest that a job fits.

`runners/fleet.yaml` is the one place that names runner labels: the plan asks for what a job needs and writes
the labels of the class it got into the matrix, so that no workflow names a machine. A class is a kind of
runner, one GPU each; the hosted runner is the class without one. What no class can do is said class by class,
never planned silently onto a machine that will fail hours later.

Costs and counts are a maintainer's estimate: they order the choice and feed the simulation, nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from bot.errors import RecipeError, UsageError
from bot.models import Model
from bot.recipe_text import line_of, read_yaml

FLEET_FILE = Path(__file__).resolve().parent.parent / "runners" / "fleet.yaml"

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
Capability = Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")]


class RunnerClass(Model):
    """One kind of runner. Memory and disk are GiB; a class without a GPU has `gpu_memory_gib` 0."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
    labels: Annotated[tuple[Label, ...], Field(min_length=1, max_length=8)]
    gpu: Annotated[str, Field(min_length=1, max_length=80)]
    gpu_memory_gib: Annotated[float, Field(ge=0, le=4096, allow_inf_nan=False)]
    compute_capability: Capability
    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    disk_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    count: Annotated[int, Field(ge=0, le=10_000)]
    cost_per_hour_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    max_hours: Annotated[float, Field(gt=0, le=120, allow_inf_nan=False)]

    @field_validator("labels")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len({each.lower() for each in value}) != len(value):
            raise ValueError("a label stands there twice")
        return value

    @model_validator(mode="after")
    def _no_gpu_no_capability(self) -> RunnerClass:
        if self.gpu_memory_gib == 0 and self.compute_capability != "0.0":
            raise ValueError('a class without a GPU has compute_capability "0.0"')
        return self

    @property
    def timeout_minutes(self) -> int:
        """What a job on this class is stopped after."""
        return int(self.max_hours * 60)


class Needs(Model):
    """What a job asks of a machine; zeros and "0.0" ask for no GPU."""

    gpu_memory_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    compute_capability_min: Capability
    memory_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    disk_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Unfit:
    """No class can do it: `reasons` says of each, by name, what it lacks."""

    reasons: dict[str, str]

    def __str__(self) -> str:
        return "; ".join(f"{name}: {why}" for name, why in self.reasons.items())


class Fleet(Model):
    """`runners/fleet.yaml`."""

    schema_version: Literal[1]
    classes: Annotated[tuple[RunnerClass, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Fleet:
        if again := [name for name, num in Counter(each.name for each in self.classes).items() if num > 1]:
            raise ValueError(f"two classes are called {again[0]!r}")
        for one, other in permutations(self.classes, 2):
            if set(map(str.lower, one.labels)) <= set(map(str.lower, other.labels)):
                raise ValueError(
                    f"every label of {one.name!r} is on {other.name!r} too, so its jobs may land there: "
                    "give each class a label of its own"
                )
        return self

    def pick(self, needs: Needs) -> RunnerClass | Unfit:
        """The cheapest class that fits; of equal ones the smallest GPU, then the first name."""
        lacks = {each.name: lacking(each, needs) for each in self.classes}
        fitting = [each for each in self.classes if not lacks[each.name]]
        if not fitting:
            return Unfit(reasons={name: ", ".join(reasons) for name, reasons in lacks.items()})
        return min(fitting, key=lambda each: (each.cost_per_hour_usd, each.gpu_memory_gib, each.name))


def lacking(runner: RunnerClass, needs: Needs) -> list[str]:
    """What `runner` lacks for `needs`, in words; empty when it fits."""
    amounts = (
        ("GPU memory", runner.gpu_memory_gib, needs.gpu_memory_gib),
        ("memory", runner.memory_gib, needs.memory_gib),
        ("disk", runner.disk_gib, needs.disk_gib),
    )
    reasons = [f"{have:g} GiB of {what}, {need:g} needed" for what, have, need in amounts if have < need]
    if numbers(runner.compute_capability) < numbers(needs.compute_capability_min):
        have, need = runner.compute_capability, needs.compute_capability_min
        reasons.append(f"compute capability {have}, {need} needed" if have != "0.0" else "no GPU")
    return reasons if runner.count else ["count is 0", *reasons]


def numbers(capability: str) -> tuple[int, int]:
    """`12.0` as (12, 0): as text it would sort before `9.0`."""
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def host_settings(runner: RunnerClass) -> str:
    """What `runners/setup.sh --class NAME` reads: the class as a file of shell variables.

    Every value has the form of a word, so that nothing in it can be more than a value.
    """
    memory_mib = int(runner.gpu_memory_gib * 1024)
    values = {
        "RUNNER_CLASS": runner.name,
        "RUNNER_LABELS": ",".join(runner.labels),
        "MIN_GPU_MEMORY_MIB": memory_mib,
        "MIN_COMPUTE_CAPABILITY": runner.compute_capability,
        "MIN_MEMORY_GIB": int(runner.memory_gib),
        "MIN_DISK_GIB": int(runner.disk_gib),
    }
    lines = [f"{name}={value}" for name, value in values.items()]
    return "\n".join(["# From runners/fleet.yaml, by `make generated`.", *lines, ""])


# ── reading ────────────────────────────────────────────────────────────────────────────────


def load(path: Path = FLEET_FILE) -> Fleet:
    """The fleet in `path`. Raises UsageError, which names file, line and field of every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(
            f"the fleet cannot be read: {e}", where=str(path), fix="name a readable YAML file"
        ) from e
    return parse(text, where=str(path))


def named(name: str, path: Path = FLEET_FILE) -> RunnerClass:
    """The class of that name. Raises UsageError, which names those there are."""
    classes = {each.name: each for each in load(path).classes}
    if name not in classes:
        raise UsageError(
            f"the fleet has no class {name!r}", where=str(path), fix=f"there are: {', '.join(classes)}"
        )
    return classes[name]


def parse(text: str, *, where: str) -> Fleet:
    """The fleet in `text`; `where` is named in errors."""
    try:
        node, content = read_yaml(text, where)
    except RecipeError as e:
        problems = [f"{where}:{each['line']}: {each['message']}" for each in e.problems]
        raise _refused(problems, where) from e
    try:
        return Fleet.model_validate(content)
    except ValidationError as e:
        found = [(each["loc"], each["msg"].removeprefix("Value error, ")) for each in e.errors()]
        problems = [
            f"{where}:{line_of(node, at)}: {'.'.join(map(str, at)) or 'fleet'}: {message}"
            for at, message in found
        ]
        raise _refused(problems, where) from e


def _refused(problems: list[str], where: str) -> UsageError:
    return UsageError(
        "\n  ".join(["the fleet does not hold:", *problems]),
        where=where,
        fix="mend the fields named above; `release-bot fleet check` tries again",
    )


def write_classes(path: Path = FLEET_FILE) -> None:
    """Beside the fleet's file, what each class of GPU hosts is set up from; those of no class any more go."""
    folder = path.parent / "classes"
    folder.mkdir(exist_ok=True)
    texts = {f"{each.name}.env": host_settings(each) for each in load(path).classes if each.gpu_memory_gib}
    for left in {each.name for each in folder.glob("*.env")} - texts.keys():
        (folder / left).unlink()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":  # `make generated`
    write_classes()
