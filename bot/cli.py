"""The command line: `release-bot COMMAND …`.

Each command is one function that imports what it needs when it runs, so that `--help` stays
quick. `main` is the only place that prints an error and exits; `--json` puts exactly one object
on standard output, everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import __version__, log
from bot.errors import AuditFailed, Interrupted, ReleaseBotError, UsageError

if TYPE_CHECKING:
    from bot.config import Config
    from bot.edges.hub import Hub

Output = dict[str, Any]
Handler = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    log.configure(quiet=getattr(arguments, "quiet", False))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # a cancelled job ends as ^C does: children first
    try:
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
    if arguments.debug:
        import traceback

        traceback.print_exception(error.__cause__ or error)
    log.error(error.title, str(error))
    if getattr(arguments, "json", False):
        _print(
            {
                "error": {
                    "title": error.title,
                    "what": error.what,
                    "where": error.where,
                    "exit_code": error.exit_code,
                }
            }
        )
    return error.exit_code


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _os_error(error: OSError) -> ReleaseBotError:
    """A full disk or a missing right is the machine's, and may pass; the rest is a defect."""
    from bot.errors import InfrastructureError

    found = InfrastructureError(
        f"{error.strerror or error}",
        where=str(error.filename or ""),
        why="the file system refused",
        fix="free space or mend the rights there, then run the same command again",
    )
    found.__cause__ = error
    return found


def _print(content: Output) -> None:
    print(log.redact(json.dumps(content, indent=2, ensure_ascii=False)))


# ── the commands' arguments ────────────────────────────────────────────────────────────────


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="release-bot",
        description="Quantized Qwen releases with their evidence: quantize, repair, audit, card, publish.",
        epilog="exit codes: 0 ok, 1 internal, 2 usage or recipe, 3 unreadable input, 4 infrastructure, "
        "5 audit failed, 6 gate failed, 7 refused or conflict, 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"release-bot {__version__}")
    parser.add_argument("--debug", action="store_true", default=False, help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = _common()

    def command(name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        child = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common]
        )
        child.set_defaults(handler=handler)
        return child

    demo = command(
        "demo", _demo, "rehearse four releases end to end on an embedded Hub: no GPU, network or account"
    )
    demo.add_argument("--recipe", action="append", metavar="NAME", help="only this recipe (repeatable)")
    run = command("run", _run, "release one base by one recipe, stage by stage")
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
    for stage, text in _STAGE_HELP.items():
        child = command(stage, _stage_handler(stage), text)
        child.add_argument("key", metavar="KEY", help="the release's key")
        child.add_argument(
            "--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)"
        )
        if stage == "publish":
            child.add_argument(
                "--card",
                type=Path,
                metavar="DIR",
                help="the reviewed card's folder (default: the work folder's)",
            )
    card = command("card", _card, "render a release's card (`card KEY`), or check one (`card lint FILE`)")
    card.add_argument("what", nargs="+", metavar="KEY | lint FILE")
    card.add_argument("--work", type=Path, metavar="DIR", help="work folder (default: .release-bot/work)")
    audit = command(
        "audit", _audit, "prove a checkpoint from its bytes: a folder, or a Hub repo by range requests"
    )
    audit.add_argument("path", metavar="PATH_OR_REPO", help="a folder or org/name[@revision]")
    audit.add_argument("--base", metavar="SRC", help="the base: a folder or org/name[@revision]")
    audit.add_argument("--recipe", metavar="NAME", help="hold it to this recipe's thresholds and promises")
    audit.add_argument(
        "--headers", action="store_true", help="headers and configs only; checks of bytes are skipped"
    )
    repair = command(
        "repair", _repair, "make a quantizer's output what the recipe promises, touching only what changes"
    )
    repair.add_argument("path", type=Path, metavar="PATH", help="the checkpoint's folder")
    repair.add_argument("--base", metavar="SRC", help="the base: a folder or org/name[@revision]")
    repair.add_argument("--recipe", required=True, metavar="NAME")
    _recipes_parser(commands, common)
    _hub_parser(commands, common)
    return parser


_STAGE_HELP = {
    "quantize": "run the quantizer of an existing release again, if its inputs changed",
    "upload": "bring an audited release to the Hub as a private pull request",
    "publish": "merge a reviewed release and make it public",
}


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    common.add_argument("--quiet", action="store_true", help="no progress, only warnings and errors")
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return common


def _recipes_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    recipes = commands.add_parser("recipes", help="list, show, check or pin recipes")
    kinds = recipes.add_subparsers(metavar="list|show|check|pin", required=True)
    for name, handler, text in (
        ("list", _recipes_list, "the recipes and what each makes"),
        ("show", _recipes_show, "one recipe, resolved, with its digest"),
        ("check", _recipes_check, "check recipes (all, or those named)"),
        ("pin", _recipes_pin, "write the current revisions of the data sets into recipes, from the Hub"),
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


def _hub_parser(commands: Any, common: argparse.ArgumentParser) -> None:
    hub = commands.add_parser("hub", help="the embedded Hub")
    kinds = hub.add_subparsers(metavar="serve", required=True)
    serve = kinds.add_parser("serve", help="serve a folder as a Hub on loopback", parents=[common])
    serve.set_defaults(handler=_hub_serve)
    serve.add_argument("directory", type=Path, metavar="DIR")
    serve.add_argument("--port", type=int, default=8765, help="0 picks a free one")
    serve.add_argument("--host", default="127.0.0.1")
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


# ── the commands ───────────────────────────────────────────────────────────────────────────


def _connect(config: Config) -> Hub:
    from bot.edges import hub

    embedded = hub.prepare_environment(config.home)
    return hub.Hub(embedded=embedded)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if bad := [key for key, equals, _ in pairs if not equals or not key]:
        raise UsageError(f"--set {bad[0]!r} is not KEY=VALUE", fix="for example --set method.mse=2.4")
    return {key: value for key, _, value in pairs}


def _demo(arguments: argparse.Namespace) -> int:
    from bot import config
    from bot.demo import rehearsal

    found = rehearsal.run(config.load(), arguments.recipe)
    if arguments.json:
        _print(found)
    else:
        print(rehearsal.farewell(found))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from bot import config, pipeline

    settings = config.load()
    overrides = _pairs(arguments.overrides)
    pipeline.check_stage(arguments.until)
    recipe = pipeline.load_recipe(arguments.recipe, overrides)
    hub = _connect(settings)
    job = pipeline.prepare(arguments.base, recipe, overrides, hub, settings, arguments.work or settings.work)
    return _finish(pipeline.run(job, until=arguments.until), arguments)


def _stage_handler(stage: str) -> Handler:
    def handler(arguments: argparse.Namespace) -> int:
        return _one_stage(arguments, stage, arguments.key)

    return handler


def _one_stage(arguments: argparse.Namespace, stage: str, key: str) -> int:
    from bot import config, naming, pipeline

    settings = config.load()
    naming.parse_key(key)
    hub = _connect(settings)
    job = pipeline.reopen(
        key, hub, settings, arguments.work or settings.work, card=getattr(arguments, "card", None)
    )
    return _finish(pipeline.run(job, only=stage), arguments)


def _finish(summary: Output, arguments: argparse.Namespace) -> int:
    if arguments.json:
        _print(summary)
    else:
        for name, value in summary["addresses"].items():
            log.info(f"  {name}: {value}")
        log.info(
            f"release {summary['key']}: "
            + ", ".join(f"{s} {state}" for s, state in summary["stages"].items())
        )
    return 0


def _card(arguments: argparse.Namespace) -> int:
    if arguments.what[0] != "lint":
        if len(arguments.what) != 1:
            raise UsageError("`card` takes one key, or `lint FILE`", fix="release-bot card KEY")
        return _one_stage(arguments, "card", arguments.what[0])
    if len(arguments.what) != 2:
        raise UsageError("`card lint` takes one file", fix="release-bot card lint model_cards/NAME/README.md")
    from bot import cardlint

    problems = cardlint.lint_file(Path(arguments.what[1]))
    if arguments.json:
        _print({"schema_version": 1, "passed": not problems, "problems": problems})
    if problems:
        from bot.errors import GateFailed

        raise (
            GateFailed(
                f"the card does not hold ({len(problems)}):\n"
                + "\n".join(f"  - {each}" for each in problems),
                where=arguments.what[1],
                fix="render it again with `release-bot card KEY`; figures change only with their evidence",
            )
            if not arguments.json
            else SystemExit(GateFailed.exit_code)
        )
    log.info("the card holds: metadata complete, no placeholder, every number in its evidence")
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from bot import config
    from bot.edges import hub

    recipe = _optional_recipe(arguments.recipe)
    hub.prepare_environment(config.load().home)
    from bot.checkpoint.source import open_source
    from bot.stages.audit import audit

    base = open_source(arguments.base) if arguments.base else None
    report = audit(open_source(arguments.path), base=base, recipe=recipe, headers_only=arguments.headers)
    if arguments.json:
        _print(report.model_dump(mode="json"))
    else:
        print(log.table(["check", "status", "detail"], [(c.id, c.status, c.detail) for c in report.checks]))
    if not report.passed:
        failed = [c.id for c in report.checks if c.status == "failed"]
        skipped = [c.id for c in report.checks if c.status == "skipped"]
        if not arguments.json:
            raise AuditFailed(
                f"failed: {', '.join(failed) or 'none'}; skipped: {', '.join(skipped) or 'none'}",
                where=arguments.path,
                fix="`release-bot repair` mends what can be mended"
                if failed
                else "name --base: a skipped check proves nothing",
            )
        return AuditFailed.exit_code
    return 0


def _optional_recipe(name: str | None) -> Any:
    from bot import recipe

    return recipe.load(name) if name else None


def _repair(arguments: argparse.Namespace) -> int:
    from bot import config
    from bot.edges import hub

    recipe = _optional_recipe(arguments.recipe)
    hub.prepare_environment(config.load().home)
    from bot.checkpoint.source import open_source
    from bot.stages.repair import repair

    base = open_source(arguments.base) if arguments.base else None
    report = repair(arguments.path, base=base, recipe=recipe)
    if arguments.json:
        _print(report.model_dump(mode="json"))
        return 0
    for action in report.actions:
        log.info(f"  {action.kind}: {action.detail} ({', '.join((action.tensors or action.files)[:4])})")
    for left in report.unrepaired:
        log.warning(
            f"not repaired: {left.kind}: {left.detail} ({', '.join(left.tensors[:4] or left.files[:4])})"
        )
    log.info("repaired" if report.changed else "nothing to repair")
    return 0


def _recipes_list(arguments: argparse.Namespace) -> int:
    from bot import recipe

    found = [recipe.load(name) for name in recipe.names()]
    if arguments.json:
        _print({"schema_version": 1, "recipes": [_recipe_row(each) for each in found]})
        return 0
    rows = [
        (r.name, r.card.headline, str(r.calibration.num_samples), ", ".join(r.unpinned()) or "pinned")
        for r in found
    ]
    print(log.table(["recipe", "what", "samples", "data sets"], rows))
    return 0


def _recipe_row(recipe: Any) -> Output:
    return {
        "name": recipe.name,
        "headline": recipe.card.headline,
        "backend": recipe.method.backend,
        "packing": recipe.method.packing,
        "bits": recipe.method.bits,
        "group_size": recipe.method.group_size,
        "num_samples": recipe.calibration.num_samples,
        "datasets": recipe.datasets(),
        "unpinned": recipe.unpinned(),
        "digest": recipe.digest(),
    }


def _recipes_show(arguments: argparse.Namespace) -> int:
    from bot import recipe

    found = recipe.load(arguments.names[0])
    if arguments.json:
        _print({"schema_version": 1, **_recipe_row(found), "recipe": found.model_dump(mode="json")})
        return 0
    import yaml

    print(f"# digest {found.digest()}")
    print(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    return 0


def _recipes_check(arguments: argparse.Namespace) -> int:
    from bot import recipe
    from bot.errors import RecipeError

    checked, problems = [], []
    for name in arguments.names or recipe.names():
        try:
            checked.append(recipe.load(name))
        except RecipeError as e:
            problems.append(e)
    if arguments.json:
        _print(
            {
                "schema_version": 1,
                "passed": not problems,
                "recipes": [{"name": r.name, "unpinned": r.unpinned()} for r in checked],
                "problems": [str(e) for e in problems],
            }
        )
        return RecipeError.exit_code if problems else 0
    for each in checked:
        note = (
            f" (unpinned: {', '.join(each.unpinned())}; can be rehearsed, not released)"
            if each.unpinned()
            else ""
        )
        print(f"{each.name}: holds{note}")
    if problems:
        raise RecipeError("\n".join(str(e) for e in problems))
    return 0


def _recipes_pin(arguments: argparse.Namespace) -> int:
    from bot import config, recipe, recipe_pins

    for name in arguments.names:
        recipe.load(name)
    hub = _connect(config.load())
    written = recipe_pins.pin(arguments.names or recipe.names(), hub, update=arguments.update)
    if arguments.json:
        _print({"schema_version": 1, "pinned": written})
        return 0
    for name, revisions in written.items():
        for dataset, revision in revisions.items():
            print(f"{name}: {dataset} at {revision}")
    if not any(written.values()):
        print("every data set is pinned already; --update moves them to the current revisions")
    return 0


def _hub_serve(arguments: argparse.Namespace) -> int:
    import tempfile

    from bot import localhub
    from bot.errors import InfrastructureError
    from bot.localhub.__main__ import banner

    def ready(url: str) -> None:
        if arguments.json:
            _print({"url": url} | ({} if arguments.accounts else {"token": localhub.DEFAULT_TOKEN}))
        else:
            print(banner(url, own_accounts=arguments.accounts is not None))
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as folder:
        accounts = _accounts_file(arguments, Path(folder))
        try:
            localhub.serve(
                arguments.directory, host=arguments.host, port=arguments.port, accounts=accounts, ready=ready
            )
        except ValueError as e:
            raise UsageError(str(e), fix="see `release-bot hub serve --help`") from e
        except OSError as e:
            raise InfrastructureError(
                f"the embedded Hub cannot serve: {e.strerror or e}",
                where=f"{arguments.directory} on {arguments.host}:{arguments.port}",
                fix="stop what uses it, or name another port with --port (0 picks a free one)",
            ) from e
    return 0


def _accounts_file(arguments: argparse.Namespace, folder: Path) -> Path | None:
    """The accounts file that was named, or one made of the default accounts and the flags."""
    users = [text.partition(":") for text in arguments.user]
    orgs = [text.partition(":") for text in arguments.org]
    if not users and not orgs:
        return Path(arguments.accounts) if arguments.accounts else None
    if arguments.accounts:
        raise UsageError(
            "--accounts holds all accounts", fix="put users and organizations there, or name no file"
        )
    if any(not name or not value for name, _, value in [*users, *orgs]):
        raise UsageError(
            "--user is NAME:TOKEN and --org is NAME:USER,USER", fix="as in --user alice:hf_alice"
        )
    from bot.localhub.accounts import Org, Token, User, default_accounts

    known = default_accounts()
    members = {name: Org(members=dict.fromkeys(value.split(","), "admin")) for name, _, value in orgs}
    accounts = known.model_copy(
        update={
            "users": {**known.users, **{name: User() for name, _, _ in users}},
            "orgs": {**known.orgs, **members},
            "tokens": (*known.tokens, *(Token(token=value, user=name) for name, _, value in users)),
        }
    )
    path = folder / "accounts.json"
    path.write_text(accounts.model_dump_json(), encoding="utf-8")
    return path
