"""What each command does: one function a command, which imports what it needs when it runs.

A function returns the exit code, or raises one of the bot's errors. `--json` prints exactly one
object on standard output; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import log
from bot.errors import AuditFailed, GateFailed, UsageError

if TYPE_CHECKING:
    from bot import byhand
    from bot.config import Config
    from bot.edges.hub import Hub

Output = dict[str, Any]
Handler = Callable[[argparse.Namespace], int]


def print_json(content: Output) -> None:
    """One object on standard output, secrets masked."""
    print(log.redact(json.dumps(content, indent=2, ensure_ascii=False)))


def _connect(config: Config) -> Hub:
    from bot.commands_watching import connect

    return connect(config)


def _pairs(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if bad := [key for key, equals, _ in pairs if not equals or not key]:
        raise UsageError(f"--set {bad[0]!r} is not KEY=VALUE", fix="for example --set method.mse=2.4")
    return {key: value for key, _, value in pairs}


def demo(arguments: argparse.Namespace) -> int:
    from bot import config
    from bot.demo import rehearsal

    found = rehearsal.run(config.load(), arguments.recipe)
    if arguments.json:
        print_json(found)
    else:
        print(rehearsal.farewell(found))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """`release-bot run`."""
    from bot import config, job, pipeline

    settings = config.load()
    overrides = _pairs(arguments.overrides)
    pipeline.check_stage(arguments.until)
    recipe = job.load_recipe(arguments.recipe, overrides)
    hub = _connect(settings)
    made = job.prepare(arguments.base, recipe, overrides, hub, settings, arguments.work or settings.work)
    if arguments.on:
        from bot.commands_fleet import run_on

        return run_on(arguments.on, made, until=arguments.until, overrides=overrides, as_json=arguments.json)
    return _finish(pipeline.run(made, until=arguments.until), arguments)


def one_stage_of(stage: str) -> Handler:
    """The command that runs one stage of an existing release."""

    def handler(arguments: argparse.Namespace) -> int:
        return _one_stage(arguments, stage, arguments.key)

    return handler


def _one_stage(arguments: argparse.Namespace, stage: str, key: str) -> int:
    from bot import config, job, naming, outcome, pipeline
    from bot.commands_watching import switch_state
    from bot.state import refuse_paused

    settings = config.load()
    naming.parse_key(key)
    with outcome.left(getattr(arguments, "ended", None), stage):
        if stage == "publish":
            refuse_paused(switch_state(settings))
        found = job.reopen(
            key,
            _connect(settings),
            settings,
            arguments.work or settings.work,
            card=getattr(arguments, "card", None),
            restage=getattr(arguments, "restage", False),
            collects=not getattr(arguments, "no_collection", False),
        )
        evidence = pipeline.run_one(found, stage)
    if arguments.json:
        print_json(evidence)
    return GateFailed.exit_code if pipeline.is_refused(stage, evidence) else 0


def _finish(summary: Output, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json(summary)
    else:
        for name, value in summary["addresses"].items():
            log.info(f"  {name}: {value}")
        log.info(
            f"release {summary['key']}: "
            + ", ".join(f"{s} {state}" for s, state in summary["stages"].items())
        )
    gates = summary["gates"]
    return GateFailed.exit_code if gates and not gates["passed"] else 0


def card(arguments: argparse.Namespace) -> int:
    if arguments.what[0] != "lint":
        if len(arguments.what) != 1:
            raise UsageError("`card` takes one key, or `lint FILE`", fix="release-bot card KEY")
        return _one_stage(arguments, "card", arguments.what[0])
    if len(arguments.what) != 2:
        raise UsageError("`card lint` takes one file", fix="release-bot card lint model_cards/NAME/README.md")
    from bot import cardlint

    problems = cardlint.lint_file(Path(arguments.what[1]))
    if arguments.json:
        print_json({"schema_version": 1, "passed": not problems, "problems": problems})
        return GateFailed.exit_code if problems else 0
    cardlint.refuse(problems, arguments.what[1])
    log.info("the card holds: metadata complete, no placeholder, every number in its evidence")
    return 0


def measure(arguments: argparse.Namespace) -> int:
    """`release-bot measure`: a release's stage, or any checkpoint."""
    from bot import byhand, config, naming

    if naming.is_key(arguments.what):
        if arguments.base or arguments.recipe or arguments.overrides:
            raise UsageError(
                f"{arguments.what} is a release, which has its own base and recipe",
                fix="leave out --base, --recipe and --set, or name a folder or repo",
            )
        return _one_stage(arguments, "measure", arguments.what)
    settings, overrides = config.load(), _pairs(arguments.overrides)
    asked = byhand.ask(arguments.what, arguments.recipe, overrides, _connect(settings), settings)
    return _told(byhand.measure(asked, arguments.what, arguments.base), arguments)


def compare(arguments: argparse.Namespace) -> int:
    """`release-bot compare`."""
    from bot import byhand, config

    settings, overrides = config.load(), _pairs(arguments.overrides)
    asked = byhand.ask(arguments.other, arguments.recipe, overrides, _connect(settings), settings)
    return _told(byhand.compare(asked, arguments.one, arguments.other), arguments)


def _told(found: byhand.Found, arguments: argparse.Namespace) -> int:
    if arguments.json:
        print_json(found.as_json())
    else:
        print(found.as_text())
    return GateFailed.exit_code if found.refused else 0


def override(arguments: argparse.Namespace) -> int:
    """`release-bot override`."""
    from bot import config, job, naming
    from bot.steps import evaluating

    settings = config.load()
    hub = _connect(settings)
    found = job.reopen(naming.parse_key(arguments.key), hub, settings, arguments.work or settings.work)
    who = arguments.who or hub.account()
    gates = evaluating.decide(found, gate_ids=arguments.gates, who=who, why=arguments.why)
    if arguments.json:
        print_json(gates.model_dump(mode="json"))
    else:
        log.info(f"recorded; render the card again: `release-bot card {arguments.key}`")
    return 0


def audit(arguments: argparse.Namespace) -> int:
    from bot import config
    from bot.edges import hub

    recipe = _optional_recipe(arguments.recipe)
    hub.prepare_environment(config.load().home)
    from bot.checkpoint.source import open_source
    from bot.stages.audit import audit

    base = open_source(arguments.base) if arguments.base else None
    report = audit(open_source(arguments.path), base=base, recipe=recipe, headers_only=arguments.headers)
    if arguments.json:
        print_json(report.model_dump(mode="json"))
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


def repair(arguments: argparse.Namespace) -> int:
    from bot import config
    from bot.edges import hub

    recipe = _optional_recipe(arguments.recipe)
    hub.prepare_environment(config.load().home)
    from bot.checkpoint.source import open_source
    from bot.stages.repair import repair

    base = open_source(arguments.base) if arguments.base else None
    report = repair(arguments.path, base=base, recipe=recipe)
    if arguments.json:
        print_json(report.model_dump(mode="json"))
        return 0
    for action in report.actions:
        log.info(f"  {action.kind}: {action.detail} ({', '.join((action.tensors or action.files)[:4])})")
    for left in report.unrepaired:
        log.warning(
            f"not repaired: {left.kind}: {left.detail} ({', '.join(left.tensors[:4] or left.files[:4])})"
        )
    log.info("repaired" if report.changed else "nothing to repair")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`release-bot doctor`: exit 0 whenever it could look; `usable` says whether anything can be done.

    With `--for CLASS` the machine is held to that class of the fleet: exit 4 when it is not as promised.
    """
    from bot import config, doctor, fitness, fleet, recipe
    from bot.edges import checkup

    runner = fleet.named(arguments.runner_class) if arguments.runner_class else None
    facts = checkup.collect(config.load())
    report = doctor.examine(facts, [recipe.load(name) for name in recipe.names()])
    held = fitness.hold(report, facts, runner) if runner else []
    report = report.model_copy(update={"findings": [*report.findings, *held]})
    if arguments.json:
        found = report.model_dump(mode="json")
        if not any(each.status == "missing" for each in held):
            print_json(found)
    else:
        title = f"{runner.name}: what this machine is" if runner else "This machine"
        print(log.table(["", "what", "why, and what to do"], doctor.finding_rows(report), title=title))
        columns = ["recipe", "quantize", "serve", "speed", "largest base", "why"]
        print("\n" + log.table(columns, doctor.recipe_rows(report)))
    if runner:
        fitness.require(held, runner)
    return 0


def recipes_list(arguments: argparse.Namespace) -> int:
    from bot import recipe

    found = [recipe.load(name) for name in recipe.names()]
    if arguments.json:
        print_json({"schema_version": 1, "recipes": [_recipe_row(each) for each in found]})
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
        "counterpart": recipe.counterpart,
        "backend": recipe.method.backend,
        "packing": recipe.method.packing,
        "bits": recipe.method.bits,
        "group_size": recipe.method.group_size,
        "num_samples": recipe.calibration.num_samples,
        "datasets": recipe.datasets(),
        "unpinned": recipe.unpinned(),
        "digest": recipe.digest(),
    }


def recipes_show(arguments: argparse.Namespace) -> int:
    from bot import recipe

    found = recipe.load(arguments.names[0])
    if arguments.json:
        print_json({"schema_version": 1, **_recipe_row(found), "recipe": found.model_dump(mode="json")})
        return 0
    import yaml

    print(f"# digest {found.digest()}")
    print(yaml.safe_dump(found.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    return 0


def recipes_check(arguments: argparse.Namespace) -> int:
    from bot import recipe
    from bot.errors import RecipeError

    checked, problems = [], []
    for name in arguments.names or recipe.names():
        try:
            checked.append(recipe.load(name))
        except RecipeError as e:
            problems.append(e)
    if arguments.json:
        print_json(
            {
                "schema_version": 1,
                "passed": not problems,
                "recipes": [{"name": r.name, "unpinned": r.unpinned()} for r in checked],
                "problems": [each for e in problems for each in e.problems or [e.as_json()]],
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


def recipes_pin(arguments: argparse.Namespace) -> int:
    from bot import config, recipe, recipe_pins

    for name in arguments.names:
        recipe.load(name)
    hub = _connect(config.load())
    written = recipe_pins.pin(arguments.names or recipe.names(), hub, update=arguments.update)
    if arguments.json:
        print_json({"schema_version": 1, "pinned": written})
        return 0
    for name, revisions in written.items():
        for dataset, revision in revisions.items():
            print(f"{name}: {dataset} at {revision}")
    if not any(written.values()):
        print("every data set is pinned already; --update moves them to the current revisions")
    return 0


def hub_serve(arguments: argparse.Namespace) -> int:
    import tempfile

    from bot import localhub
    from bot.errors import InfrastructureError
    from bot.localhub.__main__ import banner

    def ready(url: str) -> None:
        if arguments.json:
            print_json({"url": url} | ({} if arguments.accounts else {"token": localhub.DEFAULT_TOKEN}))
        else:
            print(banner(url, own_accounts=arguments.accounts is not None))
        sys.stdout.flush()

    if arguments.directory.exists() and not arguments.directory.is_dir():
        raise UsageError(
            f"{arguments.directory} is a file", fix="name a folder; it is made when it is missing"
        )
    with tempfile.TemporaryDirectory() as folder:
        accounts = _accounts_file(arguments, Path(folder))
        try:
            localhub.serve(
                arguments.directory,
                host=arguments.host,
                port=arguments.port,
                accounts=accounts,
                ready=ready,
                allow_remote=arguments.allow_remote,
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
