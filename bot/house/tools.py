"""What evidence rests on beside the recipes: the quantizer's version, and the patches that a recipe asks for.

A recipe's digest tells neither: the same recipe under another version of its tool, or with a patch that was
rewritten, is made otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bot.backends import PACKAGES
from bot.backends.patches.asked import asked_digest
from bot.house.model import HouseEvidence, OnBase, base_name
from bot.recipe import Recipe


def changed(house: Recipe, found: HouseEvidence, pins: Mapping[str, str]) -> Iterator[str]:
    """What the evidence was made with that is another today; `pins`: package → version."""
    if found.patches_digest != asked_digest(house):
        yield "its patches have changed since, or the evidence does not state which they were"
    package = PACKAGES[house.method.backend]
    now = pins.get(package)
    for each in found.bases:
        if (then := _version(each, package)) != now:
            yield f"on {base_name(each)}: made with {package} {then}, and pinned is {now}"


def _version(found: OnBase, package: str) -> str:
    """Without the build that follows a plus: a wheel of the same release."""
    return found.quantizer_versions.get(package, "absent").partition("+")[0]
