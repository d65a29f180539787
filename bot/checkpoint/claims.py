"""What a quantization config claims of bits, groups, symmetry and method, held to each packed module.

A default holds for every packed module that no override names. Overrides are read as the engines
read them: GPTQ's `dynamic` (vLLM 0.32, `gptq_utils.get_dynamic_override`: the first pattern that
matches wins, `-:` leaves the module out) and AutoRound's `extra_config` (a full name, else the first
pattern found in the name). A value of another type than the engines expect counts as wrong: `"4"` is
not 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bot.checkpoint.facts import Facts
from bot.checkpoint.inventory import PackedModule
from bot.checkpoint.lists import explicit, mapping_of, matches, to_engine
from bot.checkpoint.packing import contradiction
from bot.checkpoint.verdict import some

Problem = tuple[str, tuple[str, ...]]
Config = Mapping[str, Any]
METHODS = {
    "gptq": ("gptq",),
    "gptq_v2": ("gptq",),
    "auto_round:auto_gptq": ("auto-round", "auto_round", "intel/auto-round"),
    "auto_round": ("auto-round", "auto_round", "intel/auto-round"),
    "nvfp4": ("modelopt", "modelopt_fp4"),
}


def wrong_claims(facts: Facts, config: Config) -> list[Problem]:
    """Every claim of the config, and of the recipe, that the tensors contradict."""
    problems = [*_labels(facts, config), *_recipe(facts, config)]
    if facts.packing == "nvfp4":
        problems += _nvfp4(facts, config)
    elif facts.modules:
        problems += _integers(facts, config)
    return problems


def _labels(facts: Facts, config: Config) -> Iterator[Problem]:
    if said := contradiction(facts.label, facts.packing):
        yield said, ()
    elif facts.label == "unknown" and facts.modules:
        yield "config.json names a packing that is not known here", ()
    method = config.get("quant_method")
    known = METHODS.get(facts.packing)
    if known is not None and method not in known:
        yield f"quant_method is {method!r}, and engines load {facts.packing} by {known[0]!r}", ()


def _recipe(facts: Facts, config: Config) -> Iterator[Problem]:
    if facts.recipe is None:
        return
    method = facts.recipe.method
    if facts.packing not in (method.packing, "none"):
        yield f"the recipe's packing is {method.packing}, this is {facts.packing}", ()
    for name, value in (("bits", method.bits), ("group_size", method.group_size)):
        other = tuple(m.name for m in facts.modules.values() if m.sound and getattr(m, name) != value)
        if other:
            yield f"the recipe says {name} {value}: {some(other)} differ", other
    if facts.packing != "nvfp4" and facts.modules and config.get("sym") is not method.sym:
        yield f"the recipe says sym {method.sym}, config.json {config.get('sym')!r}", ()


def _integers(facts: Facts, config: Config) -> Iterator[Problem]:
    for name in ("sym", "desc_act"):
        if name in config and not isinstance(config[name], bool):
            yield f"config.json: {name} is {config[name]!r}, neither true nor false", ()
    for name in ("bits", "group_size"):
        wrong: dict[str, list[str]] = {}
        for module in facts.modules.values():
            said = _claimed(module, config).get(name, config.get(name))
            if module.sound and (type(said) is not int or said != getattr(module, name)):
                wrong.setdefault(repr(said), []).append(module.name)
        for said, modules in wrong.items():
            yield f"config.json says {name} {said}: {some(modules)} differ", tuple(modules)


def _claimed(module: PackedModule, config: Config) -> Config:
    """The override that engines find for a module; empty where its defaults hold."""
    extra = {k: v for k, v in mapping_of(config, "extra_config").items() if isinstance(v, dict)}
    if extra:
        return explicit(module.name, extra) or explicit(to_engine(module.name), extra) or {}
    for pattern, given in mapping_of(config, "dynamic").items():
        plain = pattern.removeprefix("+:")
        here = any(matches(plain, name) for name in (module.name, to_engine(module.name)))
        if here and not pattern.startswith("-:") and isinstance(given, dict):
            return given
    return {}


def _nvfp4(facts: Facts, config: Config) -> Iterator[Problem]:
    for group in mapping_of(config, "config_groups").values():
        for what in ("weights", "input_activations"):
            given = group.get(what) if isinstance(group, dict) else None
            for name, value in (("num_bits", 4), ("group_size", 16)):
                if isinstance(given, dict) and given.get(name, value) != value:
                    yield f"config.json: {what} have {name} {given[name]!r}, NVFP4 has {value}", ()
    if config.get("quant_algo") == "NVFP4":
        lacking = tuple(
            f"{m.name}.input_scale" for m in facts.modules.values() if "input_scale" not in m.tensors
        )
        if lacking:
            yield f"W4A4 needs an input_scale a module: {some(lacking)} missing", lacking
    alone = facts.checkpoint.standalone.get("hf_quant_config.json", {}).get("quantization")
    if not isinstance(alone, dict):
        alone = None
    elif alone.get("group_size", 16) != 16:
        yield f"hf_quant_config.json: group_size is {alone['group_size']!r}, NVFP4 has 16", ()
    yield from _kv_cache(facts, config, alone)


def _kv_cache(facts: Facts, config: Config, alone: Config | None) -> Iterator[Problem]:
    """The FP8 KV cache is claimed by both files or by none, and as the recipe says."""
    claims = {"config.json": bool(config.get("kv_cache_scheme"))}
    if alone is not None:
        claims["hf_quant_config.json"] = bool(alone.get("kv_cache_quant_algo"))
    if len(set(claims.values())) > 1:
        yield "config.json and hf_quant_config.json disagree on an FP8 KV cache", ()
    if facts.recipe is not None:
        wanted = facts.recipe.method.kv_cache != "none"
        for file, claimed in claims.items():
            if claimed is not wanted:
                yield f"{file} {'claims' if claimed else 'lacks'} an FP8 KV cache, unlike the recipe", ()
