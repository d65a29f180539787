"""What a base model is, from its config and headers; and whether a recipe is for it.

No weight is read: counts and sizes come from safetensors headers, licence and pipeline from the
card's metadata, and the blob of every file is kept, so that a later change can be classed even
after a force-push.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

from bot.checkpoint.files import Source
from bot.checkpoint.inventory import PARTS, part_of
from bot.checkpoint.reading import Checkpoint, read_checkpoint
from bot.edges.hub import RepoState
from bot.errors import InputError, RecipeError
from bot.models import Base, BaseEvidence, BaseFile
from bot.recipe import Recipe
from bot.recipe_errors import did_you_mean

LANGUAGE = "model.language_model.layers."
# What a card's metadata may be taken over as: words, not markup, paths or lines.
_PLAIN = re.compile(r"[A-Za-z0-9][\w .+-]{0,95}", re.ASCII)
_LINK = re.compile(r"(https?://)?[\w./%#?=&~+@-]{1,300}", re.ASCII)


def describe(checkpoint: Checkpoint, state: RepoState, *, base: Base, head: str) -> BaseEvidence:
    """The evidence of stage `base`. Raises InputError for a checkpoint that is no usable base."""
    if checkpoint.quantization is not None:
        raise InputError(
            f"{base.repo_id} is quantized already",
            why="its config.json has a quantization_config",
            fix="name the base model that it was made from",
        )
    refuse_broken(checkpoint)
    tensors = checkpoint.tensors
    num_visual_tensors = sum(name.startswith("model.visual.") for name in tensors)
    license_link = state.card.get("license_link")
    return BaseEvidence(
        base=base,
        head=head,
        model_type=_model_type(checkpoint),
        architectures=_architectures(checkpoint),
        num_parameters=sum(each.num_elements for each in tensors.values()),
        num_tensors=len(tensors),
        tensor_bytes=sum(each.num_bytes for each in tensors.values()),
        bytes_by_part=_bytes_by_part(checkpoint),
        num_mtp_tensors=sum(name.startswith("mtp.") for name in tensors),
        num_visual_tensors=num_visual_tensors,
        license=_plain(state.card.get("license")) or "unknown",
        license_name=_plain(state.card.get("license_name")),
        license_link=license_link
        if isinstance(license_link, str) and _LINK.fullmatch(license_link)
        else None,
        pipeline_tag=_plain(state.card.get("pipeline_tag"))
        or ("image-text-to-text" if num_visual_tensors else "text-generation"),
        languages=[each for each in map(_plain, _listed(state.card.get("language"))) if each],
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


def refuse_broken(checkpoint: Checkpoint) -> None:
    """Raises InputError for an index or shards that do not hold together: decided before any download."""
    index = checkpoint.index
    if index is not None and index.outside:
        raise _broken(checkpoint, f"the index names {index.outside[0]!r}, which is outside the checkpoint")
    missing = sorted(index.inside - set(checkpoint.shards)) if index else []
    if missing:
        raise _broken(
            checkpoint, f"the index names {missing[0]}, which is not there ({len(missing)} such files)"
        )
    for shard in checkpoint.shards.values():
        if shard.truncated or shard.overlap:
            raise _broken(checkpoint, f"{shard.file} is damaged: {shard.truncated or shard.overlap}")
    places = {(each.name, each.file) for shard in checkpoint.shards.values() for each in shard.tensors}
    absent = sorted(each for each in index.weight_map.items() if each not in places) if index else []
    if absent:
        raise _broken(
            checkpoint,
            f"the index says that {absent[0][0]} lies in {absent[0][1]}, which does not hold it "
            f"({len(absent)} such tensors)",
        )


def _broken(checkpoint: Checkpoint, what: str) -> InputError:
    return InputError(
        what,
        where=checkpoint.label,
        why="the upload of this base was not complete, or its files were changed by hand",
        fix="choose another revision of the base, or another base",
    )


def _model_type(checkpoint: Checkpoint) -> str:
    value = checkpoint.config.get("model_type")
    if not isinstance(value, str):
        raise _misread(checkpoint, "model_type", value, "a string")
    return value


def _architectures(checkpoint: Checkpoint) -> list[str]:
    value = checkpoint.config.get("architectures")
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _misread(checkpoint, "architectures", value, "a list of strings")
    return value


def _misread(checkpoint: Checkpoint, field: str, value: object, wanted: str) -> InputError:
    given = "missing" if value is None else f"{value!r}"[:80]
    return InputError(
        f"{field} is not {wanted}: {given}",
        where=f"{checkpoint.label}: config.json",
        why="without it nobody can tell which model this is",
        fix="name a base whose config.json a transformers release wrote",
    )


def _plain(value: Any) -> str | None:
    """A card's word as it stands; None for anything that could be more than a word."""
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def refuse_unfit(checkpoint: Checkpoint, found: BaseEvidence, recipe: Recipe) -> None:
    """Raises RecipeError when the recipe is not for this base, or cannot cut its modules into groups.

    Raises InputError when a module to quantize is no matrix. Decided before any weight is downloaded.
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
    _refuse_coverage(checkpoint, recipe, where)
    flat = [f"{name} has shape {list(t.shape)}" for name, t in modules.items() if len(t.shape) != 2]
    if flat:
        raise InputError(
            f"{len(flat)} modules to quantize are no matrices: {flat[0]}",
            where=checkpoint.label,
            fix="the base is damaged or not what its config says: name another",
        )
    group = recipe.method.group_size
    wrong = [f"{name} has {t.shape[1]} inputs" for name, t in modules.items() if t.shape[1] % group]
    if wrong:
        raise RecipeError(
            f"method.group_size {group} does not divide {len(wrong)} modules: {wrong[0]}",
            where=where,
            fix="choose a recipe with a smaller group",
        )


def _refuse_coverage(checkpoint: Checkpoint, recipe: Recipe, where: str) -> None:
    """Raises RecipeError unless every module exists, and every tensor falls under exactly one of the two."""
    tensors = checkpoint.tensors
    present = {_module_of(name) for name in tensors} - {""}
    absent = [module for module in recipe.coverage.quantize if module not in present]
    if len(absent) == len(recipe.coverage.quantize):
        raise RecipeError("the base has none of the modules that the recipe quantizes", where=where)
    if absent:
        linears = {_module_of(name) for name, entry in tensors.items() if len(entry.shape) == 2} - {""}
        raise RecipeError(
            f"coverage.quantize names {absent[0]}, which no layer of the base has",
            where=where,
            fix=did_you_mean(absent[0], sorted(linears)),
        )
    both = [n for n in tensors if is_quantized(n, recipe) and is_kept(n, recipe)]
    if both:
        pattern = next(each for each in recipe.coverage.keep if fnmatchcase(both[0], each))
        raise RecipeError(
            f"{len(both)} tensors of the base are both quantized and kept by the recipe: {both[0]}",
            where=where,
            why=f"coverage.keep has {pattern!r}, which matches it",
            fix="make the pattern narrower, or take the module out of coverage.quantize",
        )
    unknown = [n for n in tensors if not is_quantized(n, recipe) and not is_kept(n, recipe)]
    if unknown:
        raise RecipeError(
            f"{len(unknown)} tensors of the base are neither quantized nor kept by the recipe: {unknown[0]}",
            where=where,
            why="the base has parts that the recipe's coverage does not know",
            fix="say in coverage.quantize or coverage.keep what shall become of them",
        )


def _module_of(tensor: str) -> str:
    """`mlp.up_proj` of a decoder layer's weight; "" for every other tensor."""
    if not tensor.startswith(LANGUAGE) or not tensor.endswith(".weight"):
        return ""
    return tensor.removeprefix(LANGUAGE).removesuffix(".weight").partition(".")[2]


def is_quantized(tensor: str, recipe: Recipe) -> bool:
    """Whether the recipe quantizes this weight: a module named in coverage, in a decoder layer."""
    return _module_of(tensor) in recipe.coverage.quantize


def is_kept(tensor: str, recipe: Recipe) -> bool:
    return any(fnmatchcase(tensor, pattern) for pattern in recipe.coverage.keep)
