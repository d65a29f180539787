"""Measurements that were made stay made: one file a part, named by what it was made from.

A part is asked for by its name and its inputs (checkpoint, engine, machine, and that section of the
evaluation which it depends on). The same inputs find it again, in a later run or for another release of the
same base; other inputs do not. So a run that stops goes on from the next measurement, and nothing is taken
over from another engine or machine.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from bot import log
from bot.models import write_json

P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of one checkpoint; `common` is what all of them depend on."""

    folder: Path
    common: str

    def path(self, name: str, *inputs: object) -> Path:
        """Where the part `name` made from `inputs` lies, or would lie."""
        content = json.dumps([self.common, name, *map(str, inputs)])
        digest = hashlib.sha256(content.encode()).hexdigest()
        return self.folder / f"{name}-{digest[:16]}.json"

    def read(self, path: Path, model: type[P]) -> P | None:
        """The part at `path`; None when it is not there, or was written by another version of the bot."""
        try:
            return model.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as e:
            log.warning(f"{path.name} cannot be used and is measured again: {type(e).__name__}")
            return None

    def write(self, path: Path, part: BaseModel) -> None:
        """Keep `part`."""
        write_json(path, part)
