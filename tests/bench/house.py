"""The evidence of the house recipes, made again: `python -m tests.bench.house --train`.

For each house recipe and the recipe that it is held against, `release-bot lab --split report` on the
committed fixture and on three other tiny bases: on an embedded Hub below RELEASE_BOT_HOME, with stand-ins of
all texts. `--train` makes those bases by the fixture's own script (about half an hour each on two cores);
`--base FOLDER` takes others in their place. Then `docs/house/<recipe>.json` and `docs/house/README.md` are
written, and whether each recipe passes the bar is said; exit code 6 where one does not.

How much each pair gets to see, and how many variants were tried before, stands in `SCOPES`; a recipe that is
not there needs `--samples` and `--tried`. Both recipes of a pair are scaled down by the same factors
(`--samples` and `--tokens` are the counterpart's), and draw their samples by another seed than those that
ship. A note of the evidence that is there is kept, unless `--note` gives another.

Labs lie in OUT/<recipe>/<base>, and a variant that was measured is not run again. A recipe that asks for
patches has a digest of them behind its name there, since a lab is told by the recipe's text alone: after a
patch was rewritten it is measured anew. `--render` runs nothing, and writes what the labs there show.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bot import cli, config, house
from bot import recipe as recipes
from bot.backends.patches.asked import asked_digest
from bot.demo import rehearsal
from bot.edges import environment
from bot.edges.device import device
from bot.errors import GateFailed, InfrastructureError, InputError, ReleaseBotError, UsageError
from bot.house import bar, making, page
from bot.lab.record import LabEvidence
from bot.models import read_json, write_json
from bot.recipe import Recipe
from tests.bench.lab import on_embedded_hub

SCRIPT = rehearsal.FIXTURE.parent / "train_qwen35_tiny.py"
# Settings were chosen with the seeds that ship.
COMMON = {
    "calibration.seed": "20261",
    "evaluation.window_tokens": "256",
    "evaluation.stride_tokens": "256",
    "evaluation.divergence_tokens": "12288",
}
TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Scope:
    """How a recipe's evidence is made: `samples` of the counterpart's calibration, and what was tried before.

    `num_tried` variants were looked at; `tried` says where they stand.
    """

    samples: int
    num_tried: int
    tried: str


SCOPES = {
    "house-g32": Scope(samples=160, num_tried=23, tried="docs/house/tried.md"),
    "house-g128": Scope(samples=96, num_tried=10, tried="docs/house/tried.md"),
    "house-autoround-g128": Scope(samples=96, num_tried=15, tried="docs/house/tried.md"),
    "house-nvfp4": Scope(samples=128, num_tried=5, tried="docs/house/tried.md"),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A base to train: what `tests/fixtures/train_qwen35_tiny.py` is told."""

    hidden: int
    layers: int
    intermediate: int
    seed: int
    steps: int

    @property
    def name(self) -> str:
        return f"qwen3.5-tiny-{self.hidden}x{self.layers}-seed{self.seed}"


SHAPES = (
    Shape(hidden=128, layers=8, intermediate=384, seed=1, steps=240),
    Shape(hidden=384, layers=4, intermediate=1024, seed=2, steps=200),
    Shape(hidden=256, layers=4, intermediate=896, seed=3, steps=240),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A house recipe and its counterpart, as they ship, and how their evidence is made."""

    house: Recipe
    counterpart: Recipe
    scope: Scope


def main(argv: list[str]) -> int:
    """Run labs, unless told not to, and write what they show; the exit code."""
    given = _parser().parse_args(argv)
    home = config.load().home
    out = given.out or home / "house"
    try:
        pairs = _pairs(given)
        if not given.render:
            bases = [rehearsal.FIXTURE, *(given.base or _trained(home / "bases", train=given.train))]
            if code := _run_labs(pairs, bases, out, given):
                return code
        refused = [_write(each, out, given.note) for each in pairs]
        page.write()
    except ReleaseBotError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    print("The README's table follows by `make generated`.")
    return GateFailed.exit_code if any(refused) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.house")
    parser.add_argument("--recipe", action="append", metavar="NAME", help="this house recipe (default: all)")
    parser.add_argument("--base", action="append", type=Path, metavar="FOLDER", help="beside the fixture")
    parser.add_argument("--train", action="store_true", help="train the bases that are missing")
    parser.add_argument("--samples", type=int, help="of the counterpart's calibration")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="the longest of the counterpart's samples")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both, at last")
    parser.add_argument("--tried", nargs=2, metavar=("N", "WHERE"), help="variants tried, where they stand")
    parser.add_argument("--note", metavar="TEXT", help="printed with the gain (none: an empty one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the labs (default: house, below the home)")
    parser.add_argument("--render", action="store_true", help="run nothing")
    return parser


def _pairs(given: argparse.Namespace) -> list[Pair]:
    names = given.recipe or house.names()
    if len(names) != 1 and (given.tried is not None or given.note is not None):
        raise UsageError("--tried and --note are of one recipe", fix="name it: --recipe NAME")
    return [pair(name, samples=given.samples, tried=given.tried) for name in names]


def pair(name: str, *, samples: int | None = None, tried: Sequence[str] | None = None) -> Pair:
    """The house recipe called `name` with its counterpart; what is told goes before what stands in SCOPES.

    Raises RecipeError; UsageError for a faithful recipe, and where something is neither told nor there.
    """
    found = recipes.load(name)
    if found.counterpart is None:
        raise UsageError(f"{name} is no house recipe: it names no counterpart")
    scope = _scope(found.name, samples, tried)
    return Pair(house=found, counterpart=recipes.load(found.counterpart), scope=scope)


def _scope(name: str, samples: int | None, tried: Sequence[str] | None) -> Scope:
    found = SCOPES.get(name)
    if tried is not None and not tried[0].isdecimal():
        raise UsageError(f"{tried[0]} is no number of variants", fix="--tried 23 docs/house/tried.md")
    if found is None and (samples is None or tried is None):
        raise UsageError(
            f"how {name} is measured, and how many variants were tried, is not said",
            fix="a row in SCOPES of tests/bench/house.py, or --samples 96 --tried 23 docs/house/tried.md",
        )
    told = {} if samples is None else {"samples": samples}
    told |= {} if tried is None else {"num_tried": int(tried[0]), "tried": tried[1]}
    return replace(found, **told) if found else Scope(**told)


# ── bases ──────────────────────────────────────────────────────────────────────────────────


def _trained(folder: Path, *, train: bool) -> list[Path]:
    """The trained bases in `folder`. Raises UsageError where one is missing and none is to be trained."""
    missing = [each for each in SHAPES if not (folder / each.name / "config.json").is_file()]
    if missing and not train:
        raise UsageError(f"{missing[0].name} is not trained", where=str(folder), fix="--train, or --base")
    for each in missing:
        tools = environment.ensure(f"quantize-{device()}", folder.parent)
        done = subprocess.run(training(each, folder, tools.python), check=False)
        if done.returncode:
            raise InfrastructureError(f"training {each.name} ended with {done.returncode}")
    return [folder / each.name for each in SHAPES]


def training(shape: Shape, folder: Path, python: Path) -> list[str]:
    """The command that trains `shape` into `folder`; it goes on where it was broken off."""
    told = [word for key, value in asdict(shape).items() for word in (f"--{key}", str(value))]
    state = folder / f"state-{shape.name}"
    return [
        str(python),
        str(SCRIPT),
        *told,
        "--out",
        str(folder / shape.name),
        "--state",
        str(state),
        "--resume",
    ]


# ── labs ───────────────────────────────────────────────────────────────────────────────────


def _run_labs(pairs: Sequence[Pair], bases: Sequence[Path], out: Path, given: argparse.Namespace) -> int:
    """Every pair on every base; the first exit code that is not 0."""
    with on_embedded_hub(bases) as repos:
        for repo in repos:
            for each in pairs:
                argv = lab_arguments(each, repo, out, tokens=given.tokens)
                argv += [word for text in given.set for word in ("--set", text)]
                if code := cli.main(argv):
                    return code
    return 0


def labs(found: Recipe, out: Path) -> Path:
    """The folder below `out` in which the labs of this recipe lie, with its patches as they are now."""
    patches = asked_digest(found)
    return out / (f"{found.name}-patches-{patches[:12]}" if patches else found.name)


def lab_arguments(found: Pair, repo: str, out: Path, *, tokens: int = TOKENS) -> list[str]:
    """What `release-bot` is called with: the counterpart first, which makes it the reference."""
    folder = labs(found.house, out) / repo.partition("/")[2]
    argv = ["lab", repo, "--split", "report", "--out", str(folder)]
    for each in (found.counterpart, found.house):
        values = scaled(each, found.counterpart, samples=found.scope.samples, tokens=tokens)
        argv += ["--variant", f"{each.name}={each.name}", *(f"{k}={v}" for k, v in values.items())]
    return argv + [word for key, value in COMMON.items() for word in ("--set", f"{key}={value}")]


def scaled(recipe: Recipe, counterpart: Recipe, *, samples: int, tokens: int) -> dict[str, str]:
    """What to set so that `recipe` shrinks by the factors that leave its counterpart so much to see."""
    fewer = samples / counterpart.calibration.num_samples
    shorter = tokens / max(each.lengths.max_tokens for each in counterpart.calibration.sets)
    batch = getattr(recipe.method, "batch_size", 1)
    found = {}
    for index, each in enumerate(recipe.calibration.sets):
        at, lengths = f"calibration.sets.{index}", each.lengths
        longest = round(lengths.max_tokens * shorter)
        shortest = {"exact": longest, "spread": round(lengths.min_tokens * shorter)}
        found[f"{at}.num_samples"] = str(max(1, round(each.num_samples * fewer / batch)) * batch)
        found[f"{at}.lengths.max_tokens"] = str(longest)
        found[f"{at}.lengths.min_tokens"] = str(shortest.get(lengths.mode, min(lengths.min_tokens, longest)))
    if getattr(recipe.method, "torch_compile", False) and device() == "cpu":
        found["method.torch_compile"] = "false"  # compiling costs ten times what it saves there
        found["method.batch_size"] = str(max(1, batch // 2))  # half the time, for both alike
    return found


# ── evidence ───────────────────────────────────────────────────────────────────────────────


def _write(found: Pair, out: Path, note: str | None) -> bool:
    """Write the pair's evidence from its labs and say whether it passes; True when it does not."""
    name, folder = found.house.name, labs(found.house, out)
    there = [read_json(path, LabEvidence) for path in sorted(folder.glob("*/lab-report.json"))]
    if not there:
        raise InputError(f"there is no lab of {name}", where=str(folder), fix="run this without --render")
    evidence = making.of_labs(
        found.house,
        found.counterpart,
        there,
        num_tried=found.scope.num_tried,
        tried=found.scope.tried,
        note=_note(name, note),
    )
    write_json(house.path(name), evidence)
    pins = environment.pins("quantize-cpu")
    refusals = bar.refusals(found.house, found.counterpart, evidence, pins)
    print(f"{name}: " + ("passes" if not refusals else "does not pass:\n  " + "\n  ".join(refusals)))
    return bool(refusals)


def _note(name: str, given: str | None) -> str | None:
    """As told, or as the evidence of before has it."""
    before = house.read(name)
    kept = before.note if before else None
    return kept if given is None else given or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
