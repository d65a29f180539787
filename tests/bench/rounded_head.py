"""A checkpoint whose MTP head holds 4-bit values: the same shapes and dtype, fewer different numbers.

The question is what a quantized head would cost in accepted drafts, so its weights are rounded as a recipe's
format rounds without calibration (to nearest, min-max scales, no compensation) and stored as BF16 again. A
kernel that reads the packed form would multiply with these values, up to its own arithmetic: BF16 rounds
code · scale once more, by 2⁻⁹ of it at most. The body's bytes are not touched.

    integers   scale = max|w| / 7.5 of a group, as FP16; code = −8 … 7; w = code · scale   (GPTQ's symmetric)
    NVFP4      blocks of 16: E2M1 · E4M3 scale · FP32 scale of the tensor, max|W| / (6 · 448)

What is lost against a calibrated head is not covered: GPTQ or AutoRound would win back a part. Nor is speed,
since what is computed with is BF16. Files that hold nothing of the head are hard links where the disk allows
it; the others are copied and written in place, one tensor in memory at a time.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bot.checkpoint import numbers
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.headers import TensorEntry
from bot.checkpoint.reading import read_checkpoint
from bot.errors import InputError

Floats = npt.NDArray[np.float32]

FC: Final = "mtp.fc.weight"
E2M1: Final = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E4M3: Final = numbers.E4M3[:127]  # those from 0 on, ascending; 127 is NaN
NVFP4_BLOCK: Final = 16


def linears(folder: Path, *, fc: bool) -> list[TensorEntry]:
    """The head's matrices, by name; `mtp.fc` only with `fc`. InputError for none, or one that is not BF16."""
    tensors = read_checkpoint(FolderSource(folder)).tensors
    head = [tensors[name] for name in sorted(tensors) if name.startswith("mtp.")]
    found = [each for each in head if len(each.shape) == 2 and (fc or each.name != FC)]
    other = [each.name for each in found if each.dtype != "BF16"]
    if not found or other:
        raise InputError(
            f"the MTP head's matrices are not in BF16: {', '.join(other) or 'there are none'}",
            where=folder.name,
            why="the checkpoint has no head, or it was packed already",
            fix="name a checkpoint that keeps its base's head",
        )
    return found


def write(source: Path, folder: Path, *, packing: str, group_size: int, fc: bool) -> list[TensorEntry]:
    """`source` at `folder`, its head rounded; returns what was. Raises InputError as `linears` and `rounded`.

    `packing` decides the format (`nvfp4`, or integers), `group_size` the width of a group along the inputs.
    """
    entries = linears(source, fc=fc)
    changed = {each.file for each in entries}

    def place(one: str, other: str) -> None:
        relative = Path(other).relative_to(folder).as_posix()
        shutil.copyfile(one, other) if relative in changed else _link(one, other)

    shutil.copytree(source, folder, copy_function=place)
    for each in entries:
        _round_in_place(folder / each.file, each, packing, group_size)
    return entries


def _link(one: str, other: str) -> None:
    try:
        os.link(os.path.realpath(one), other)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(one, other)


def _round_in_place(path: Path, entry: TensorEntry, packing: str, group_size: int) -> None:
    with path.open("r+b") as file:
        file.seek(entry.start)
        W_OI = numbers.decode(file.read(entry.num_bytes), entry.dtype).reshape(entry.shape)
        file.seek(entry.start)
        file.write(numbers.to_bf16(rounded(W_OI, packing=packing, group_size=group_size)))


# ── the two formats ────────────────────────────────────────────────────────────────────────


def rounded(W_OI: Floats, *, packing: str, group_size: int) -> Floats:
    """W [out, in] as `packing` would hold it. InputError where groups of `group_size` do not fill a row."""
    if W_OI.shape[1] % group_size:
        raise InputError(
            f"a row of {W_OI.shape[1]} weights has no groups of {group_size}", fix="name a smaller group size"
        )
    groups = W_OI.reshape(len(W_OI), -1, group_size)  # [out, groups, group_size]
    return (_nvfp4(groups) if packing == "nvfp4" else _int4(groups)).reshape(W_OI.shape)


def _int4(groups: Floats) -> Floats:
    scales = (_largest(groups).astype(np.float64) / 7.5).astype(np.float16).astype(np.float64)
    codes = np.clip(np.rint(groups / np.where(scales == 0, 1, scales)), -8, 7)
    return (codes * scales).astype(np.float32)


def _nvfp4(groups: Floats) -> Floats:
    """In float32 throughout, as the format's own quantizers do."""
    scale_2 = np.float32(np.abs(groups).max() / np.float32(6 * 448))
    wanted = _largest(groups) / np.float32(np.float32(6) * scale_2) if scale_2 else _largest(groups)
    scales = E4M3[_nearest(np.clip(np.where(wanted == 0, 1, wanted), 2.0**-9, 448), E4M3)] * scale_2
    values = np.abs(groups) / np.where(scales == 0, np.float32(1), scales)
    return np.asarray(np.copysign(E2M1[_nearest(values, E2M1)], groups) * scales, np.float32)


def _largest(groups: Floats) -> Floats:
    return np.asarray(np.abs(groups).max(axis=2, keepdims=True), np.float32)


def _nearest(values: Floats, table: Floats) -> npt.NDArray[np.intp]:
    """Index of the nearest in an ascending table; of two equally near the even one."""
    middles = (table[:-1] + table[1:]) / 2
    low, high = np.searchsorted(middles, values, "left"), np.searchsorted(middles, values, "right")
    return np.where(low % 2, high, low)


# ── what it would weigh ────────────────────────────────────────────────────────────────────


def packed_bytes(shape: tuple[int, ...], *, packing: str, group_size: int) -> int:
    """Bytes of a packed matrix [out, in]: codes, scales, and what else the format stores of it."""
    out, width = shape
    groups = out * width // group_size
    if packing == "nvfp4":
        return out * width // 2 + groups + 8  # scale_2 and input_scale
    order = 0 if packing.startswith("auto_round") else 4 * width  # g_idx
    return out * width // 2 + 2 * groups + groups // 2 + order


def saved_bytes(entries: list[TensorEntry], *, packing: str, group_size: int) -> int:
    """What the checkpoint would be smaller by, were `entries` packed."""
    return sum(
        each.num_bytes - packed_bytes(each.shape, packing=packing, group_size=group_size) for each in entries
    )
