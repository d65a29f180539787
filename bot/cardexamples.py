"""The examples of a card: small programs, kept as files so that a test runs what the card prints.

A file names the model `org/model`; the card, and the test, put the release's repo in its place.
"""

from __future__ import annotations

from pathlib import Path

from bot.evidence import Evidence

FOLDER = Path(__file__).resolve().parent.parent / "model_cards" / "examples"
PLACEHOLDER = "org/model"
# What transformers loads, and the package that it asks for. It has no loader for ModelOpt's NVFP4.
LOADERS = {"gptq": "gptqmodel", "auto_round:auto_gptq": "auto-round"}


def card_examples(evidence: Evidence) -> dict[str, str]:
    """The programs that this release's card prints, by name: text, image, loading (in transformers)."""
    names = ["text"]
    if evidence.base.num_visual_tensors:
        names.append("image")
    if loader(evidence) is not None:
        names.append("loading")
    return {name: _program(name, evidence.release.target_repo) for name in names}


def loader(evidence: Evidence) -> str | None:
    """The package with which transformers loads this release's packing; None when it does not."""
    return LOADERS.get(str(evidence.release.recipe["method"]["packing"]))


def _program(name: str, repo_id: str) -> str:
    return (FOLDER / f"{name}.py").read_text(encoding="utf-8").strip().replace(PLACEHOLDER, repo_id)
