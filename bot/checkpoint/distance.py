"""How far the dequantized weights are from the base's, and in which way.

Rounding to 4 bits moves weights by about a tenth of their size (0.11 for integers in groups of 128
on Gaussian weights, 0.095 for NVFP4; GPTQ spends up to twice that on correlated inputs), equally in
both directions, and leaves each row pointing where it did. Five figures tell damage from rounding:

    relative error   |W' - W|_F / |W|_F                a wrong zero point: 0.35 and more; shuffled rows: 1.4
    row cosine       min over rows of cos(W'_o, W_o)   a swapped or shuffled row: about 0
    gain             (W'·W) / |W|², of module and row  scales a fifth too large: 1.2; right ones: 0.98 to 1.00
    group error      max |W'_g - W_g| / |W_g|          a swapped group or a lost scale: 1 and more; right: 0.3
    shift            mean of (W' - W) / scale          a zero point off by one: ±1, whatever the weights

A module of up to `WHOLE_BYTES` in the base is read whole, so two swapped rows cannot hide. Of larger
ones, blocks of rows spread over the module are read in a folder; on the Hub, where a range is a
request, the corners of a fixed selection of modules. What was read is in the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bot.checkpoint.inventory import PackedModule
from bot.checkpoint.packing import Block, decode_block, read_matrix
from bot.checkpoint.reading import Checkpoint

if TYPE_CHECKING:
    from bot.checkpoint.numbers import Floats

WHOLE_BYTES = 8 << 20
BLOCK_ROWS = 32
NUM_BLOCKS = 3
REMOTE_MODULES = 16
WEIGHTS_A_BLOCK = 1 << 20
# Rows this much shorter than the typical row carry nothing: their direction is rounding noise.
FAINT_ROW = 1e-4
# Groups with less than a tenth of the typical energy round to little: their error says nothing.
FAINT_GROUP = 0.1
# What stands for infinity in a report, which JSON cannot hold.
ENDLESS = 1e9


@dataclass(frozen=True, kw_only=True)
class ModuleDistance:
    """The figures of one module over the weights that were compared."""

    name: str
    relative_error: float
    max_row_error: float
    min_row_cosine: float
    worst_row: int
    gain: float
    max_row_gain_error: float
    max_group_error: float
    shift: float | None
    num_compared: int
    num_weights: int
    sum_squared_error: float
    sum_squared_base: float


class _Sums:
    """Running sums over the blocks of a module."""

    def __init__(self) -> None:
        self.error = self.base = self.shift = 0.0
        self.compared = self.shifted = 0
        self.cosine, self.row, self.row_error = 1.0, -1, 0.0
        self.dot = self.row_gain = self.group_error = 0.0

    def add(self, ours: Floats, theirs: Floats, scale: Floats, group_size: int, first_row: int) -> None:
        import numpy as np

        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            self._add(ours, theirs, scale, group_size, first_row)

    def _add(self, ours: Floats, theirs: Floats, scale: Floats, group_size: int, first_row: int) -> None:
        import numpy as np

        delta = ours - theirs
        row_error = np.einsum("oi,oi->o", delta, delta, dtype=np.float64)
        row_base = np.einsum("oi,oi->o", theirs, theirs, dtype=np.float64)
        self.error += float(row_error.sum())
        self.base += float(row_base.sum())
        self.compared += delta.size
        self._rows(ours, theirs, row_error, row_base, first_row)
        self._groups(delta, theirs, scale.shape[1])
        grouped = delta.reshape(*scale.shape, group_size).sum(axis=2, dtype=np.float64)
        steps = grouped / scale
        fine = np.isfinite(steps)
        self.shift += float(steps[fine].sum())
        self.shifted += int(fine.sum()) * group_size

    def _groups(self, delta: Floats, theirs: Floats, num_groups: int) -> None:
        import numpy as np

        cells = (len(theirs), num_groups, -1)
        error = np.square(delta.reshape(cells)).sum(axis=2, dtype=np.float64)
        base = np.square(theirs.reshape(cells)).sum(axis=2, dtype=np.float64)
        strong = base > FAINT_GROUP * np.median(base)
        if strong.any():
            worst = np.nan_to_num(np.sqrt(error[strong] / base[strong]), nan=np.inf, posinf=np.inf).max()
            self.group_error = max(self.group_error, float(worst))

    def _rows(self, ours: Floats, theirs: Floats, error: Floats, base: Floats, first_row: int) -> None:
        import numpy as np

        own = np.einsum("oi,oi->o", ours, ours, dtype=np.float64)
        dot = np.einsum("oi,oi->o", ours, theirs, dtype=np.float64)
        self.dot += float(dot.sum())
        strong = base > FAINT_ROW**2 * np.median(base)
        if not strong.any():
            return
        cosine = np.where(strong, np.nan_to_num(dot / np.sqrt(own * base), nan=0.0), 1.0)
        ratio = np.where(strong, np.nan_to_num(np.sqrt(error / base), nan=np.inf, posinf=np.inf), 0.0)
        self.row_error = max(self.row_error, float(ratio.max()))
        gain = np.where(strong, np.nan_to_num(np.abs(dot / base - 1), nan=np.inf, posinf=np.inf), 0.0)
        self.row_gain = max(self.row_gain, float(gain.max()))
        if cosine.min() < self.cosine:
            self.cosine = float(cosine.min())
            self.row = first_row + int(cosine.argmin())


def measure(
    checkpoint: Checkpoint, base: Checkpoint, module: PackedModule, *, minus_one: bool
) -> ModuleDistance:
    """The distance of one module; its base weight must be in `base` with the same shape."""
    import numpy as np

    from bot.checkpoint.numbers import decode

    theirs = base.tensors[f"{module.name}.weight"]
    item = theirs.num_bytes // max(1, theirs.num_elements)
    sums = _Sums()
    remote = checkpoint.source.remote or base.source.remote
    for block in blocks(module, theirs.num_bytes, remote=remote):
        decoded = decode_block(checkpoint.source, module, block, minus_one=minus_one)
        data = read_matrix(base.source, theirs, block, item)
        original = decode(data, theirs.dtype).reshape(decoded.weight.shape)
        scale = decoded.scale if _grouped(module, decoded.scale.shape, block) else None
        if scale is None:
            scale = np.full((decoded.weight.shape[0], 1), np.nan, np.float32)
            sums.add(decoded.weight, original, scale, decoded.weight.shape[1], block.r0)
        else:
            sums.add(decoded.weight, original, scale, decoded.group_size, block.r0)
    return _figures(module, sums)


def _grouped(module: PackedModule, shape: tuple[int, ...], block: Block) -> bool:
    """Whether scales and columns line up group by group (a g_idx in another order does not)."""
    return shape[1] * module.group_size == block.c1 - block.c0


def _figures(module: PackedModule, sums: _Sums) -> ModuleDistance:
    relative = math.sqrt(sums.error / sums.base) if sums.base else (0.0 if sums.error == 0 else math.inf)
    if math.isnan(sums.error):
        relative = math.inf
    relative = min(relative, ENDLESS)
    return ModuleDistance(
        name=module.name,
        relative_error=relative,
        max_row_error=min(sums.row_error, ENDLESS),
        min_row_cosine=sums.cosine,
        worst_row=sums.row,
        gain=_finite(sums.dot / sums.base if sums.base else 1.0),
        max_row_gain_error=_finite(sums.row_gain),
        max_group_error=_finite(sums.group_error),
        shift=sums.shift / sums.shifted if sums.shifted and module.kind == "int" else None,
        num_compared=sums.compared,
        num_weights=module.shape[0] * module.shape[1],
        sum_squared_error=sums.error,
        sum_squared_base=sums.base,
    )


def _finite(value: float) -> float:
    return value if math.isfinite(value) and value < ENDLESS else ENDLESS


def blocks(module: PackedModule, base_bytes: int, *, remote: bool) -> Iterator[Block]:
    """What of a module is read: all of a small one, fixed blocks of a large one."""
    rows, columns = module.shape
    if base_bytes <= (WHOLE_BYTES // 8 if remote else WHOLE_BYTES):
        yield from _all_rows(module)
        return
    tall = 8 if remote else min(BLOCK_ROWS, rows)
    tall = min(tall, rows)
    count = min(2 if remote else NUM_BLOCKS, max(1, rows // tall))
    for i in range(count):
        r0 = (rows - tall) * i // max(1, count - 1) // 8 * 8
        if not remote:
            yield Block(r0=r0, r1=r0 + tall, c0=0, c1=columns)
            continue
        width = min(columns, max(module.group_size, 128))
        c0 = (columns - width) * i // module.group_size * module.group_size
        yield Block(r0=r0, r1=r0 + tall, c0=c0, c1=c0 + width)


def _all_rows(module: PackedModule) -> Iterator[Block]:
    """The whole module in blocks of about a million weights, so that memory stays small."""
    rows, columns = module.shape
    tall = max(8, WEIGHTS_A_BLOCK // max(1, columns) // 8 * 8)
    for r0 in range(0, rows, tall):
        yield Block(r0=r0, r1=min(rows, r0 + tall), c0=0, c1=columns)


def selection(modules: list[PackedModule], *, remote: bool) -> list[PackedModule]:
    """Which modules are measured: all in a folder, a fixed even spread of a large Hub repo."""
    if not remote or len(modules) <= REMOTE_MODULES or sum(m.num_bytes for m in modules) <= 64 << 20:
        return modules
    return [modules[i * (len(modules) - 1) // (REMOTE_MODULES - 1)] for i in range(REMOTE_MODULES)]
