"""The facts that `bot.doctor` judges, from this machine and its Hub; nothing is built or written."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bot.cache import Cache, location
from bot.config import Config
from bot.edges import environment, machine
from bot.edges.device import device
from bot.edges.machine import Gpu
from bot.errors import InputError, ReleaseBotError
from bot.models import Hardware


@dataclass(frozen=True, kw_only=True)
class HubFacts:
    """The configured Hub. `error` says why it did not answer; `role` and `organizations` are the token's."""

    endpoint: str
    error: str | None
    account: str | None
    role: str | None
    organizations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One machine. `environments` maps a name to its size in bytes, None where it is not built.

    `free_bytes` is of the home's disk. `cache_bytes`: what the host's cache holds there, which `cache prune`
    gives back; 0 where it lies on another disk.
    """

    device: Literal["cpu", "cuda"]
    hardware: Hardware
    cpu_flags: frozenset[str]
    gpu: Gpu | None
    free_bytes: int
    cache_bytes: int
    environments: Mapping[str, int | None]
    needed_bytes: Mapping[str, int]
    organization: str
    hub: HubFacts


def collect(config: Config) -> Facts:
    """This machine as it is. A Hub that does not answer is a fact, not an error.

    Raises UsageError for a wrong RELEASE_BOT_DEVICE or HF_ENDPOINT.
    """
    kind = device()
    names = [f"quantize-{kind}", f"vllm-{kind}"]
    return Facts(
        device=kind,
        hardware=machine.hardware(cuda=kind == "cuda", python=platform.python_version()),
        cpu_flags=machine.cpu_flags(),
        gpu=machine.gpu(),
        free_bytes=shutil.disk_usage(_existing(config.home)).free,
        cache_bytes=_cache_bytes(config.home),
        environments={name: _size(name, config.home) for name in names},
        needed_bytes={name: environment.NEEDED_BYTES[name] for name in names},
        organization=config.organization,
        hub=_hub(config.home),
    )


def _existing(path: Path) -> Path:
    path = path.resolve()
    return path if path.exists() else _existing(path.parent)


def _cache_bytes(home: Path) -> int:
    """What the host's cache holds, where it is on the home's disk: room on another one is none for a job."""
    place = location(home)
    if _existing(place).stat().st_dev != _existing(home).stat().st_dev:
        return 0
    return sum(each.size_bytes for each in Cache(place).entries())


def _size(name: str, home: Path) -> int | None:
    """Bytes on disk of an environment that is built."""
    found = environment.find(name, home)
    if found is None:
        return None
    folder = found.python.parents[1]
    return sum(
        os.lstat(Path(root) / name).st_blocks * 512 for root, _, names in os.walk(folder) for name in names
    )


def _hub(home: Path) -> HubFacts:
    from bot.edges import hub

    found = hub.Hub(embedded=hub.prepare_environment(home))
    error, account, role = None, None, None
    organizations: tuple[str, ...] = ()
    try:
        found.exists("release-bot/is-anyone-there")
        with hub.translated("whoami"):
            said = found.api.whoami()
        account, role = str(said["name"]), said.get("auth", {}).get("accessToken", {}).get("role")
        organizations = tuple(str(each["name"]) for each in said.get("orgs", []))
    except InputError:
        pass  # it answered, and knows no such token
    except ReleaseBotError as e:
        error = e.what
    return HubFacts(
        endpoint=found.endpoint, error=error, account=account, role=role, organizations=organizations
    )
