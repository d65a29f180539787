"""`release-bot lab`: variants of a base beside each other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot.cli import Command


def add_parsers(command: Command) -> None:
    """`lab`."""
    lab = command(
        "lab", lab_command, "quantize a base by several recipes or variations of one, and compare them"
    )
    lab.usage = (
        "release-bot lab BASE[@REV] --recipe NAME | --variant LABEL=RECIPE KEY=VALUE … (repeatable)\n"
        "                   [--set KEY=VALUE] [--split choose|report] [--out DIR] [--json] [--quiet]"
    )
    lab.add_argument("base", metavar="BASE[@REV]", help="a model on the Hub, as in Qwen/Qwen3.6-27B")
    lab.add_argument(
        "--recipe",
        action="append",
        nargs=1,
        dest="variants",
        metavar="NAME",
        help="a recipe as it stands (repeatable); the first variant is the reference",
    )
    lab.add_argument(
        "--variant",
        action="append",
        nargs="+",
        dest="variants",
        metavar=("LABEL=RECIPE", "KEY=VALUE"),
        help="a recipe with values of its own, as in mse=gptq-w4a16-g128 method.mse=2.4 (repeatable)",
    )
    lab.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a value of every variant, as in evaluation.window_tokens=256",
    )
    lab.add_argument(
        "--split",
        choices=("choose", "report"),
        default="choose",
        help="which texts: those to choose by (default), or the others, to report on",
    )
    lab.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="evidence, table, plot, records (default: .release-bot/lab/BASE)",
    )


def lab_command(arguments: argparse.Namespace) -> int:
    """Compare; 0 also where a variant failed, which the table says."""
    from bot import config, naming
    from bot.commands import _connect, _pairs, print_json
    from bot.lab import run, tables, variants

    settings = config.load()
    asked = variants.parse(arguments.variants or [], _pairs(arguments.overrides))
    repo_id, _ = naming.parse_base(arguments.base)
    out = arguments.out or settings.home / "lab" / repo_id.replace("/", "--")
    found = run.run(
        arguments.base, asked, split=arguments.split, hub=_connect(settings), config=settings, out=out
    )
    if arguments.json:
        print_json(found.model_dump(mode="json"))
    else:
        print(tables.text(found))
    return 0
