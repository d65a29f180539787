"""The quantization config as it must be for the tensors that are there.

What the tool wrote is kept as far as it is right. Entries that call a packed Linear unquantized are
dropped; every kept Linear is named in each spelling that an engine asks for (see
`bot.checkpoint.lists`). Mending a mended config changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bot.checkpoint.inventory import part_of
from bot.checkpoint.lists import (
    default_bits,
    disagreements,
    engine_names,
    excluded_by,
    flat,
    ignored_of,
    mapping_of,
    not_excluded,
    resolve_bits,
    to_engine,
    to_listed,
)

Config = Mapping[str, Any]
LAYERS = "model.language_model.layers"
_PATTERNS = {
    "mtp": r"-:^mtp\..*",
    "visual": r"-:^(model\.)?visual\..*",
    "lm_head": r"-:.*lm_head$",
}
_GATES = r"-:.*\.linear_attn\.in_proj_(a|b|ba)$"
_KEPT = {"bits": 16, "data_type": "fp"}


def mended(config: Config, linears: Mapping[str, bool], *, trivial_g_idx: bool) -> dict[str, Any]:
    """`config` with its lists agreeing with `linears` (name → packed), and desc_act false where it may be."""
    method = str(config.get("quant_method", "")).lower()
    if method == "gptq":
        return _gptq(config, linears, trivial_g_idx)
    if method.startswith(("auto-round", "auto_round", "intel/auto-round")):
        return _auto_round(config, linears)
    if "quant_algo" in config:
        names = _ignored(ignored_of({"ignore": config.get("ignore")}), linears)
        return dict(config) | {"ignore": names}
    return dict(config)


def standalone(copy: Config, config: Config) -> dict[str, Any]:
    """The stand-alone file that goes with the mended `config`; `copy` is what it holds now."""
    inner = copy.get("quantization")
    if isinstance(inner, dict):
        same = set(ignored_of(copy)) == set(ignored_of(config))
        names = inner["exclude_modules"] if same and "exclude_modules" in inner else ignored_of(config)
        return dict(copy) | {"quantization": inner | {"exclude_modules": names}}
    return dict(config)


def _spellings(linears: Mapping[str, bool], *, packed: bool) -> list[str]:
    """Saved names and engine names (fused ones too) of all packed, or all kept, Linears."""
    names = [name for name, is_packed in linears.items() if is_packed is packed]
    return names + [asked.name for asked in engine_names(linears) if asked.packed is packed]


# ── gptq ───────────────────────────────────────────────────────────────────────────────────


def _gptq(config: Config, linears: Mapping[str, bool], trivial_g_idx: bool) -> dict[str, Any]:
    result = dict(config)
    packed = [name for name, is_packed in linears.items() if is_packed]
    result["dynamic"] = _dynamic(mapping_of(config, "dynamic"), linears)
    if sorted(flat(config.get("modules_in_block_to_quantize"))) != sorted(packed):
        result["modules_in_block_to_quantize"] = [packed]
    result["lm_head"] = linears.get("lm_head", False)
    result.pop("modules_to_not_convert", None)
    if config.get("desc_act") and trivial_g_idx:
        result["desc_act"] = False
    return result


def _dynamic(given: Config, linears: Mapping[str, bool]) -> dict[str, Any]:
    """Right exclusions first (the first match decides), then the tool's own overrides."""
    packed, kept = _spellings(linears, packed=True), _spellings(linears, packed=False)
    exclusions = {
        pattern: value
        for pattern, value in given.items()
        if pattern.startswith("-:") and not any(excluded_by({pattern: {}}, name) for name in packed)
    }
    for name in kept:
        if not excluded_by(exclusions, name):
            exclusions[_pattern(name)] = {}
    overrides = {pattern: value for pattern, value in given.items() if not pattern.startswith("-:")}
    return exclusions | overrides


def _pattern(name: str) -> str:
    """The exclusion that covers `name` and its like under every spelling."""
    if re.search(r"\.in_proj_(a|b|ba)$", name):
        return _GATES
    part = "lm_head" if name.endswith("lm_head") else part_of(name)
    return _PATTERNS.get(part, f"-:^{re.escape(name)}$")


# ── auto-round ─────────────────────────────────────────────────────────────────────────────


def _auto_round(config: Config, linears: Mapping[str, bool]) -> dict[str, Any]:
    result = dict(config)
    default = default_bits(config)
    packed = [name for name, is_packed in linears.items() if is_packed]
    blocks = _blocks(config.get("block_name_to_quantize"), packed)
    if blocks is not None:
        result["block_name_to_quantize"] = blocks
    given = {k: v for k, v in mapping_of(config, "extra_config").items() if isinstance(v, dict)}
    extra = {k: v for k, v in given.items() if _right(k, v, linears, default)}
    result["extra_config"] = extra
    for name in _unnamed(result, linears):
        extra[name] = dict(_KEPT)
    return result


def _blocks(given: Any, packed: list[str]) -> Any:
    """Blocks that hold packed modules and nothing else; None where the tool names none."""
    if not given:
        return None
    listed = [each.strip() for each in given.split(",")] if isinstance(given, str) else flat(given)
    right = [each for each in listed if any(name.startswith(each) for name in packed)]
    if not all(any(name.startswith(each) for each in right) for name in packed):
        right = [LAYERS]
    return ",".join(right) if isinstance(given, str) else given if right == listed else right


def _right(key: str, value: Config, linears: Mapping[str, bool], default: int) -> bool:
    """Whether one entry alone says nothing false of any Linear that it is about."""
    bits = value.get("bits", default)
    is_packed = isinstance(bits, int) and bits < 16
    otherwise = 16 if is_packed else 4
    return all(
        resolve_bits(name, {spelled: value}, [], otherwise) is not is_packed
        for name in _spellings(linears, packed=not is_packed)
        for spelled in {key, to_engine(key)}
    )


def _unnamed(config: Config, linears: Mapping[str, bool]) -> list[str]:
    """Kept Linears that the lists do not exclude yet."""
    wrong = {name for each in disagreements("", config, linears) for name in each.modules}
    return [name for name, packed in linears.items() if not packed and name in wrong]


# ── modelopt ───────────────────────────────────────────────────────────────────────────────


def _ignored(given: list[str], linears: Mapping[str, bool]) -> list[str]:
    packed = _spellings(linears, packed=True)
    names = [each for each in given if all(not_excluded(name, to_listed([each])) for name in packed)]
    names = [each for each in names if all(not_excluded(name, [each]) for name in packed)]
    for _ in range(2):
        known = list(names)
        for name in _unnamed({"quant_algo": "NVFP4", "ignore": known}, linears):
            entry = {"mtp": "mtp*", "visual": "model.visual*", "lm_head": "lm_head"}.get(part_of(name), name)
            # A wildcard does not help a fused layer of which one member is named: name the others too.
            entry = name if entry in known else entry
            if entry not in names:
                names.append(entry)
    return names
