"""Which of an author's models releases may be made of: bases of the author's own line, within the filters.

Passed over are *offshoots*: what was made from another model by quantizing, adapting or fine-tuning it. Facts
decide first: what the card says it derives from (the Hub's `base_model:RELATION:ID` tags), then the config's
`quantization_config`, then tags that name a packing. A name such as `…-FP8` decides last, for repos that
state nothing.

A fine-tune counts as an offshoot only when its base is somebody else's: an author's chat model is by its card
a fine-tune of the same author's base model, and it is what people want quantized. An author's side lines that
nobody wants are excluded by name, in the configuration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bot.config import Watch
from bot.edges.listing import Listed

_PACKING_TAGS = frozenset({
    "4-bit", "8-bit", "aqlm", "auto-round", "autoawq", "autogptq", "awq", "bitsandbytes",
    "compressed-tensors", "exl2", "exl3", "fp8", "ggml", "gguf", "gptq", "hqq", "mlx", "modelopt", "mxfp4",
    "nvfp4", "quantized", "w4a16", "w8a8",
})  # fmt: skip
_PACKING_NAME = re.compile(
    r"(?:^|[-_.])(?:gguf|ggml|fp8|nvfp4|mxfp4|awq|gptq|autoround|mlx|exl[23]|bnb|hqq|int[248]|"
    r"w[48]a(?:4|8|16)|[2-8]-?bit)(?=$|[-_.])",
    re.I,
)
_RELATION = re.compile(r"base_model:(quantized|finetune|adapter|merge):(.+)")


@dataclass(frozen=True, kw_only=True)
class PassedOver:
    """A model that nothing is made of, and why; `code` is the reason in one word, to count by."""

    repo_id: str
    code: str
    reason: str


def passed_over(listed: Listed, watch: Watch) -> PassedOver | None:
    """Why no release is made of this model; None when one may be."""
    for code, reason in (
        _closed(listed),
        _by_name(listed, watch),
        _derived(listed),
        _by_config(listed, watch),
        _by_size(listed, watch),
    ):
        if code:
            return PassedOver(repo_id=listed.repo_id, code=code, reason=reason)
    return None


Verdict = tuple[str, str]
_PASSES: Verdict = ("", "")


def _closed(listed: Listed) -> Verdict:
    if listed.private:
        return "private", "it is not public, and what is made of it would tell of it"
    return ("disabled", "the Hub has disabled it") if listed.disabled else _PASSES


def _by_name(listed: Listed, watch: Watch) -> Verdict:
    name = listed.repo_id.partition("/")[2].lower()
    if watch.include and not any(fnmatchcase(name, each.lower()) for each in watch.include):
        return "name", "its name is not among watch.include"
    hit = next((each for each in watch.exclude if fnmatchcase(name, each.lower())), None)
    return ("name", f"watch.exclude has {hit!r}") if hit else _PASSES


def _derived(listed: Listed) -> Verdict:
    """Whether it was made from another model. See the module's docstring for the order."""
    author = listed.repo_id.partition("/")[0].lower()
    for relation, source in (m.groups() for tag in listed.tags if (m := _RELATION.fullmatch(tag))):
        if relation == "quantized":
            return "quantized", f"its card says that it is {source}, quantized"
        if relation == "adapter":
            return "derived", f"it is an adapter for {source}"
        if source.partition("/")[0].lower() != author:
            return "derived", f"its card says that it is a {relation} of {source}, another author's"
    if listed.quantized:
        return "quantized", "its config has a quantization_config"
    if tags := sorted(_PACKING_TAGS & {each.lower() for each in listed.tags}):
        return "quantized", f"it is tagged {tags[0]}"
    if found := _PACKING_NAME.search(listed.repo_id.partition("/")[2]):
        return "quantized", f"its name says {found[0].strip('-_.')}"
    return _PASSES


def _by_config(listed: Listed, watch: Watch) -> Verdict:
    if watch.model_types and listed.model_type is None:
        return "unknown_type", "the Hub does not tell its model_type (yet)"
    if watch.model_types and listed.model_type not in watch.model_types:
        return "model_type", f"model_type {listed.model_type!r} is not among watch.model_types"
    if watch.architectures and not set(listed.architectures) & set(watch.architectures):
        return "architecture", f"none of {list(listed.architectures)} is among watch.architectures"
    return _PASSES


def _by_size(listed: Listed, watch: Watch) -> Verdict:
    """What the Hub does not count passes: each recipe asks again, from the headers."""
    count = listed.num_parameters
    if count is None or watch.min_parameters <= count <= watch.max_parameters:
        return _PASSES
    return "size", f"{count:,} parameters, outside {watch.min_parameters:,} to {watch.max_parameters:,}"
