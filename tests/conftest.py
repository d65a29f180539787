"""What huggingface_hub reads at import is set here, before any test does: no Xet, an own cache.

Under `make test` two workers share the tests. What is costly is made once: all tests of the demo go to
one worker, those of the engine to one, those of the quantizers to one; the rest goes to whoever is free,
the longest first.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HOME"] = os.environ["RELEASE_BOT_HF_HOME"] = tempfile.mkdtemp(prefix="release-bot-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(name, None)

# No test asserts a time: on a machine that is busy an example takes what it takes.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

# A shell starts what it puts in the background deaf to ^C, and its children's children too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Folders (or modules) whose tests share what takes minutes to make, in the order in which the workers take
# them: long ones first, so that both workers end at about the same time. `hub` comes early since it needs no
# environment: on a fresh checkout the demo builds them meanwhile. The longest path that fits a test decides.
GROUPS = {
    "tests/e2e/": "demo",
    "tests/contract/": "hub",  # one embedded Hub: what each leaves there, the next see in this order
    "tests/e2e/test_chain.py": "chain",
    "tests/serving/": "engine",
    "tests/e2e/test_quantize.py": "quantizers",
    "tests/numerics/": "numerics",
    "tests/e2e/test_lab.py": "lab",
    "tests/github/": "github",
    "tests/workflows/": "github",
}
ORDER = [*dict.fromkeys(GROUPS.values())]


def group_of(nodeid: str) -> str:
    """The group of a test; a module that belongs to none is one by itself."""
    module = nodeid.partition("::")[0]
    paths = [path for path in GROUPS if module.startswith(path)]
    return GROUPS[max(paths, key=len)] if paths else module


class Groups(LoadScopeScheduling):
    """Whole groups to one worker, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by number of tests: the longest of ours have the fewest

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)  # it is pytest-xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long groups first where workers share them; one process alone goes from the quick to the slow."""
    if hasattr(config, "workerinput"):
        rank = {group: number for number, group in enumerate(ORDER)}
        items.sort(key=lambda item: rank.get(group_of(item.nodeid), len(rank)))
