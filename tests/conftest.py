"""What huggingface_hub reads at import is set here, before any test does: no Xet, an own cache.

Under `make test` two workers share the tests. What is costly is made once: all tests of the demo go to
one worker, those of the engine to one, those of the quantizers to one; the rest goes to whoever is free.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HOME"] = os.environ["RELEASE_BOT_HF_HOME"] = tempfile.mkdtemp(prefix="release-bot-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(name, None)

# A shell starts what it puts in the background deaf to ^C, and its children's children too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Folders whose tests share what takes minutes to make; a longer path comes first.
GROUPS = {
    "tests/e2e/test_quantize.py": "quantizers",
    "tests/numerics/": "numerics",
    "tests/e2e/test_chain.py": "chain",
    "tests/e2e/": "demo",
    "tests/serving/": "engine",
    "tests/contract/": "hub",  # one embedded Hub: what each leaves there, the next see in this order
    "tests/github/": "github",
    "tests/workflows/": "github",
}


class Groups(LoadScopeScheduling):
    """Whole groups to one worker, then module by module."""

    def _split_scope(self, nodeid: str) -> str:
        module = str(super()._split_scope(nodeid))
        return next((group for path, group in GROUPS.items() if module.startswith(path)), module)


@pytest.hookimpl(optionalhook=True)  # it is pytest-xdist's
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Groups(config, log)
