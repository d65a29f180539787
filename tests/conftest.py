"""What huggingface_hub reads at import is set here, before any test does: no Xet, an own cache.

Under `make test` two workers share the tests. What is costly is made once: all tests of the demo go to
one worker, those of the engine to one, those of the quantizers to one; the rest goes to whoever is free.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest

os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HOME"] = os.environ["RELEASE_BOT_HF_HOME"] = tempfile.mkdtemp(prefix="release-bot-tests-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(name, None)

# A fixture that takes minutes, and the group of all tests that share it.
GROUPS = {"demo": "demo", "tiny": "engine", "engine": "engine", "place": "quantizers"}


def pytest_itemcollected(item: pytest.Item) -> None:
    fixtures = getattr(item, "fixturenames", [])
    if groups := [GROUPS[name] for name in GROUPS if name in fixtures]:
        item.add_marker(pytest.mark.xdist_group(groups[0]))
