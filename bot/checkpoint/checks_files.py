"""The audit's checks about files: config and lists, index, shards, side files, what must not be there."""

from __future__ import annotations

import re
from typing import Any

from bot.checkpoint.claims import wrong_claims
from bot.checkpoint.facts import Facts
from bot.checkpoint.inventory import total_bytes
from bot.checkpoint.lists import disagreements, ignored_of, mixed
from bot.checkpoint.verdict import NO_BASE, Verdict, failed, passed, skipped, some

# Fields that decide how an engine reads the weights: copies must agree on them.
_SHAPING = (
    "bits",
    "group_size",
    "sym",
    "desc_act",
    "lm_head",
    "checkpoint_format",
    "packing_format",
    "quant_method",
)
_DECIDING = ("bits", "group_size", "sym", "desc_act")
_LISTS = ("dynamic", "extra_config", "block_name_to_quantize")


def config_lists(facts: Facts) -> Verdict:
    """The lists of the config, under split and fused names, agree with the tensors"""
    config = facts.checkpoint.quantization
    if config is None:
        if not facts.modules:
            return passed("nothing is packed, and no config says otherwise")
        return failed(
            "config.json has no quantization_config, so that engines read packed weights as plain ones"
        )
    problems: list[tuple[str, tuple[str, ...]]] = []
    for asked in mixed(facts.linears):
        problems.append((f"{asked.name} is fused from packed and unpacked layers", asked.modules))
    for file, each in {"config.json": config, **facts.checkpoint.standalone}.items():
        problems += [(str(d), d.modules) for d in disagreements(file, each, facts.linears)]
    problems += [(text, ()) for text in _copies(facts, config)]
    problems += wrong_claims(facts, config)
    problems += [(f"the recipe quantizes {name}, it is not packed", (name,)) for name in _left_out(facts)]
    if problems:
        modules = dict.fromkeys(name for _, names in problems for name in names)
        return failed(some([text for text, _ in problems], "disagreements"), modules)
    return passed(f"{len(facts.linears):,} Linears, {len(facts.modules):,} packed: every list says so")


def _left_out(facts: Facts) -> list[str]:
    if not facts.modules:
        return []
    return [name for name, packed in facts.linears.items() if not packed and facts.covered(name)]


def _copies(facts: Facts, config: dict[str, Any]) -> list[str]:
    """Where a stand-alone file and config.json's quantization_config differ."""
    found = []
    for file, copy in facts.checkpoint.standalone.items():
        if isinstance(copy.get("quantization"), dict):
            inner = copy["quantization"]
            if set(ignored_of(copy)) != set(ignored_of(config)):
                found.append(f"{file}: exclude_modules differs from config.json's ignore")
            if inner.get("quant_algo") != config.get("quant_algo"):
                found.append(f"{file}: quant_algo differs from config.json")
            continue
        both = [key for key in (*_SHAPING, "modules_in_block_to_quantize") if _differs(copy, config, key)]
        lists = [key for key in _LISTS if (copy.get(key) or None) != (config.get(key) or None)]
        found += [f"{file}: {key} differs from config.json" for key in both + lists]
    return found


def _differs(one: dict[str, Any], other: dict[str, Any], key: str) -> bool:
    """Whether both say it and differ, or only one says what decides how the tensors are read."""
    if key in _DECIDING and (key in one) != (key in other):
        return True
    return one.get(key) is not None and other.get(key) is not None and one[key] != other[key]


def config_architecture(facts: Facts) -> Verdict:
    """config.json is the base's, plus quantization_config"""
    if not facts.checkpoint.has_config:
        return failed("config.json is a symlink, which is never read")
    if facts.base is None:
        return skipped(NO_BASE)
    mine = {k: v for k, v in facts.checkpoint.config.items() if k != "quantization_config"}
    theirs = {k: v for k, v in facts.base.config.items() if k != "quantization_config"}
    fields = differing_fields(mine, theirs)
    if fields:
        return failed(f"differs from the base's in {some(fields)}")
    return passed(f"{', '.join(map(str, mine.get('architectures') or ['?']))}, field by field")


def differing_fields(mine: Any, theirs: Any, path: str = "") -> list[str]:
    """The dotted paths at which two JSON documents differ; types count (1 is not true)."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        found = []
        for key in sorted({*mine, *theirs}):
            inner = f"{path}.{key}" if path else key
            if key not in mine or key not in theirs:
                found.append(inner)
            else:
                found += differing_fields(mine[key], theirs[key], inner)
        return found
    same_kind = isinstance(mine, bool) == isinstance(theirs, bool)
    return [] if mine == theirs and same_kind else [path]


# ── index and shards ───────────────────────────────────────────────────────────────────────


def index_total_size(facts: Facts) -> Verdict:
    """total_size in the index is the sum of tensor bytes"""
    index = facts.checkpoint.index
    if index is None:
        return passed("there is no index to state it")
    if _absent_shards(facts):
        return skipped("shards are missing, so that the sum is not known")
    tensors = facts.checkpoint.tensors
    actual = total_bytes(tensors.values())
    indexed = total_bytes(entry for name, entry in tensors.items() if name in index.weight_map)
    stated = index.total_size
    if isinstance(stated, bool) or not isinstance(stated, (int, float)):
        return failed(f"the index states {stated!r}; the tensors have {actual:,} bytes")
    if stated not in (actual, indexed):
        return failed(f"the index states {stated:,}; the tensors have {actual:,} bytes")
    return passed(f"{actual:,} bytes")


def index_paths(facts: Facts) -> Verdict:
    """The index names files inside the checkpoint, and each tensor where it stands"""
    checkpoint, index = facts.checkpoint, facts.checkpoint.index
    if index is None:
        if len(checkpoint.shards) > 1:
            return failed(
                f"there are {len(checkpoint.shards)} shards and no index, so that engines load one or none"
            )
        return passed("one shard, which needs no index")
    if index.outside:
        tensors = [name for name, path in index.weight_map.items() if path in index.outside]
        return failed(f"leads outside the checkpoint: {some(map(repr, index.outside))}", tensors)
    wrong = [
        name
        for name, path in index.weight_map.items()
        if path in checkpoint.shards and name in checkpoint.tensors and not _stands_in(facts, name, path)
    ]
    if wrong:
        return failed(f"the index puts them into files that do not hold them: {some(wrong)}", wrong)
    return passed(f"{len(index.weight_map):,} tensors in {len(index.inside):,} files")


def _stands_in(facts: Facts, name: str, path: str) -> bool:
    places = [facts.checkpoint.tensors[name], *facts.checkpoint.duplicates.get(name, ())]
    return any(entry.file == path for entry in places)


def _absent_shards(facts: Facts) -> list[str]:
    """Shards that the index names, or that the numbering of the others demands, and that are not there."""
    files = facts.checkpoint.source.files()
    index = facts.checkpoint.index
    if index is not None:
        return sorted(path for path in index.inside if path not in files)
    wanted = set()
    for path in facts.checkpoint.shards:
        if match := re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", path):
            count = min(int(match[3]), 99_999)
            wanted |= {f"{match[1]}-{i:05d}-of-{match[3]}.safetensors" for i in range(1, count + 1)}
    return sorted(wanted - set(files))


def shards_missing(facts: Facts) -> Verdict:
    """Every shard that the index names is there"""
    absent = _absent_shards(facts)
    if absent:
        index, gone = facts.checkpoint.index, set(absent)
        tensors = [name for name, path in (index.weight_map if index else {}).items() if path in gone]
        return failed(f"{some(absent)}: not there", tensors)
    return passed(f"{len(facts.checkpoint.shards):,} shards")


def shards_truncated(facts: Facts) -> Verdict:
    """Every shard is as long as its header says"""
    cut = [shard for shard in facts.checkpoint.shards.values() if shard.truncated]
    if cut:
        tensors = sorted(name for shard in cut for name in shard.cut)
        return failed(some(f"{shard.file}: {shard.truncated}" for shard in cut), tensors)
    return passed("file sizes match the headers")


def shards_overlap(facts: Facts) -> Verdict:
    """The tensors of a shard neither overlap nor leave holes"""
    torn = [shard for shard in facts.checkpoint.shards.values() if shard.overlap]
    if torn:
        tensors = sorted(name for shard in torn for name in shard.overlapping)
        return failed(some(f"{shard.file}: {shard.overlap}" for shard in torn), tensors)
    return passed("offsets are contiguous")


# ── side files ─────────────────────────────────────────────────────────────────────────────


def sidefiles_missing(facts: Facts) -> Verdict:
    """Every side file of the base is there"""
    found = facts.side_files
    return skipped(NO_BASE) if found is None else _files(found.missing, "all are there", "missing")


def sidefiles_differ(facts: Facts) -> Verdict:
    """Side files are the base's, byte for byte"""
    found = facts.side_files
    if found is None:
        return skipped(NO_BASE)
    wrong = [*found.differing, *(f"{path} (the base has none)" for path in found.extra)]
    return _files(wrong, "all are the base's", "not the base's")


def _files(paths: Any, good: str, bad: str) -> Verdict:
    return failed(f"{bad}: {some(paths)}") if paths else passed(good)


def files_local_path(facts: Facts) -> Verdict:
    """No file names a path of the machine it was made on"""
    if facts.local_paths:
        return failed(some(f"{file}: {path[:200]}" for file, path in facts.local_paths))
    return passed("none found" if facts.scanned_all else "none found in headers and configs")


def files_pickle(facts: Facts) -> Verdict:
    """No file can run code when it is loaded"""
    return _files(facts.pickles, "none found", "may run code when loaded")


def files_symlink(facts: Facts) -> Verdict:
    """Every file is a regular file"""
    odd = [path for path, entry in facts.checkpoint.source.files().items() if entry.kind != "file"]
    return _files(odd, "all are", "symlinks or special files")
