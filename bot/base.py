"""What a base model is, from its config and headers; and whether a recipe is for it.

No weight is read: counts and sizes come from safetensors headers, licence and pipeline from the
card's metadata, and the blob of every file is kept, so that a later change can be classed even
after a force-push.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from bot.checkpoint.files import Source
from bot.checkpoint.inventory import PARTS, part_of
from bot.checkpoint.reading import Checkpoint, read_checkpoint
from bot.edges.hub import RepoState
from bot.errors import InputError, RecipeError
from bot.models import Base, BaseEvidence, BaseFile
from bot.recipe import Recipe

LANGUAGE = "model.language_model.layers."


def describe(checkpoint: Checkpoint, state: RepoState, *, base: Base, head: str) -> BaseEvidence:
    """The evidence of stage `base`. Raises InputError for a checkpoint that is no usable base."""
    config = checkpoint.config
    if checkpoint.quantization is not None:
        raise InputError(
            f"{base.repo_id} is quantized already",
            why="its config.json has a quantization_config",
            fix="name the base model that it was made from",
        )
    tensors = checkpoint.tensors
    return BaseEvidence(
        base=base,
        head=head,
        model_type=_text(config, "model_type"),
        architectures=[str(each) for each in config.get("architectures") or []],
        num_parameters=sum(each.num_elements for each in tensors.values()),
        num_tensors=len(tensors),
        tensor_bytes=sum(each.num_bytes for each in tensors.values()),
        bytes_by_part=_bytes_by_part(checkpoint),
        num_mtp_tensors=sum(name.startswith("mtp.") for name in tensors),
        num_visual_tensors=sum(name.startswith("model.visual.") for name in tensors),
        license=_text(state.card, "license") or "unknown",
        license_name=_text(state.card, "license_name") or None,
        license_link=_text(state.card, "license_link") or None,
        pipeline_tag=_text(state.card, "pipeline_tag") or "image-text-to-text",
        languages=[str(each) for each in _listed(state.card.get("language"))],
        files=[
            BaseFile(path=f.path, size_bytes=f.size_bytes, blob_id=f.blob_id, sha256=f.sha256)
            for f in state.files.values()
        ],
    )


def _bytes_by_part(checkpoint: Checkpoint) -> dict[str, int]:
    parts = dict.fromkeys(PARTS, 0)
    for name, entry in checkpoint.tensors.items():
        parts[part_of(name)] += entry.num_bytes
    return {str(part): size for part, size in parts.items() if size}


def read(source: Source) -> Checkpoint:
    """The base's config, index and headers."""
    return read_checkpoint(source)


def _text(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return value if isinstance(value, str) else ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def refuse_unfit(checkpoint: Checkpoint, found: BaseEvidence, recipe: Recipe) -> None:
    """Raises RecipeError when the recipe is not for this base, or cannot cut its modules into groups.

    Decided before any weight is downloaded.
    """
    where = f"{found.base.repo_id}@{found.base.revision[:8]} by {recipe.name}"
    refusal = recipe.applies_to.refusal(
        model_type=found.model_type, architectures=found.architectures, num_parameters=found.num_parameters
    )
    if refusal:
        raise RecipeError(
            f"the recipe is not for this base: {refusal}",
            where=where,
            fix="`release-bot recipes list` shows the others",
        )
    modules = {n.removesuffix(".weight"): t for n, t in checkpoint.tensors.items() if is_quantized(n, recipe)}
    if not modules:
        raise RecipeError("the base has none of the modules that the recipe quantizes", where=where)
    group = recipe.method.group_size
    wrong = [f"{name} has {t.shape[1]} inputs" for name, t in modules.items() if t.shape[1] % group]
    if wrong:
        raise RecipeError(
            f"method.group_size {group} does not divide {len(wrong)} modules: {wrong[0]}",
            where=where,
            fix="choose a recipe with a smaller group",
        )
    unknown = [n for n in checkpoint.tensors if not is_quantized(n, recipe) and not is_kept(n, recipe)]
    if unknown:
        raise RecipeError(
            f"{len(unknown)} tensors of the base are neither quantized nor kept by the recipe: {unknown[0]}",
            where=where,
            why="the base has parts that the recipe's coverage does not know",
            fix="say in coverage.quantize or coverage.keep what shall become of them",
        )


def is_quantized(tensor: str, recipe: Recipe) -> bool:
    """Whether the recipe quantizes this weight: a module named in coverage, in a decoder layer."""
    if not tensor.startswith(LANGUAGE) or not tensor.endswith(".weight"):
        return False
    module = tensor.removeprefix(LANGUAGE).removesuffix(".weight").partition(".")[2]
    return module in recipe.coverage.quantize


def is_kept(tensor: str, recipe: Recipe) -> bool:
    return any(fnmatchcase(tensor, pattern) for pattern in recipe.coverage.keep)
