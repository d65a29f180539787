"""What the lists in a quantization config say of each Linear, as the engines would read them.

Three tools write three kinds of list; vLLM matches each in its own way, under its own names. It
also fuses layers, and asks for the fused name. A list that is right under one spelling and wrong
under another loads garbage without an error, so each is evaluated under all of them.

Followed here (vLLM 0.32):
  gptq        quantization/utils/gptq_utils.py    `get_dynamic_override`, `is_layer_gptq_quantized`
  auto-round  quantization/inc/{inc,config_parser}.py    `get_quant_method`, `_resolve_raw`
  modelopt    quantization/modelopt.py    `is_layer_excluded`, `apply_vllm_mapper`
  names       models/{qwen3_5,qwen3_5_mtp,qwen3_vl}.py    `packed_modules_mapping`, `hf_to_vllm_mapper`

Stricter than vLLM in two places, since older versions and other engines are: GPTQ's `dynamic` must
exclude every kept Linear by itself under its saved name, and AutoRound's `extra_config` every kept
MTP Linear, even where another field would save the day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from bot.errors import InputError

FUSED: dict[str, tuple[str, ...]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "in_proj_qkvz": ("in_proj_qkv", "in_proj_z"),
    "in_proj_ba": ("in_proj_b", "in_proj_a"),
}
_FUSED_OF = {member: fused for fused, members in FUSED.items() for member in members}
_PREFIXES = {
    "model.visual.": "visual.",
    "lm_head.": "language_model.lm_head.",
    "model.language_model.": "language_model.model.",
}
# Repeated groups, lookarounds and back references can take exponential time, and k repetitions take
# time to the power of k in the name's length. What quantizers write has none of the first and few of
# the second.
_COSTLY = re.compile(r"\)[*+{]|[*+}][*+]|\(\?(?!:)|\\[1-9]")
_REPEATED = re.compile(r"(?<!\\)[*+?{]")
MAX_REPEATED = 3
MAX_PATTERN = 2000
MAX_PATTERNS = 8192
_REGEX_SIGNS = set(r"*+?^$()[]{}|\\")

Config = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A list that calls a Linear the opposite of what its tensors are."""

    file: str
    where: str
    name: str
    says_packed: bool | None
    modules: tuple[str, ...]

    def __str__(self) -> str:
        says = {True: "quantized", False: "not quantized", None: "both at once"}[self.says_packed]
        return f"{self.file}: {self.where} makes {self.name} {says}; its tensors say otherwise"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A name an engine asks for, the saved Linears behind it, and whether their tensors are packed."""

    name: str
    modules: tuple[str, ...]
    packed: bool | None


def mapping_of(config: Config, key: str) -> dict[str, Any]:
    """A field that is to be a mapping; anything else names nothing, which the tensors then contradict."""
    value = config.get(key)
    if isinstance(value, dict) and len(value) > MAX_PATTERNS:
        raise InputError(
            f"{key} in the quantization config has {len(value):,} entries; at most {MAX_PATTERNS:,} are read",
            why="it may be hostile",
            fix="do not use this checkpoint",
        )
    return value if isinstance(value, dict) else {}


def default_bits(config: Config) -> int:
    """The bits of what no list names."""
    bits = config.get("bits")
    return bits if type(bits) is int and bits > 0 else 4


def to_engine(name: str) -> str:
    """A saved module name as vLLM's multimodal class calls it."""
    if name == "lm_head":
        return "language_model.lm_head"
    return _map(name)


def _map(name: str) -> str:
    """`WeightsMapper` with prefixes only: what a list's entries go through (`lm_head` alone stays)."""
    for prefix, new in _PREFIXES.items():
        if name.startswith(prefix):
            return new + name[len(prefix) :]
    return name


def engine_names(linears: Mapping[str, bool]) -> list[Asked]:
    """Every name vLLM asks for; `packed` is None where members of a fused layer differ."""
    groups: dict[str, list[str]] = {}
    for name in linears:
        parent, _, last = name.rpartition(".")
        fused = _FUSED_OF.get(last)
        inside = name.startswith(("model.language_model.", "mtp."))
        groups.setdefault(to_engine(f"{parent}.{fused}" if fused and inside else name), []).append(name)
    return [_asked(name, tuple(members), linears) for name, members in groups.items()]


def _asked(name: str, members: tuple[str, ...], linears: Mapping[str, bool]) -> Asked:
    states = {linears[member] for member in members}
    return Asked(name=name, modules=members, packed=states.pop() if len(states) == 1 else None)


def mixed(linears: Mapping[str, bool]) -> list[Asked]:
    """Fused layers whose members differ in precision: no engine can load those."""
    return [asked for asked in engine_names(linears) if asked.packed is None]


def disagreements(file: str, config: Config, linears: Mapping[str, bool]) -> list[Disagreement]:
    """Where the lists of one config file and the tensors differ."""
    saved = [Asked(name=name, modules=(name,), packed=packed) for name, packed in linears.items()]
    engine = [asked for asked in engine_names(linears) if asked.packed is not None]
    found: list[Disagreement] = []
    for where, asked, verdict in _verdicts(config, saved, engine):
        says = verdict(asked.name)
        if says is not asked.packed:
            found.append(
                Disagreement(file=file, where=where, name=asked.name, says_packed=says, modules=asked.modules)
            )
    return found


Verdict = Callable[[str], bool | None]


def _verdicts(
    config: Config, saved: list[Asked], engine: list[Asked]
) -> Iterator[tuple[str, Asked, Verdict]]:
    method = str(config.get("quant_method", "")).lower().replace("_", "-")
    if method == "gptq" or "dynamic" in config or "modules_in_block_to_quantize" in config:
        yield from _gptq(config, saved, engine)
    elif method in ("auto-round", "intel/auto-round") or "packing_format" in config:
        yield from _auto_round(config, saved, engine)
    elif method.startswith("modelopt") or "quantization" in config or "quant_algo" in config:
        yield from _modelopt(config, saved, engine)


# ── gptq ───────────────────────────────────────────────────────────────────────────────────


def _gptq(config: Config, saved: list[Asked], engine: list[Asked]) -> Iterator[tuple[str, Asked, Verdict]]:
    dynamic = mapping_of(config, "dynamic")
    listed = flat(config.get("modules_in_block_to_quantize"))
    mapped = [_map(each) for each in listed]
    skipped = set(flat(config.get("modules_to_not_convert")))
    head = bool(config.get("lm_head"))

    def by_dynamic(name: str) -> bool:
        return (
            (head or not name.endswith("lm_head")) and not excluded_by(dynamic, name) and name not in skipped
        )

    def effective(name: str) -> bool | None:
        if not by_dynamic(name):
            return False
        return _in_block(name, mapped)

    for asked in saved:
        yield "dynamic", asked, by_dynamic
    for asked in saved if listed else []:
        yield "modules_in_block_to_quantize", asked, lambda name: by_dynamic(name) and _in_block(name, listed)
    for asked in engine:
        yield "dynamic and modules_in_block_to_quantize", asked, effective


def excluded_by(dynamic: Config, name: str) -> bool:
    """Whether GPTQ's `dynamic` leaves `name` out: the first pattern that matches decides."""
    for pattern in dynamic:
        text = str(pattern)
        if _matches(text.removeprefix("-:").removeprefix("+:"), name):
            return text.startswith("-:")
    return False


def _matches(pattern: str, name: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is not None and compiled.match(name) is not None


def flat(value: Any) -> list[str]:
    """The strings of a list of lists, of any depth."""
    if isinstance(value, str):
        return [value]
    return [text for each in value for text in flat(each)] if isinstance(value, list) else []


def _in_block(name: str, listed: list[str]) -> bool | None:
    """`is_layer_gptq_quantized`: substrings; None where the members of a fused layer differ."""
    if not listed:
        return True
    last = name.rpartition(".")[2]
    members = [name.replace(last, each) for each in FUSED[last]] if last in FUSED else [name]
    states = {any(entry in member for entry in listed) for member in members}
    return states.pop() if len(states) == 1 else None


# ── auto-round ─────────────────────────────────────────────────────────────────────────────


def _auto_round(
    config: Config, saved: list[Asked], engine: list[Asked]
) -> Iterator[tuple[str, Asked, Verdict]]:
    extra = {k: v for k, v in mapping_of(config, "extra_config").items() if isinstance(v, dict)}
    blocks = config.get("block_name_to_quantize") or config.get("to_quant_block_names")
    listed = blocks.split(",") if isinstance(blocks, str) else flat(blocks)
    listed = [each.strip() for each in listed]
    default = default_bits(config)
    mapped_extra = {_map(k): v for k, v in extra.items()}
    mapped_blocks = [_map(each) for each in listed]
    for asked in saved:
        in_blocks = [] if asked.name.startswith("mtp.") and not asked.packed else listed
        where = "extra_config" if not in_blocks else "extra_config and block_name_to_quantize"
        yield where, asked, lambda name, given=in_blocks: resolve_bits(name, extra, given, default)  # type: ignore[misc]
    for asked in engine:
        yield (
            "extra_config and block_name_to_quantize (fused)",
            asked,
            lambda name: resolve_bits(name, mapped_extra, mapped_blocks, default),
        )


def resolve_bits(name: str, extra: Config, blocks: list[str], default: int) -> bool | None:
    """Whether auto-round's config gives `name` fewer than 16 bits; None where a fused layer is torn."""
    for key in (name, f"model.{name}"):
        if key in extra and _bits(extra[key], default) >= 16:
            return False
    if name in extra:
        return _bits(extra[name], default) < 16
    for key, given in extra.items():
        if name.endswith(f".{key}"):
            return _bits(given, default) < 16
    quantized = not name.endswith("lm_head")
    if blocks:
        quantized = any(name.startswith(each) for each in blocks)
    fallback = default if quantized else 16
    for fused, members in FUSED.items():
        if name.endswith(f".{fused}"):
            names = [name[: -len(fused)] + member for member in members]
            if any(explicit(each, extra) is not None for each in names):
                states = {_bits(explicit(each, extra) or {}, fallback) < 16 for each in names}
                return states.pop() if len(states) == 1 else None
    found = explicit(name, extra)
    return _bits(found, fallback) < 16 if found is not None else fallback < 16


def _bits(given: Config, default: int) -> int:
    bits = given.get("bits", default)
    return bits if isinstance(bits, int) else default


def explicit(name: str, extra: Config) -> Config | None:
    """AutoRound's entry for a module: by its full name, else the first pattern found in it."""
    if name in extra:
        found: Config = extra[name]
        return found
    for pattern, given in extra.items():
        if set(pattern) & _REGEX_SIGNS and _searches(pattern, name):
            return dict(given)
    return None


def matches(pattern: str, name: str) -> bool:
    """Whether GPTQ's `dynamic` pattern matches at the start of the name, as vLLM's `re.match` does."""
    compiled = _compiled(pattern)
    return compiled is not None and compiled.match(name) is not None


def _searches(pattern: str, name: str) -> bool:
    compiled = _compiled(pattern)
    return compiled is not None and compiled.search(name) is not None


@lru_cache(maxsize=MAX_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """A pattern of a config; None for one that is no regular expression. A costly one is refused."""
    repeated = len(_REPEATED.findall(pattern.replace("(?:", "(")))
    if len(pattern) > MAX_PATTERN or _COSTLY.search(pattern) or repeated > MAX_REPEATED:
        raise InputError(
            f"a pattern in the quantization config could take forever to match: {pattern[:120]!r}",
            why="repetitions are nested or too many; it may be hostile",
            fix="write plain patterns, such as '-:^mtp\\..*'",
        )
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return None


# ── modelopt ───────────────────────────────────────────────────────────────────────────────


def ignored_of(config: Config) -> list[str]:
    """ModelOpt's list: `ignore` in config.json, `exclude_modules` in hf_quant_config.json."""
    inner = config.get("quantization")
    value = inner.get("exclude_modules") if isinstance(inner, dict) else config.get("ignore")
    return [str(each) for each in value] if isinstance(value, list) else []


def _modelopt(
    config: Config, saved: list[Asked], engine: list[Asked]
) -> Iterator[tuple[str, Asked, Verdict]]:
    ignored = ignored_of(config)
    where = "exclude_modules" if isinstance(config.get("quantization"), dict) else "ignore"
    mapped = to_listed(ignored)
    for asked in saved:
        yield where, asked, lambda name: not any(fnmatchcase(name, each) or each == name for each in ignored)
    for asked in engine:
        yield f"{where} (fused)", asked, lambda name: not_excluded(name, mapped)


def to_listed(ignored: list[str]) -> list[str]:
    """ModelOpt's list after vLLM's `apply_vllm_mapper`: `x*` split in two, prefixes renamed."""
    mapped: list[str] = []
    for each in ignored:
        split = len(each) >= 2 and each.endswith("*") and each[-2] != "."
        mapped += [_map(part) for part in ([each[:-1], each[:-1] + ".*"] if split else [each])]
    return mapped


def not_excluded(name: str, ignored: list[str]) -> bool | None:
    """`is_layer_excluded`, negated; None where the members of a fused layer differ."""
    last = name.rpartition(".")[2]
    if last in FUSED and name not in ignored:
        states = {name.replace(last, member) in ignored for member in FUSED[last]}
        if len(states) == 2:
            return None
        skipped = states.pop()
    else:
        skipped = name in ignored
    inner = name.removeprefix("language_model.")
    by_part = any(each != name and (each in name or each in inner) for each in ignored)
    return not (skipped or by_part or any(fnmatchcase(name, each) for each in ignored))
