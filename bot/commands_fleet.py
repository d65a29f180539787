"""The commands about where work runs: `fleet`, `environments`, `cache`, `webhook`, and `run --on`.

As in `bot.commands`: a function a command, which imports what it needs when it runs. `add_parsers` declares
them all, and is called where the command line is put together.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import log
from bot.commands import Handler, print_json
from bot.errors import UsageError

if TYPE_CHECKING:
    from bot.job import Job

COLUMNS = ("class", "labels", "GPU", "compute", "GPU GiB", "GiB", "disk GiB", "count", "USD/h", "max h")


def fleet_check(arguments: argparse.Namespace) -> int:
    """`release-bot fleet check`."""
    from bot import fleet

    found = fleet.load(arguments.file or fleet.FLEET_FILE)
    num = sum(each.count for each in found.classes)
    if arguments.json:
        counts = {"num_classes": len(found.classes), "num_runners": num}
        print_json({"schema_version": 1, "passed": True, **counts})
    else:
        log.info(f"the fleet holds: {len(found.classes)} classes, {num} runners")
    return 0


def fleet_show(arguments: argparse.Namespace) -> int:
    """`release-bot fleet show [NAME [--env]]`."""
    from bot import fleet

    file = arguments.file or fleet.FLEET_FILE
    classes = (fleet.named(arguments.name, file),) if arguments.name else fleet.load(file).classes
    if arguments.env:
        if len(classes) != 1 or not arguments.name:
            raise UsageError("--env is for one class", fix="release-bot fleet show NAME --env")
        print(fleet.host_settings(classes[0]), end="")
    elif arguments.json:
        print_json({"schema_version": 1, "classes": [each.model_dump(mode="json") for each in classes]})
    else:
        print(log.table(COLUMNS, [_row(each) for each in classes], title="Fleet"))
    return 0


def _row(each: Any) -> tuple[str, ...]:
    return (
        each.name,
        ", ".join(each.labels),
        each.gpu,
        each.compute_capability,
        *(f"{n:g}" for n in (each.gpu_memory_gib, each.memory_gib, each.disk_gib)),
        str(each.count),
        f"{each.cost_per_hour_usd:.2f}",
        f"{each.max_hours:g}",
    )


def environments_build(arguments: argparse.Namespace) -> int:
    """`release-bot environments build [NAME …]`: below the bot's home, now rather than when first needed."""
    from bot import config
    from bot.edges import environment
    from bot.edges.device import device

    settings, kind = config.load(), device()
    names = arguments.names or [f"quantize-{kind}", f"vllm-{kind}"]
    built = [environment.ensure(each, settings.home) for each in names]
    removed = environment.prune(settings.home) if arguments.prune else []
    if arguments.json:
        found = [{"name": e.name, "digest": e.digest, "folder": str(e.python.parents[1])} for e in built]
        print_json({"schema_version": 1, "environments": found, "removed": removed})
    for each in built:
        log.info(f"  {each.name} is ready: {each.python.parents[1]}")
    for name in removed:
        log.info(f"  removed {name}: no requirement file asks for it any more")
    return 0


def cache_prune(arguments: argparse.Namespace) -> int:
    """`release-bot cache prune`: the host's caches under their cap, what is in use left alone."""
    from bot import cache, config
    from bot.edges import hub, hubcache

    settings = config.load()
    hub.prepare_environment(settings.home)  # decides where the Hub client's cache is
    from huggingface_hub import constants

    found = hubcache.prune(
        cache.Cache(cache.location(settings.home)),
        Path(constants.HF_HUB_CACHE),
        measured=settings.home / "measured",
        most_bytes=cache.max_bytes(arguments.max_gib),
        dry_run=arguments.dry_run,
    )
    if arguments.json:
        print_json(found.model_dump(mode="json"))
        return 0
    verb = "would remove" if arguments.dry_run else "removed"
    for each in found.removed:
        log.info(f"  {verb} {each.what}: {_gib(each.size_bytes)}")
    sizes = (found.before_bytes, found.after_bytes, found.max_bytes)
    log.info("{} before, {} after, cap {}".format(*map(_gib, sizes)))
    if found.over_bytes:
        log.warning(f"{_gib(found.over_bytes)} above the cap are in use and stay")
    return 0


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def webhook_serve(arguments: argparse.Namespace) -> int:
    """`release-bot webhook serve`: until it is stopped."""
    from bot import config
    from bot.edges import webhook_server

    found = webhook_server.settings(arguments.author or config.load().watch.authors)

    def ready(url: str) -> None:
        if arguments.json:
            print_json({"schema_version": 1, "url": url, "repository": found.repository})
            sys.stdout.flush()  # it goes on: who reads a pipe must not wait for the end
        authors = ", ".join(sorted(found.authors))
        log.info(f"relay at {url}: POST /hub → {found.repository}, authors {authors}")

    webhook_server.serve(found, host=arguments.host, port=arguments.port, ready=ready)
    return 0


def run_on(where: str, job: Job, *, until: str | None, overrides: dict[str, str], as_json: bool) -> int:
    """`release-bot run … --on hf-jobs:FLAVOR`, once the base is resolved. Raises how the job ended."""
    from bot.edges import hf_jobs

    found = hf_jobs.run(job, flavor=hf_jobs.parse_target(where), until=until, overrides=overrides)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        log.info(f"release {found.key}: {len(found.brought_back)} files of it are in {found.work}")
    return 0


# ── the command line ───────────────────────────────────────────────────────────────────────


def add_parsers(subcommands: Any, common: argparse.ArgumentParser) -> None:
    """Declare `fleet`, `environments`, `cache` and `webhook` on the command line's subparsers."""

    def group(name: str, text: str, metavar: str) -> Any:
        return subcommands.add_parser(name, help=text).add_subparsers(metavar=metavar, required=True)

    def command(kinds: Any, name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        child: argparse.ArgumentParser = kinds.add_parser(name, help=text, description=text, parents=[common])
        child.set_defaults(handler=handler)
        return child

    fleet = group("fleet", "the machines that jobs run on", "check|show")
    check = command(fleet, "check", fleet_check, "say whether the fleet's file holds")
    show = command(fleet, "show", fleet_show, "the classes of runners")
    show.add_argument("name", nargs="?", metavar="NAME", help="only this class")
    show.add_argument("--env", action="store_true", help="as the settings that runners/setup.sh reads")
    for child in (check, show):
        child.add_argument("--file", type=Path, metavar="FILE", help="default: runners/fleet.yaml")
    environments = group("environments", "the quantizers' and the engine's packages", "build")
    build = command(
        environments, "build", environments_build, "build this machine's environments before they are needed"
    )
    build.add_argument(
        "names", nargs="*", metavar="NAME", help="as in vllm-cuda (default: this device's two)"
    )
    build.add_argument(
        "--prune", action="store_true", help="remove those of requirement files as they were before"
    )
    cache = group("cache", "what this host keeps between jobs", "prune")
    prune = command(cache, "prune", cache_prune, "shrink the host's caches to their cap, oldest use first")
    prune.add_argument(
        "--max-gib", type=float, metavar="N", help="the cap (default: RELEASE_BOT_CACHE_MAX_GIB, or 400)"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    webhook = group("webhook", "the relay from the Hub's webhooks to GitHub", "serve")
    serve = command(webhook, "serve", webhook_serve, "take Hub webhooks and start the watch workflow")
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container")
    serve.add_argument("--port", type=_port, default=7860, help="0 picks a free one")
    serve.add_argument(
        "--author", action="append", metavar="NAME", help="whose models count (default: those watched)"
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; 0 to 65535, 0 picks a free one")
    return int(text)
