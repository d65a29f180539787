"""A whole tick over 500 watched models at which nothing changed: requests to the Hub, and our own time.

Watch, survey of our own 2,000 published repos, plan. Against the embedded Hub, whose time to answer is taken
out: only this process' own CPU seconds count. Requests are counted as the client makes them.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import huggingface_hub.utils

from bot import fleet, localhub, log, naming, plan, survey
from bot import ledger as ledgers
from bot.config import Watch
from bot.edges.hub import Hub
from bot.edges.state_folder import FolderState
from bot.localhub.changes import put_regular
from bot.localhub.store import MAIN, Store
from bot.models import Base
from bot.plan import Keys, Plan, Recipes
from bot.recipe import load, names
from bot.watch import Watched, watch

MODELS, MAX_CALLS, TARGET_S = 500, 3, 5.0
ORGANIZATION = "release-bot"
CONFIG = b'{"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}'
NOW = datetime.now(UTC) + timedelta(days=1)


def weights() -> bytes:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def fill(root: Path, recipes: Recipes) -> None:
    """The models, and a release of each by each recipe, put into the Hub's folder before it serves it."""
    store = Store(root)
    files = {"README.md": b"# x\n", "config.json": CONFIG, "model.safetensors": weights()}
    with store.write():
        entries = {path: put_regular(store, path, data) for path, data in files.items()}
        for n in range(MODELS):
            repo = store.repos.create("model", "Qwen", f"Qwen3.{n}-27B", private=False, user="Qwen", sdk="")
            head = store.add_commit(repo, MAIN, entries, title="x", author="Qwen", parent=None)
            base = Base(repo_id=repo.full_name, revision=head.oid)
            for recipe in recipes.usable:
                name = naming.target_repo(ORGANIZATION, base, recipe).partition("/")[2]
                card = f"---\ntags: [release-{naming.release_key(base, recipe, 1)}]\n---\n# x\n".encode()
                made = store.repos.create("model", ORGANIZATION, name, private=False, user="x", sdk="")
                put = {"README.md": put_regular(store, "README.md", card)}
                store.add_commit(made, MAIN, put, title="x", author="x", parent=None)


@contextmanager
def counted() -> Iterator[list[int]]:
    """The number of pages asked for, in a list of one."""
    count, real = [0], huggingface_hub.utils.http_backoff

    def backoff(*arguments: Any, **options: Any) -> Any:
        count[0] += 1
        return real(*arguments, **options)

    huggingface_hub.utils.http_backoff = backoff
    try:
        yield count
    finally:
        huggingface_hub.utils.http_backoff = real


def tick(hub: Hub, state: FolderState, recipes: Recipes) -> tuple[Watched, Plan]:
    """As `release-bot plan` makes it."""
    watched = watch(Watch(max_changes=MODELS), hub, state, now=NOW)
    world = survey.world(hub, state, ORGANIZATION, cards=[], figures={})

    def planned(over: ledgers.World) -> Plan:
        return plan.plan(
            watched.bases, recipes, over, fleet.load(), organization=ORGANIZATION, keys=Keys(1), now=NOW
        )

    return watched, planned(survey.with_staged(world, hub, planned(world).entries))


def main() -> None:
    """Print the first tick, which looks at every model, and the one after it."""
    log.configure(quiet=True)
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as folder:
        recipes = Recipes(usable=[load(name) for name in names()])
        fill(Path(folder) / "hub", recipes)
        state = FolderState(Path(folder) / "state")
        with localhub.running(Path(folder) / "hub") as server, counted() as pages:
            hub = Hub(embedded=False, endpoint=server.url, token=server.token)
            for label in ("first tick: every model is new", "second tick: nothing changed"):
                pages[0], started, cpu = 0, time.perf_counter(), time.process_time()
                watched, planned = tick(hub, state, recipes)
                wall, own = time.perf_counter() - started, time.process_time() - cpu
                assert len(watched.bases) == MODELS, watched.failed
                assert not planned.entries, planned.entries[0]
                requests = pages[0] + len(watched.changes)
                print(f"{label:42}{requests:6} requests{own:9.2f} s our own{wall:9.2f} s in all")
    good = requests <= MAX_CALLS and own < TARGET_S and not watched.changes
    print(
        f"target: at most {MAX_CALLS} requests, {TARGET_S:g} s of our own: {'reached' if good else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
