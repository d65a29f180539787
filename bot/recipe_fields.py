"""What the sections of a recipe are made of: the model that all share, and the types of their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

UNPINNED = "unpinned"

Revision = Annotated[str, Field(pattern=rf"^([0-9a-f]{{40}}|{UNPINNED})$")]
RepoId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$")]
Word = Annotated[str, Field(min_length=1)]
PositiveInt = Annotated[int, Field(gt=0)]


class RecipeModel(BaseModel):
    """Frozen, strict, finite: what the YAML says is what is meant, or it is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
