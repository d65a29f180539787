"""The records that the lab has kept, and whether one still holds.

A variant whose record is there is not run again, so a record is believed only where all of it fits: it is of
this very variant, it has figures over every text, and the per-token arrays beside it give these figures
again. Any other is told of in a line, and the variant is measured anew: that costs time, a figure that no
array bears out costs trust. Failures are not kept: the next run tries them again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from bot import log
from bot.errors import InputError
from bot.lab import compare
from bot.lab.record import Arrays, Figures, Measured
from bot.models import read_json, write_json
from bot.serving.store import replacing

KEPT = ("kld", "nll", "base_nll", "agree", "window")
IDENTITY = ("key", "release_key", "recipe_name", "recipe_digest")
TOLERANCE = 1e-5  # relative: a mean over the same numbers, summed in another order
DAMAGE = (BadZipFile, EOFError, KeyError, NotImplementedError, OSError, TypeError, ValueError, zlib.error)


class Records:
    """The records below a folder, each with an array file a domain."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "variants"

    def read(self, wanted: Measured, domains: Sequence[str]) -> Measured | None:
        """The record of `wanted`, which has no figures yet; None when there is none, or none that holds."""
        path = self.folder / f"{wanted.key}.json"
        if not path.is_file():
            return None
        try:
            found = read_json(path, Measured)
            self._require(found, wanted, domains)
        except InputError as e:
            log.warning(f"the record {wanted.key} is not taken, the variant is measured anew: {e.what}")
            return None
        return found

    def keep(self, measured: Measured, arrays: Mapping[str, Arrays]) -> None:
        """Keep a record; its arrays first, by domain. Raises InputError for figures that are not finite."""
        if odd := list(_not_finite(measured.model_dump())):
            raise InputError(
                f"figures that are no finite numbers: {', '.join(odd)}",
                where=measured.recipe_name,
                why="a score is not a number, or a loss is so large that its exponential is not",
                fix="look at the logs in the variant's work folder",
            )
        for domain, found in arrays.items():
            with replacing(self._arrays(measured.key, domain)) as partial, partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **found)
        write_json(self.folder / f"{measured.key}.json", measured)

    def arrays(self, key: str, domain: str) -> Arrays:
        """`kld`, `nll`, `base_nll`, `agree` and `window`, each [T]. Raises InputError for a damaged file."""
        path = self._arrays(key, domain)
        try:
            with path.open("rb") as file, np.load(file) as found:
                return {name: np.asarray(found[name]) for name in KEPT}
        except DAMAGE as e:
            raise InputError(f"{path.name} cannot be read: {e}", where=str(path)) from e

    def _require(self, found: Measured, wanted: Measured, domains: Sequence[str]) -> None:
        """Raises InputError for a record that is not of `wanted`, or that its arrays do not bear out."""
        for name in IDENTITY:
            if getattr(found, name) != getattr(wanted, name):
                raise InputError(f"its {name} is {getattr(found, name)}, not {getattr(wanted, name)}")
        if found.failure is not None:
            raise InputError(f"it is of a failure: {found.failure}")
        if (told := [each.domain for each in found.figures]) != list(domains):
            raise InputError(f"it has figures over {', '.join(told) or 'nothing'}, not {', '.join(domains)}")
        for each in found.figures:
            _require_borne_out(each, self.arrays(found.key, each.domain))

    def _arrays(self, key: str, domain: str) -> Path:
        return self.folder / f"{key}-{domain}.npz"


def _require_borne_out(figures: Figures, arrays: Arrays) -> None:
    """Raises InputError where the arrays are of another length, or give other figures."""
    for name, values in arrays.items():
        if values.shape != (figures.num_tokens,):
            raise InputError(
                f"{name} over {figures.domain} has shape {values.shape}, for {figures.num_tokens:,} tokens"
            )
    again = {
        "kld": float(arrays["kld"].mean()),
        "top1_agreement": float(arrays["agree"].mean()),
        "ppl": compare.perplexity(arrays["nll"]),
        "base_ppl": compare.perplexity(arrays["base_nll"]),
    }
    for name, value in again.items():
        if not math.isclose(getattr(figures, name), value, rel_tol=TOLERANCE, abs_tol=1e-12):
            told = f"{name} over {figures.domain} is {getattr(figures, name)}"
            raise InputError(f"{told}, by its arrays {value}")


def _not_finite(value: Any, path: str = "") -> Iterator[str]:
    """Where in a dumped model a float is NaN or infinite: JSON has neither."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path} {value}"
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _not_finite(each, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _not_finite(each, f"{path}.{index}")
