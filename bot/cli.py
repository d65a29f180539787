"""The command line: `release-bot COMMAND …`.

Arguments are declared here and in the `add_parsers` of `bot.commands_*`; what a command does stands in
`bot.commands` and in those. `main` is the only place that prints an error and exits.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bot import (
    __version__,
    commands,
    commands_fleet,
    commands_github,
    commands_lab,
    commands_switch,
    commands_watching,
    commands_workflow,
    log,
)
from bot.commands import Handler
from bot.errors import InfrastructureError, Interrupted, ReleaseBotError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    texts = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = "--json" in texts, "--debug" in texts
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # a cancelled job ends as ^C does: children first
    try:
        arguments = _parser().parse_args(texts)
        log.configure(quiet=getattr(arguments, "quiet", False))
        handler: Handler = arguments.handler
        return handler(arguments)
    except KeyboardInterrupt:
        error: ReleaseBotError = Interrupted(
            "stopped", fix="run the same command again; it goes on from what is done"
        )
    except ReleaseBotError as e:
        error = e
    except BrokenPipeError:
        return 0
    except OSError as e:
        error = _os_error(e)
    except Exception as e:
        error = ReleaseBotError(
            f"{type(e).__name__}: {e}",
            why="a defect of the bot",
            fix="run again with --debug and report what it prints",
        )
        error.__cause__ = e
    if debug:
        import traceback

        traceback.print_exception(error.__cause__ or error)
    log.error(error.title, str(error))
    if as_json:
        commands.print_json({"schema_version": 1, "error": error.as_json()})
    return error.exit_code


Command = Callable[[str, Handler, str], argparse.ArgumentParser]


class _Parser(argparse.ArgumentParser):
    """An argument parser whose mistakes are the bot's own errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"`{self.prog} --help` shows how it is used")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _os_error(error: OSError) -> ReleaseBotError:
    """A full disk or a missing right is the machine's, and may pass; the rest is a defect."""
    found = InfrastructureError(
        f"{error.strerror or error}",
        where=str(error.filename or ""),
        why="the file system refused",
        fix="free space or mend the rights there, then run the same command again",
    )
    found.__cause__ = error
    return found


# ── the commands' arguments ────────────────────────────────────────────────────────────────


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="release-bot",
        description="Quantized Qwen releases with their evidence: quantize, repair, audit, card, publish.",
        epilog="exit codes: 0 ok, 1 internal, 2 usage or recipe, 3 unreadable input, 4 infrastructure, "
        "5 audit failed, 6 gate failed, 7 refused or conflict, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"release-bot {__version__}")
    parser.add_argument("--debug", action="store_true", default=False, help="show the traceback of an error")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = _common()

    def command(name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        child = subcommands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common]
        )
        child.set_defaults(handler=handler)
        return child

    _releasing(command)
    _measuring(command)
    commands_lab.add_parsers(command)
    _checking(command)
    doctor = command(
        "doctor", commands.doctor, "say what this machine can quantize, serve and publish, and why not"
    )
    doctor.add_argument(
        "--for",
        dest="runner_class",
        metavar="CLASS",
        help="hold it to this class of runners/fleet.yaml; exit code 4 when it is not as promised",
    )
    commands_watching.add_parsers(command)
    commands_github.add_parsers(command, subcommands, common)
    commands_workflow.add_parsers(command)
    commands_switch.add_parsers(command)
    commands_fleet.add_parsers(subcommands, common)
    _recipes_parser(subcommands, common)
    _hub_parser(subcommands, common)
    return parser


def _releasing(command: Command) -> None:
    """`demo`, `run`, and one command for each stage."""
    demo = command(
        "demo",
        commands.demo,
        "rehearse the faithful recipes' releases on an embedded Hub: no GPU, network or account",
    )
    demo.add_argument("--recipe", action="append", metavar="NAME", help="this recipe instead (repeatable)")
    run = command("run", commands.run, "release one base by one recipe, stage by stage")
    run.add_argument("base", metavar="BASE[@REV]", help="a model on the Hub, as in Qwen/Qwen3.6-27B")
    run.add_argument("--recipe", required=True, metavar="NAME", help="see `release-bot recipes list`")
    run.add_argument(
        "--until", metavar="STAGE", help="stop after this stage (default: card; publish on an embedded Hub)"
    )
    run.add_argument("--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)")
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change a recipe value, as in calibration.sets.*.num_samples=16; makes it a rehearsal",
    )
    run.add_argument(
        "--on", metavar="hf-jobs:FLAVOR", help="on Hugging Face Jobs instead of this machine, up to the card"
    )
    for stage, text in _STAGE_HELP.items():
        child = command(stage, commands.one_stage_of(stage), text)
        child.add_argument("key", metavar="KEY", help="the release's key")
        child.add_argument(
            "--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)"
        )
        if stage == "upload":
            child.add_argument(
                "--restage",
                action="store_true",
                help="withdraw the open or refused pull request and open a new one",
            )
        if stage == "publish":
            child.add_argument(
                "--card",
                type=Path,
                metavar="DIR",
                help="the reviewed card's folder (default: the work folder's)",
            )
            child.add_argument(
                "--no-collection",
                action="store_true",
                help="leave the collection to `release-bot curate`, which has a token of its own",
            )
            child.add_argument(
                "--ended", type=Path, metavar="FILE", help="leave there how it ended, for `finish-publishing`"
            )


def _checking(command: Command) -> None:
    """`card`, `audit`, `repair`."""
    card = command(
        "card", commands.card, "render a release's card (`card KEY`), or check one (`card lint FILE`)"
    )
    card.add_argument("what", nargs="+", metavar="KEY | lint FILE")
    card.add_argument("--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)")
    audit = command(
        "audit",
        commands.audit,
        "prove a checkpoint from its bytes: a folder, or a Hub repo by range requests",
    )
    audit.add_argument("path", metavar="PATH_OR_REPO", help="a folder or org/name[@revision]")
    audit.add_argument("--base", metavar="SRC", help="the base: a folder or org/name[@revision]")
    audit.add_argument("--recipe", metavar="NAME", help="hold it to this recipe's thresholds and promises")
    audit.add_argument(
        "--headers", action="store_true", help="headers and configs only; checks of bytes are skipped"
    )
    repair = command(
        "repair",
        commands.repair,
        "make a quantizer's output what the recipe promises, touching only what changes",
    )
    repair.add_argument("path", type=Path, metavar="PATH", help="the checkpoint's folder")
    repair.add_argument("--base", metavar="SRC", help="the base: a folder or org/name[@revision]")
    repair.add_argument("--recipe", required=True, metavar="NAME")


def _measuring(command: Command) -> None:
    """`measure`, `compare`, `override`."""
    measure = command(
        "measure",
        commands.measure,
        "measure a release (`measure KEY`), or any checkpoint: acceptance, perplexity, divergence, speed",
    )
    measure.add_argument("what", metavar="KEY | PATH_OR_REPO", help="a folder or org/name[@revision]")
    measure.add_argument("--base", metavar="SRC", help="hold it to the gates beside this base")
    compare = command("compare", commands.compare, "measure two checkpoints side by side, A as the reference")
    compare.add_argument("one", metavar="A", help="a folder or org/name[@revision]")
    compare.add_argument("other", metavar="B", help="a folder or org/name[@revision]")
    for child in (measure, compare):
        child.add_argument("--recipe", metavar="NAME", help="serve and measure as this recipe says")
        child.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            dest="overrides",
            help="change a recipe value, as in evaluation.soak.context_tokens=4096",
        )
    measure.add_argument(
        "--work", type=Path, metavar="DIR", help="work folder of KEY (default: .release-bot/work)"
    )
    override = command("override", commands.override, "record that a release may go out in spite of gates")
    override.add_argument("key", metavar="KEY", help="the release's key")
    override.add_argument("--gate", action="append", required=True, metavar="ID", dest="gates")
    override.add_argument("--why", required=True, metavar="TEXT", help="stands on the card")
    override.add_argument("--who", metavar="NAME", help="who decides (default: the Hub account)")
    override.add_argument("--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)")


_STAGE_HELP = {
    "quantize": "run the quantizer of an existing release again, if its inputs changed",
    "upload": "bring an audited release to the Hub as a private pull request",
    "validate": "serve an uploaded release as its card prints it: it loads, answers and drafts",
    "gate": "judge what was measured, by the recipe's thresholds",
    "publish": "merge a reviewed release and make it public",
}


def _common() -> _Parser:
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    common.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return common


def _recipes_parser(subcommands: Any, common: argparse.ArgumentParser) -> None:
    recipes = subcommands.add_parser("recipes", help="list, show, check or pin recipes")
    kinds = recipes.add_subparsers(metavar="list|show|check|pin", required=True)
    for name, handler, text in (
        ("list", commands.recipes_list, "the recipes and what each makes"),
        ("show", commands.recipes_show, "one recipe, resolved, with its digest"),
        ("check", commands.recipes_check, "check recipes (all, or those named)"),
        (
            "pin",
            commands.recipes_pin,
            "write the current revisions of the data sets into recipes, from the Hub",
        ),
    ):
        child = kinds.add_parser(name, help=text, description=text, parents=[common])
        child.set_defaults(handler=handler)
        if name != "list":
            child.add_argument(
                "names", nargs=1 if name == "show" else "*", metavar="NAME", help="a recipe or a YAML file"
            )
        if name == "pin":
            child.add_argument(
                "--update", action="store_true", help="also move revisions that are pinned already"
            )


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; 0 to 65535, 0 picks a free one")
    return int(text)


def _hub_parser(subcommands: Any, common: argparse.ArgumentParser) -> None:
    hub = subcommands.add_parser("hub", help="the embedded Hub")
    kinds = hub.add_subparsers(metavar="serve", required=True)
    serve = kinds.add_parser("serve", help="serve a folder as a Hub on loopback", parents=[common])
    serve.set_defaults(handler=commands.hub_serve)
    serve.add_argument("directory", type=Path, metavar="DIR")
    serve.add_argument("--port", type=_port, default=8765, help="0 picks a free one")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument(
        "--allow-remote", action="store_true", help="listen beyond loopback: tokens are no secret"
    )
    serve.add_argument("--accounts", type=Path, metavar="FILE", help="users, tokens and organizations (YAML)")
    serve.add_argument(
        "--user",
        action="append",
        default=[],
        metavar="NAME:TOKEN",
        help="one more account beside the default",
    )
    serve.add_argument(
        "--org",
        action="append",
        default=[],
        metavar="NAME:USER[,USER…]",
        help="an organization and who writes to it",
    )
