"""A demo that ran, and the embedded Hub that it was published on, for the end-to-end tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from bot import localhub

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Rehearsed:
    home: Path
    found: dict[str, Any]
    hub: localhub.Running
    api: HfApi

    def environment(self) -> dict[str, str]:
        """What a process needs to work on this Hub."""
        own = {"RELEASE_BOT_HOME": str(self.home), "HF_ENDPOINT": self.hub.url, "HF_TOKEN": self.hub.token}
        return {**os.environ, **own}

    def release(self, name: str) -> dict[str, Any]:
        return next(each for each in self.found["releases"] if each["recipe"] == name)

    def snapshot(self, name: str) -> Path:
        repo = self.release(name)["target_repo"]
        return Path(self.api.snapshot_download(repo, local_dir=self.home / "published" / name))


def bot(home: Path, *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "RELEASE_BOT_HOME": str(home), **env}
    for name in ("RELEASE_BOT_HF_HOME", "HF_HOME"):
        variables.pop(name)
    command = [sys.executable, "-m", "bot", *argv]
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=2000, check=False
    )
