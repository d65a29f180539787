"""The evidence of the house recipes, made again: `python -m tests.bench.house --train --tried N WHERE`.

For each house recipe and the recipe that it is held against, `release-bot lab --split report` on the
committed fixture and on three other tiny bases: on an embedded Hub below RELEASE_BOT_HOME, with stand-ins of
all texts. `--train` makes those bases by the fixture's own script (about half an hour each on two cores);
`--base FOLDER` takes others in their place. Then `docs/house/<recipe>.json` and `docs/house/README.md` are
written, and whether each recipe passes the bar is said; exit code 6 where one does not.

Labs lie in OUT/<recipe>/<base>, and a variant that was measured is not run again. `--render` runs nothing,
and writes what the labs there show. Both recipes of a pair are scaled down by the same factors (`--samples`
and `--tokens` are the counterpart's), and draw their samples by another seed than the one they ship with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bot import cli, config, house
from bot import recipe as recipes
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
    "evaluation.divergence_tokens": "32768",
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
    """A house recipe and its counterpart, as they ship."""

    house: Recipe
    counterpart: Recipe


def main(argv: list[str]) -> int:
    """Run labs, unless told not to, and write what they show; the exit code."""
    given = _parser().parse_args(argv)
    home = config.load().home
    out = given.out or home / "house"
    try:
        pairs = [pair(name) for name in given.recipe or house.names()]
        if not given.render:
            bases = [rehearsal.FIXTURE, *(given.base or _trained(home / "bases", train=given.train))]
            if code := _run_labs(pairs, bases, out, given):
                return code
        refused = [_write(each, out, given.tried) for each in pairs]
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
    parser.add_argument("--samples", type=int, default=48, help="of the counterpart's calibration")
    parser.add_argument("--tokens", type=int, default=256, help="the longest of the counterpart's samples")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both, at last")
    parser.add_argument("--tried", nargs=2, metavar=("N", "WHERE"), help="variants tried, where they stand")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the labs (default: house, below the home)")
    parser.add_argument("--render", action="store_true", help="run nothing")
    return parser


def pair(name: str) -> Pair:
    """The house recipe called `name` with its counterpart. Raises RecipeError, UsageError."""
    found = recipes.load(name)
    if found.counterpart is None:
        raise UsageError(f"{name} is no house recipe: it names no counterpart")
    return Pair(house=found, counterpart=recipes.load(found.counterpart))


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
                argv = lab_arguments(each, repo, out, samples=given.samples, tokens=given.tokens)
                argv += [word for text in given.set for word in ("--set", text)]
                if code := cli.main(argv):
                    return code
    return 0


def lab_arguments(found: Pair, repo: str, out: Path, *, samples: int, tokens: int) -> list[str]:
    """What `release-bot` is called with: the counterpart first, which makes it the reference."""
    argv = ["lab", repo, "--split", "report", "--out", str(out / found.house.name / repo.partition("/")[2])]
    for each in (found.counterpart, found.house):
        values = scaled(each, found.counterpart, samples=samples, tokens=tokens)
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
    return found


# ── evidence ───────────────────────────────────────────────────────────────────────────────


def _write(found: Pair, out: Path, tried: Sequence[str] | None) -> bool:
    """Write the pair's evidence from its labs and say whether it passes; True when it does not."""
    name = found.house.name
    labs = [read_json(path, LabEvidence) for path in sorted((out / name).glob("*/lab-report.json"))]
    if not labs:
        raise InputError(f"there is no lab of {name}", where=str(out / name), fix="run this without --render")
    num_tried, where = _tried(name, tried)
    evidence = making.of_labs(found.house, found.counterpart, labs, num_tried=num_tried, tried=where)
    write_json(house.path(name), evidence)
    refusals = bar.refusals(found.house, found.counterpart, evidence)
    print(f"{name}: " + ("passes" if not refusals else "does not pass:\n  " + "\n  ".join(refusals)))
    return bool(refusals)


def _tried(name: str, given: Sequence[str] | None) -> tuple[int, str]:
    """How many variants were tried, and where they stand: as told, or as the evidence of before has it."""
    if given is not None and given[0].isdecimal():
        return int(given[0]), given[1]
    before = house.read(name)
    if given is not None or before is None:
        raise UsageError("how many variants were tried is not said", fix="--tried 23 docs/house/tried.md")
    return before.num_tried, before.tried


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
