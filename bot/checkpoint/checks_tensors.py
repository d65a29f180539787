"""The audit's checks about tensors: which there are, in which precision, with which bits.

Each is a function over `Facts` whose docstring is its title. None reads a byte.
"""

from __future__ import annotations

from bot.checkpoint.compare import Comparison
from bot.checkpoint.distance import ModuleDistance
from bot.checkpoint.facts import Facts
from bot.checkpoint.inventory import IN_PROJ_AB, KV_SCALE, mtp_layers, part_of
from bot.checkpoint.packing import contradiction
from bot.checkpoint.verdict import (
    HEADERS_ONLY,
    NO_BASE,
    Verdict,
    failed,
    none_of,
    not_applicable,
    passed,
    skipped,
    some,
)

MAX_RELATIVE_ERROR = 0.3
MIN_ROW_COSINE = 0.8
# Rounding is even-handed: a mean of a quarter of a scale over a module is no rounding.
# Seen on real outputs: gain 0.98 to 1.00 (rows 0.94 to 1.03), worst group 0.29.
MAX_GAIN_ERROR = 0.08
MAX_ROW_GAIN_ERROR = 0.3
MAX_GROUP_ERROR = 0.9
MAX_SHIFT = 0.25
# A row may be worse than its module, but not lost: a scale of the wrong size does this.
ROW_ERROR_FACTOR = 3.0


def tensors_missing(facts: Facts) -> Verdict:
    """Every tensor of the base is there, as itself or packed"""
    tensors, modules = facts.checkpoint.tensors, facts.modules
    broken = [f"{m.name}.{suffix}" for m in modules.values() for suffix in m.missing]
    broken += _lost_indexes(facts)
    index = facts.checkpoint.index
    named = [name for name in (index.weight_map if index else ()) if name not in tensors]
    expected = [name for name in (facts.base.tensors if facts.base else ()) if not _accounted(facts, name)]
    lost = sorted({name for name in broken + named + expected if part_of(name) != "mtp" or name in broken})
    if lost:
        return failed(f"{some(lost, 'missing')}", lost)
    if facts.base is None:
        return skipped(NO_BASE)
    return passed(
        f"all {len(facts.base.tensors):,} tensors of the base are accounted for (MTP: see mtp.missing)"
    )


def _accounted(facts: Facts, name: str) -> bool:
    return name in facts.checkpoint.tensors or name.removesuffix(".weight") in facts.modules


def _lost_indexes(facts: Facts) -> list[str]:
    """g_idx tensors that are gone although the other modules have theirs."""
    integers = [m for m in facts.modules.values() if m.kind == "int"]
    lacking = [m for m in integers if "g_idx" not in m.tensors]
    return [f"{m.name}.g_idx" for m in lacking] if len(lacking) * 2 < len(integers) else []


def tensors_orphan(facts: Facts) -> Verdict:
    """No tensor stands twice, unnamed by the index, or without counterpart in the base"""
    twice = [
        f"{name}.weight" for name, m in facts.modules.items() if m.kind == "int" and _has_weight(facts, name)
    ]
    twice += facts.checkpoint.duplicates
    unnamed = [name for name in _unindexed(facts) if part_of(name) != "mtp"]
    unknown = [name for name in facts.checkpoint.tensors if facts.base and not _explained(facts, name)]
    orphans = sorted({*twice, *unnamed, *unknown})
    if orphans:
        return failed(some(orphans, "that nothing explains or that stand twice"), orphans)
    return passed("every tensor is explained") if facts.base else skipped(NO_BASE)


def _has_weight(facts: Facts, module: str) -> bool:
    return f"{module}.weight" in facts.checkpoint.tensors


def _unindexed(facts: Facts) -> list[str]:
    index = facts.checkpoint.index
    return [name for name in facts.checkpoint.tensors if name not in index.weight_map] if index else []


def _explained(facts: Facts, name: str) -> bool:
    assert facts.base is not None
    if name in facts.base.tensors:
        return True
    module, _, suffix = name.rpartition(".")
    packed = facts.modules.get(module)
    if packed is not None and suffix in packed.tensors:
        return f"{module}.weight" in facts.base.tensors
    return KV_SCALE.fullmatch(name) is not None


def tensors_kept_bits(facts: Facts) -> Verdict:
    """Kept tensors of the language model equal the base's, bit for bit"""
    wrong = sorted({f"{name}.weight" for name in facts.wrongly_packed})
    if wrong:
        return failed(f"packed although the recipe keeps it: {some(wrong)}", wrong)
    return _bits(facts, facts.kept, "kept language tensors")


def mtp_missing(facts: Facts) -> Verdict:
    """The MTP head that the base has is there"""
    have = {name for name in facts.checkpoint.tensors if part_of(name) == "mtp"}
    if facts.base is not None:
        wanted = {name for name in facts.base.tensors if part_of(name) == "mtp"}
        if not wanted:
            return not_applicable("the base has no MTP head")
        lost = sorted(name for name in wanted if not _accounted(facts, name))
        return none_of(lost, good=f"all {len(wanted)} MTP tensors are there", bad="MTP tensors are missing")
    promised = mtp_layers(facts.checkpoint.config)
    if not promised:
        return passed("the config promises no MTP head") if not have else skipped(NO_BASE)
    if not have:
        return failed(f"the config promises {promised} MTP layer(s), no mtp.* tensor is there")
    return skipped(NO_BASE)


def mtp_unindexed(facts: Facts) -> Verdict:
    """Every mtp.* tensor is named by the index"""
    have = [name for name in facts.checkpoint.tensors if part_of(name) == "mtp"]
    if not have:
        if facts.base is not None and not any(part_of(name) == "mtp" for name in facts.base.tensors):
            return not_applicable("the base has no MTP head")
        return passed("there is no mtp.* tensor to name; see mtp.missing")
    unnamed = sorted(name for name in _unindexed(facts) if part_of(name) == "mtp")
    if facts.checkpoint.index is None and len(facts.checkpoint.shards) > 1:
        files = {facts.checkpoint.tensors[name].file for name in have}
        unnamed = have if files - {"model.safetensors"} else []
    return none_of(unnamed, good=f"all {len(have)} are", bad="an engine would not find these")


def mtp_fc_packed(facts: Facts) -> Verdict:
    """mtp.fc is not packed"""
    packed = [entry.name for name, m in facts.modules.items() if name == "mtp.fc" for entry in m.entries]
    if not any(part_of(name) == "mtp" for name in facts.checkpoint.tensors) and _base_lacks(facts, "mtp"):
        return not_applicable("the base has no MTP head")
    return none_of(
        packed, good="mtp.fc.weight is in full precision", bad="vLLM drops a packed mtp.fc silently"
    )


def _base_lacks(facts: Facts, part: str) -> bool:
    return facts.base is not None and not any(part_of(name) == part for name in facts.base.tensors)


def mtp_bits(facts: Facts) -> Verdict:
    """The MTP head equals the base's, bit for bit"""
    packed = sorted(name for name in facts.modules if part_of(name) == "mtp" and name != "mtp.fc")
    if packed:
        return failed(f"packed although it is kept: {some(packed)}", packed)
    if _base_lacks(facts, "mtp"):
        return not_applicable("the base has no MTP head")
    return _bits(facts, facts.mtp, "MTP tensors")


def visual_bits(facts: Facts) -> Verdict:
    """The vision tower equals the base's, bit for bit"""
    if _base_lacks(facts, "visual"):
        return not_applicable("the base has no vision tower")
    return _bits(facts, facts.visual, "vision tensors")


def _bits(facts: Facts, comparison: Comparison | None, what: str) -> Verdict:
    if facts.headers_only:
        return skipped(HEADERS_ONLY)
    if comparison is None:
        return skipped(NO_BASE)
    share = "" if comparison.share >= 1 else f" ({comparison.share:.1%} of the bytes were compared)"
    if comparison.differing or comparison.unread:
        first = [f"{name} {why}" for name, why in comparison.differing.items()]
        first += [f"{name} cannot be read, its shard is damaged" for name in comparison.unread]
        return failed(some(first) + share, [*comparison.differing, *comparison.unread])
    return passed(f"{comparison.bytes_total:,} bytes of {what} are the base's{share}")


def precision_visual(facts: Facts) -> Verdict:
    """No part of the vision tower is packed"""
    packed = [
        entry.name for name, m in facts.modules.items() if part_of(name) == "visual" for entry in m.entries
    ]
    if _base_lacks(facts, "visual") and not packed:
        return not_applicable("the base has no vision tower")
    return none_of(packed, good="it is in the base's precision", bad="images would be lost")


def precision_in_proj_ab(facts: Facts) -> Verdict:
    """linear_attn.in_proj_a and in_proj_b are not packed"""
    packed = [
        entry.name for name, m in facts.modules.items() if IN_PROJ_AB.fullmatch(name) for entry in m.entries
    ]
    return none_of(
        packed, good="the gates are in the base's precision", bad="the recurrence's gates are packed"
    )


def scales_finite(facts: Facts) -> Verdict:
    """No scale is NaN or infinite"""
    if facts.scales is None:
        return skipped(HEADERS_ONLY)
    share = "" if facts.scales.share >= 1 else f" ({facts.scales.share:.1%} of them were read)"
    return none_of(facts.scales.nonfinite, good=f"all are finite{share}", bad="NaN or Inf in")


def scales_zero(facts: Facts) -> Verdict:
    """No scale is zero where weights hang on it"""
    if facts.scales is None:
        return skipped(HEADERS_ONLY)
    share = "" if facts.scales.share >= 1 else f" ({facts.scales.share:.1%} of them were read)"
    return none_of(facts.scales.zero, good=f"none silences weights{share}", bad="zero in")


def gidx_trivial(facts: Facts) -> Verdict:
    """g_idx is trivial wherever desc_act is false"""
    found = facts.group_indexes
    if found is None:
        return skipped(HEADERS_ONLY)
    desc_act = (facts.checkpoint.quantization or {}).get("desc_act") is True
    if found.nontrivial and not desc_act:
        return failed(
            f"engines ignore g_idx when desc_act is false: {some(found.nontrivial)}", found.nontrivial
        )
    note = "; desc_act is true, which current vLLM refuses" if desc_act else ""
    return passed(f"{found.num_read:,} read, {len(found.nontrivial):,} not trivial{note}")


# ── distance ───────────────────────────────────────────────────────────────────────────────


def weights_distance(facts: Facts) -> Verdict:
    """Dequantized weights are near the base's"""
    wrong = _contradicting(facts)
    if wrong:
        said = (
            contradiction(facts.label, facts.packing) or f"their zero points are not those of {facts.label}"
        )
        return failed(f"{said}: {some(wrong)}", wrong)
    broken = [name for name, module in facts.modules.items() if not module.missing and not module.sound]
    if broken:
        return failed(f"dtypes and shapes of their tensors do not fit together: {some(broken)}", broken)
    if facts.headers_only:
        return skipped(HEADERS_ONLY)
    if facts.base is None:
        return skipped(NO_BASE)
    far = {d.name: why for d in facts.distances if (why := too_far(facts, d))}
    far |= facts.unmeasured
    if far:
        return failed(some(f"{name} {why}" for name, why in far.items()), far)
    if not facts.distances:
        return passed("nothing is packed")
    worst = max(facts.distances, key=lambda d: d.relative_error)
    return passed(f"{len(facts.distances):,} modules, at most {worst.relative_error:.4f} ({worst.name})")


def _contradicting(facts: Facts) -> list[str]:
    """Modules whose zero points are, by their bytes, not what the config's label makes of them."""
    expected = {
        "gptq": "minus_one",
        "auto_round:auto_gptq": "minus_one",
        "gptq_v2": "as_is",
        "auto_round": "as_is",
    }
    convention = expected.get(facts.label)
    if convention is None:
        return []
    symmetric = (facts.checkpoint.quantization or {}).get("sym") is True
    opposite = [name for name, zeros in facts.zeros.items() if zeros not in (convention, "undecided")]
    torn = [name for name, zeros in facts.zeros.items() if zeros == "undecided" and symmetric]
    return sorted(opposite + torn)


def too_far(facts: Facts, distance: ModuleDistance) -> str:
    """Why a module is not what rounding makes of the base's; empty when it is."""
    thresholds = facts.recipe.thresholds if facts.recipe else None
    limit = thresholds.max_relative_error if thresholds else MAX_RELATIVE_ERROR
    cosine = thresholds.min_row_cosine if thresholds else MIN_ROW_COSINE
    if not distance.relative_error <= limit:
        return f"has relative error {distance.relative_error:.3f}, above {limit}"
    if not distance.min_row_cosine >= cosine:
        return (
            f"row {distance.worst_row} has cosine {distance.min_row_cosine:.3f} with the base's, not {cosine}"
        )
    if distance.shift is not None and abs(distance.shift) > MAX_SHIFT:
        return f"is shifted by {distance.shift:+.2f} scales: the zero point is off"
    if abs(distance.gain - 1) > MAX_GAIN_ERROR or distance.max_row_gain_error > MAX_ROW_GAIN_ERROR:
        return (
            f"is scaled by {distance.gain:.3f}, a row by up to {distance.max_row_gain_error:.3f} more or less"
        )
    if distance.max_group_error > MAX_GROUP_ERROR:
        return f"has a group with relative error {distance.max_group_error:.3f}"
    if distance.max_row_error > ROW_ERROR_FACTOR * limit:
        return f"has a row with relative error {distance.max_row_error:.3f}"
    return ""
