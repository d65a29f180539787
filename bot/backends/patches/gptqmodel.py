"""Mends of GPTQModel 7.6.0's weight update; each is described for its authors in docs/upstream/.

GPTQ goes through a layer's columns in blocks of 128. Within a block the compensation of rounded columns is
kept in `W1`, a copy; it reaches `W` for the columns after the block only. Three lines read the wrong one of
the two, or never run:

- `fresh-group-scales`: a group that starts inside a block takes its scale from `W`, whose columns there lack
  the block's compensation, and its codes from `W1`, which has it. With groups of 32 that is three groups of
  four: their range is that of other weights than those they hold. Groups of 128 start with the block, so it
  changes nothing there, nor with static groups. On CUDA it turns off the tool's fused block kernel where
  groups are smaller than a block, since that takes all scales of a block before it starts.
- `foem-cross-block`: FOEM draws the next column back towards the original by beta. Behind the last column of
  a block the test for a next one, `i+1 < count`, is never true, and the column would be `i2`, not `i2+1`.
- `gptaq-cross-block`: GPTAQ's asymmetric term moves later columns by `w · P`, w being the column before it is
  rounded. Within the block it does; for the columns after the block it uses `W1`, whose columns hold their
  rounded values by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.backends.patches import Edit, Patch, Target

if TYPE_CHECKING:
    from bot.recipe_methods import GptqMethod

PACKAGE, VERSION = "gptqmodel", "7.6.0"

GPTQ = Target(
    module="gptqmodel.quantization.gptq",
    function="GPTQ.quantize",
    sha256="58eb8b3c137d7f9493ad0ce09777250b58ffeaeb4ccc986117e4f8ab5777cf35",
)
FOEM = Target(
    module="gptqmodel.quantization.foem",
    function="FOEM.quantize",
    sha256="35d6a2f805f779c94c49b261cb6172cd0e1b90ff6e51b691929ba5ffac70c3b3",
)

_STALE = "self.quantizer.find_params({}, weight=True)"
_FRESH = (
    'self.quantizer.find_params(_acted.instead("fresh-group-scales", {}, '
    "W1[:, i : i + self.qcfg.group_size]), weight=True)"
)
_FOEM_GROUP = "W[:, (i1 + i): (i1 + i + self.qcfg.group_size)]"
_GPTQ_GROUP = "W[:, (i1 + i) : (i1 + i + self.qcfg.group_size)]"
_FUSED = 'and not env_flag("GPTQMODEL_DISABLE_GPTQ_CUDA")'
_INSIDE = "(not self.qcfg.static_groups and 0 < self.qcfg.group_size < blocksize)"

FRESH_GROUP_SCALES = Patch(
    name="fresh-group-scales",
    package=PACKAGE,
    version=VERSION,
    what="a group that starts inside a block takes its scale from the compensated weights",
    unit="groups",
    edits=(
        Edit(target=FOEM, old=_STALE.format(_FOEM_GROUP), new=_FRESH.format(_FOEM_GROUP)),
        Edit(target=GPTQ, old=_STALE.format(_GPTQ_GROUP), new=_FRESH.format(_GPTQ_GROUP)),
        Edit(target=GPTQ, old=_FUSED, new=f"{_FUSED} and not {_INSIDE}"),
    ),
)

FOEM_CROSS_BLOCK = Patch(
    name="foem-cross-block",
    package=PACKAGE,
    version=VERSION,
    what="FOEM's first-order correction reaches the first column of the next block",
    unit="blocks",
    edits=(
        Edit(
            target=FOEM,
            old=(
                "            if i+1 < count:\n"
                "                W[:, i2+1] -= self.qcfg.foem.beta * (W[:, i2+1]-W_raw[:, i2+1])\n"
            ),
            new=(
                "            if i2 < self.columns:\n"
                '                W[:, i2] = _acted.instead("foem-cross-block", W[:, i2],\n'
                "                    W[:, i2] - self.qcfg.foem.beta * (W[:, i2] - W_raw[:, i2]))\n"
            ),
        ),
    ),
)

GPTAQ_CROSS_BLOCK = Patch(
    name="gptaq-cross-block",
    package=PACKAGE,
    version=VERSION,
    what="GPTAQ's asymmetric term uses the columns before rounding behind a block too",
    unit="blocks",
    edits=(
        Edit(
            target=FOEM,
            old="            W1_raw = W_raw[:, i1:i2].clone()\n",
            new=(
                "            W1_raw = W_raw[:, i1:i2].clone()\n"
                "            W1_unrounded = torch.zeros_like(W1)\n"
            ),
        ),
        Edit(
            target=FOEM,
            old="                Q1[:, i] = q\n",
            new="                Q1[:, i] = q\n                W1_unrounded[:, i] = w\n",
        ),
        Edit(
            target=FOEM,
            old="- W1.matmul(P[i1:i2, i2:])",
            new=(
                '- _acted.instead("gptaq-cross-block", W1.matmul(P[i1:i2, i2:]), '
                "W1_unrounded.matmul(P[i1:i2, i2:]))"
            ),
        ),
    ),
)

PATCHES = {each.name: each for each in (FRESH_GROUP_SCALES, FOEM_CROSS_BLOCK, GPTAQ_CROSS_BLOCK)}


def descent(sweeps: int) -> Patch:
    """Coordinate descent behind the rounding: `bot.backends.descent`, with so many sweeps."""
    return Patch(
        name="descent",
        package=PACKAGE,
        version=VERSION,
        what="codes and scales are improved one by one after GPTQ's single pass",
        unit="modules",
        edits=(
            Edit(
                target=FOEM,
                old="            del self.dXXT\n",
                new="            asymmetric = self.qcfg.foem.alpha * self.dXXT\n            del self.dXXT\n",
            ),
            Edit(
                target=FOEM,
                old="        del Hinv\n        if self.gptaq:\n            del P\n        del W_raw",
                new=(
                    "        from bot.backends.descent import descended\n"
                    "        size = self.qcfg.group_size\n"
                    "        columns = torch.arange(self.columns, device=W.device)\n"
                    "        moved = self.qcfg.desc_act and self.qcfg.static_groups\n"
                    "        before = Q\n"
                    "        Q, better = descended(Q, W_raw, H, W_raw @ asymmetric if self.gptaq else None,\n"
                    "            torch.cat(scale, dim=1), torch.cat(zero, dim=1),\n"
                    "            (perm if moved else columns) // size, maxq=int(self.quantizer.maxq),\n"
                    f"            damp=damp, sweeps={sweeps}, where=self.name)\n"
                    '        Q = _acted.instead("descent", before, Q)\n'
                    "        scale = list(better.split(1, dim=1))\n"
                    "        del Hinv\n        if self.gptaq:\n            del P\n        del W_raw"
                ),
            ),
        ),
    )


def asked(method: GptqMethod) -> list[Patch]:
    """The patches that `method` asks for: what a run applies, and what evidence of it rests on."""
    swept = [descent(method.descent_sweeps)] if method.descent_sweeps else []
    return [*(PATCHES[name] for name in method.patches), *swept]
