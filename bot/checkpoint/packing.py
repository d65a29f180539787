"""Which packing a module has, decided by its bytes, and how its weights are decoded.

Integer packings (GPTQModel 7.6 `nn_modules/qlinear/__init__.py`; auto-round 0.16
`auto_round_extension/torch/qlinear_torch{,_zp}.py`), b bits, weight W [out, in]:

    qweight  int32 [in * b / 32, out]       consecutive inputs in one word, low bits first
    qzeros   int32 [groups, out * b / 32]   consecutive outputs in one word, low bits first
    scales   fp16  [groups, out]
    g_idx    int32 [in]                     the group of each input; absent in auto_round

    W[o, i] = (q[i, o] - z[g, o]) * scales[g, o]      with g = g_idx[i]

Two conventions exist for z, and nothing but the stored bytes tells them apart:

    gptq, auto_round:auto_gptq   qzeros holds z - 1   symmetric 4 bits: 0x77777777
    gptq_v2, auto_round          qzeros holds z       symmetric 4 bits: 0x88888888

Reading one as the other moves every weight by one scale: 35% relative error on 4 bits, and a mean
shift of exactly one scale, which no rounding gives. For asymmetric weights no constant decides:
the nearer to the base does, else the label. The stored-minus-one form is undone on whole words, with
carry, as `convert_gptq_v1_to_v2_format` does it.

NVFP4 (modelopt 0.47 `torch/quantization/qtensor/nvfp4_tensor.py`):

    weight          uint8   [out, in / 2]   two E2M1 codes a byte, the low half is the earlier input
    weight_scale    E4M3    [out, in / 16]
    weight_scale_2  float32 []
    input_scale     float32 []              for activations; not part of W

    W[o, i] = e2m1(weight[o, i]) * weight_scale[o, i // 16] * weight_scale_2
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bot.checkpoint.files import Source
from bot.checkpoint.headers import TensorEntry
from bot.checkpoint.inventory import PackedModule
from bot.errors import InputError

if TYPE_CHECKING:
    from bot.checkpoint.numbers import Floats, Words

Packing = Literal["gptq", "gptq_v2", "auto_round:auto_gptq", "auto_round", "nvfp4", "none", "unknown"]
Zeros = Literal["minus_one", "as_is", "undecided"]

STORED_MINUS_ONE: dict[str, bool] = {
    "gptq": True,
    "auto_round:auto_gptq": True,
    "gptq_v2": False,
    "auto_round": False,
}


def label_of(config: Mapping[str, Any] | None) -> Packing:
    """The packing that a quantization_config names; `unknown` when it names none that is read here."""
    if config is None:
        return "none"
    method = str(config.get("quant_method", "")).lower().replace("_", "-")
    if method == "gptq" or (not method and "bits" in config and "packing_format" not in config):
        form = str(config.get("checkpoint_format") or config.get("format") or "gptq").lower()
        return "gptq_v2" if form == "gptq_v2" else "gptq" if form in ("gptq", "marlin") else "unknown"
    if method in ("auto-round", "intel/auto-round") or (not method and "packing_format" in config):
        return _auto_round_label(str(config.get("packing_format") or "auto_round:auto_gptq").lower())
    if method.startswith("modelopt") or "NVFP4" in str(config.get("quant_algo", "")).upper():
        return "nvfp4" if "NVFP4" in str(config.get("quant_algo", "NVFP4")).upper() else "unknown"
    return "unknown"


def _auto_round_label(form: str) -> Packing:
    if "gptqmodel" in form or form in ("auto_round", "auto_round:tritonv2", "auto_round:exllamav2"):
        return "auto_round"
    return "auto_round:auto_gptq" if "gptq" in form else "unknown"


def midpoints(bits: int) -> tuple[int, int]:
    """The words of symmetric zero points: stored minus one, and stored as is."""
    each = 1 << (bits - 1)
    ones = sum(1 << shift for shift in range(0, 32, bits))
    return (each - 1) * ones, each * ones


def zeros_of(words: Words, bits: int) -> Zeros:
    """The convention of `qzeros` words; `undecided` when they are no symmetric constant."""
    minus_one, as_is = midpoints(bits)
    if words.size and (words == minus_one).all():
        return "minus_one"
    return "as_is" if words.size and (words == as_is).all() else "undecided"


def packing_of(kinds: Iterable[str], zeros: Mapping[str, Zeros], label: Packing) -> Packing:
    """A whole checkpoint: kinds from headers, conventions from bytes, the family from the label."""
    counted = Counter(kinds)
    if not counted:
        return "none"
    if counted.most_common(1)[0][0] != "int":
        return "nvfp4" if counted.most_common(1)[0][0] == "nvfp4" else "unknown"
    decided = Counter(each for each in zeros.values() if each != "undecided")
    family = "auto_round" if label.startswith("auto_round") else "gptq"
    if not decided:
        return label if label in STORED_MINUS_ONE else "gptq"
    minus_one = decided["minus_one"] >= decided["as_is"]
    names: dict[tuple[str, bool], Packing] = {
        ("gptq", True): "gptq",
        ("gptq", False): "gptq_v2",
        ("auto_round", True): "auto_round:auto_gptq",
        ("auto_round", False): "auto_round",
    }
    return names[family, minus_one]


def contradiction(label: Packing, decided: Packing) -> str:
    """Why an engine that trusts the label would read other weights; empty when it would not."""
    if label in ("none", "unknown") or decided in ("none", "unknown") or label == decided:
        return ""
    return f"the config calls the packing {label}, its bytes are {decided}"


# ── decoding ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Block:
    """Rows (outputs) [r0, r1) and columns (inputs) [c0, c1) of a weight; columns on group borders."""

    r0: int
    r1: int
    c0: int
    c1: int


def whole(module: PackedModule) -> Block:
    """All of a module's weight."""
    return Block(r0=0, r1=module.shape[0], c0=0, c1=module.shape[1])


def read_matrix(source: Source, entry: TensorEntry, block: Block, item_bytes: int) -> bytes:
    """Rows and columns (in stored elements of `item_bytes`) of a 2-D tensor, row-major.

    A folder gives just those bytes; a Hub repo gives whole rows in one range, cut here.
    """
    width = entry.shape[1] * item_bytes
    c0, c1 = block.c0 * item_bytes, block.c1 * item_bytes
    start, rows = entry.start + block.r0 * width, block.r1 - block.r0
    if c1 - c0 == width:
        return source.read(entry.file, start, rows * width)
    strided = getattr(source, "read_strided", None)
    if strided is not None:
        result: bytes = strided(entry.file, start + c0, c1 - c0, width, rows)
        return result
    data = source.read(entry.file, start, rows * width)
    return b"".join(data[i * width + c0 : i * width + c1] for i in range(rows))


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A block of W [rows, columns] in float32, and the scale of each of its weights [rows, groups]."""

    weight: Floats
    scale: Floats
    group_size: int


def decode_block(source: Source, module: PackedModule, block: Block, *, minus_one: bool) -> Decoded:
    """The weights of `block`; `minus_one` says how zero points are stored (integer packings only).

    Raises InputError when the module's tensors do not fit together.
    """
    if not module.sound:
        raise InputError(
            f"{module.name}: dtypes and shapes of its tensors do not fit together",
            where=source.label,
            why="a tensor was lost or replaced",
            fix="quantize it again",
        )
    import numpy as np

    # A NaN or Inf scale is the scales' check to report; here it only has to come through.
    with np.errstate(invalid="ignore", over="ignore"):
        if module.kind == "nvfp4":
            return _decode_nvfp4(source, module, block)
        return _decode_int(source, module, block, minus_one)


def _decode_int(source: Source, module: PackedModule, block: Block, minus_one: bool) -> Decoded:
    import numpy as np

    from bot.checkpoint.numbers import decode, unpack_rows

    bits, group = module.bits, module.group_size
    columns, per_word = block.c1 - block.c0, 32 // bits
    rows = block.r1 - block.r0
    tensors = module.tensors
    words = read_matrix(source, tensors["qweight"], _transposed(block, per_word), 4)
    codes = unpack_rows(np.frombuffer(words, "<u4").reshape(columns // per_word, rows), bits)
    index = _groups(source, module, block)
    first, last = int(index.min()), int(index.max()) + 1
    groups = Block(r0=first, r1=last, c0=block.r0, c1=block.r1)
    entry = tensors["scales"]
    item = entry.num_bytes // max(1, entry.num_elements)
    scales = decode(read_matrix(source, entry, groups, item), entry.dtype).reshape(last - first, rows)
    zeros = _zeros(source, module, groups, minus_one)
    at = index - first
    weight = (codes.astype(np.float32) - zeros[at]) * scales[at]
    return Decoded(weight=np.ascontiguousarray(weight.T), scale=scales.T, group_size=group)


def _transposed(block: Block, per_word: int) -> Block:
    return Block(r0=block.c0 // per_word, r1=block.c1 // per_word, c0=block.r0, c1=block.r1)


def _groups(source: Source, module: PackedModule, block: Block) -> Any:
    import numpy as np

    entry = module.tensors.get("g_idx")
    groups = module.shape[1] // module.group_size
    if entry is None or entry.shape != (module.shape[1],) or entry.dtype != "I32":
        return np.arange(block.c0, block.c1) // module.group_size
    data = source.read(entry.file, entry.start + 4 * block.c0, 4 * (block.c1 - block.c0))
    index = np.frombuffer(data, "<i4").astype(np.int64)
    if index.size and (index.min() < 0 or index.max() >= groups):
        raise InputError(f"{entry.name}: names groups outside 0–{groups - 1}", where=source.label)
    return index


def _zeros(source: Source, module: PackedModule, groups: Block, minus_one: bool) -> Floats:
    """Zero points [groups, rows]; the block's columns are widened to whole words and cut back."""
    import numpy as np

    from bot.checkpoint.numbers import unpack_columns

    per_word = 32 // module.bits
    c0, c1 = groups.c0 // per_word, -(-groups.c1 // per_word)
    data = read_matrix(source, module.tensors["qzeros"], Block(r0=groups.r0, r1=groups.r1, c0=c0, c1=c1), 4)
    words = np.frombuffer(data, "<u4").reshape(groups.r1 - groups.r0, c1 - c0)
    if minus_one:
        words = words + np.uint32(sum(1 << shift for shift in range(0, 32, module.bits)))
    values = unpack_columns(np.ascontiguousarray(words), module.bits)
    skip = groups.c0 - c0 * per_word
    return values[:, skip : skip + groups.c1 - groups.c0].astype(np.float32)


def _decode_nvfp4(source: Source, module: PackedModule, block: Block) -> Decoded:
    import numpy as np

    from bot.checkpoint.numbers import E2M1, decode, nibbles

    rows, columns = block.r1 - block.r0, block.c1 - block.c0
    tensors = module.tensors
    half = Block(r0=block.r0, r1=block.r1, c0=block.c0 // 2, c1=block.c1 // 2)
    codes = np.frombuffer(read_matrix(source, tensors["weight"], half, 1), np.uint8).reshape(
        rows, columns // 2
    )
    sixteenth = Block(r0=block.r0, r1=block.r1, c0=block.c0 // 16, c1=block.c1 // 16)
    scales = decode(read_matrix(source, tensors["weight_scale"], sixteenth, 1), "F8_E4M3").reshape(
        rows, columns // 16
    )
    second = tensors["weight_scale_2"]
    if second.num_elements != 1:
        raise InputError(f"{second.name}: one scale a tensor is expected, it has {second.num_elements}")
    scales = scales * decode(source.read(second.file, second.start, second.num_bytes), second.dtype)[0]
    weight = E2M1[nibbles(codes)].reshape(rows, columns // 16, 16) * scales[:, :, None]
    return Decoded(weight=weight.reshape(rows, columns), scale=scales, group_size=16)
