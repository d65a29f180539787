"""Which device this machine quantizes on."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Literal

from bot.errors import UsageError

Device = Literal["cpu", "cuda"]


def device() -> Device:
    """`cuda` where the driver lists a GPU, else `cpu`; RELEASE_BOT_DEVICE overrides."""
    wanted = os.environ.get("RELEASE_BOT_DEVICE", "")
    if wanted in ("cpu", "cuda"):
        return "cuda" if wanted == "cuda" else "cpu"
    if wanted:
        raise UsageError(f"RELEASE_BOT_DEVICE is {wanted!r}", fix="set it to cpu or cuda, or unset it")
    if not shutil.which("nvidia-smi"):
        return "cpu"
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if listed.returncode == 0 and "GPU" in listed.stdout else "cpu"
