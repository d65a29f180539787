"""The bot's own settings: `[tool.release-bot]` in pyproject.toml, then RELEASE_BOT_* variables."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bot.errors import UsageError

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}$")]
Glob = Annotated[str, Field(min_length=1, max_length=96, pattern=r"^[\w.*?\[\]!-]+$")]


class Watch(BaseModel):
    """`[tool.release-bot.watch]`: whose models are watched, and which; an empty list lets all pass."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    authors: Annotated[list[Name], Field(min_length=1, max_length=20)] = ["Qwen"]
    include: list[Glob] = []
    exclude: list[Glob] = []
    model_types: list[str] = []
    architectures: list[str] = []
    min_parameters: Annotated[int, Field(ge=0)] = 0
    max_parameters: Annotated[int, Field(gt=0)] = 10**13
    settle_minutes: Annotated[float, Field(ge=0, le=7 * 24 * 60, allow_inf_nan=False)] = 60
    max_changes: Annotated[int, Field(ge=1, le=1000)] = 64


class Config(BaseModel):
    """Settings of one checkout; `home` holds environments, work folders and caches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    organization: Name = "release-bot"
    toolchain_epoch: Annotated[int, Field(ge=1)] = 1
    collection: str = "Quantized Qwen"
    home: Path = Path(".release-bot")
    watch: Watch = Watch()

    @property
    def work(self) -> Path:
        return self.home / "work"


def load(start: Path | None = None) -> Config:
    """The settings that hold in `start` (here): the nearest pyproject.toml with a `[tool.release-bot]`."""
    start = (start or Path.cwd()).resolve()
    for folder in [start, *start.parents]:
        path = folder / "pyproject.toml"
        if path.is_file() and (table := _table(path)) is not None:
            return _config({"home": folder / ".release-bot", **_rooted(table, folder)}, path)
    return _config({"home": start / ".release-bot"}, start)


def _table(path: Path) -> dict[str, Any] | None:
    try:
        tools: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
        return tools.get("release-bot")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(
            f"the configuration cannot be read: {e}", where=str(path), fix="mend the file"
        ) from e


def _rooted(table: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {**table, "home": folder / table["home"]} if isinstance(table.get("home"), str) else table


def _config(values: dict[str, Any], where: Path) -> Config:
    for field in ("organization", "collection", "home"):
        if value := os.environ.get(f"RELEASE_BOT_{field.upper()}"):
            values[field] = Path(value).resolve() if field == "home" else value
    watch = {k: v for k, v in _watch_variables().items() if v}
    if watch and isinstance(values.get("watch", {}), dict):
        values["watch"] = {**values.get("watch", {}), **watch}
    try:
        return Config.model_validate(values)
    except ValidationError as e:
        problems = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in e.errors())
        raise UsageError(
            f"[tool.release-bot] does not hold: {problems}", where=str(where), fix="mend it"
        ) from e


def _watch_variables() -> dict[str, Any]:
    """RELEASE_BOT_WATCH_AUTHORS (comma-separated) and RELEASE_BOT_WATCH_SETTLE_MINUTES, for a rehearsal."""
    authors = os.environ.get("RELEASE_BOT_WATCH_AUTHORS", "")
    return {
        "authors": [each.strip() for each in authors.split(",") if each.strip()],
        "settle_minutes": os.environ.get("RELEASE_BOT_WATCH_SETTLE_MINUTES"),
    }
