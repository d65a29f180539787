"""What is changed in AutoRound 0.16.1; each is described for its authors in docs/upstream/.

- `seeded-layers`, of every run: the tool draws a layer's batches from Python's global generator, whose state
  its resume does not keep. A resumed run would train the remaining layers on other batches (seen: other
  losses, other weights); with a seed for each layer it trains them on the same.
- `descent`: behind the training of a decoder layer, before what it makes of the samples goes to the next one,
  codes and scales of its matrices are improved one by one (`bot.backends.block_descent`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bot.backends.patches import Edit, Patch, Target

if TYPE_CHECKING:
    from bot.recipe_methods import AutoRoundMethod

PACKAGE, VERSION = "auto-round", "0.16.1"

COMPOSER = Target(
    module="auto_round.algorithms.composer",
    function="AlgorithmComposer.compress_block",
    sha256="cf9eee8cd7b6f0e0f25b06f7476d038d7128ac80d36fba67e45968b1fd02000e",
)
QUANTIZER = Target(
    module="auto_round.algorithms.quantization.sign_round.quantizer",
    function="SignRoundQuantizer.quantize_block",
    sha256="414b1075e9eafb7de74643c5b03c4e529f4688da77f210609ca09d59b6291474",
)

_FREED = (
    "        if q_inputs is not None and fp_inputs is not q_inputs:\n            clear_memory(fp_inputs)\n"
)
_STARTS = "        device = device_manager.device\n"
_TRAINED = "            pre.post_quantize_block(block_ctx)\n"


def seeded_layers(seed: int) -> Patch:
    """Each layer's training starts from a random state of its own: `seed` and the layer's number."""
    return Patch(
        name="seeded-layers",
        package=PACKAGE,
        version=VERSION,
        what="each layer's training starts from its own seed (calibration seed + layer)",
        unit="layers",
        edits=(
            Edit(
                target=QUANTIZER,
                old=_STARTS,
                new=(
                    f"{_STARTS}"
                    "        from transformers import set_seed\n"
                    f'        set_seed(_acted.stood_in("seeded-layers", {seed} + block_ctx.block_index))\n'
                ),
            ),
        ),
    )


def descent(sweeps: int, damp: float) -> Patch:
    """Coordinate descent behind the training of each layer, with so many sweeps and such damping."""
    return Patch(
        name="descent",
        package=PACKAGE,
        version=VERSION,
        what="codes and scales are improved one by one behind the training of each layer",
        unit="modules",
        edits=(
            Edit(
                target=COMPOSER,
                old=_FREED,
                new=(
                    "        from bot.backends.block_descent import Descent, improve, untrained\n"
                    "        from bot.backends.descent import descended\n"
                    "        _base = untrained(block, fp_inputs, block_forward_fn, input_others)\n"
                    f"{_FREED}"
                ),
            ),
            Edit(
                target=COMPOSER,
                old=_TRAINED,
                new=(
                    f"{_TRAINED}"
                    f"        _how = Descent(descended=descended, damp={damp!r}, sweeps={sweeps},\n"
                    '            note=lambda old, new: _acted.instead("descent", old, new))\n'
                    "        improve(block, effective_input, _base, reference_output, _how,\n"
                    "            where=block_ctx.block_name)\n"
                    "        del _base\n"
                ),
            ),
        ),
    )


def asked(method: AutoRoundMethod) -> list[Patch]:
    """The patches that `method` asks for: what a run applies, and what evidence of it rests on."""
    if not method.descent_sweeps:
        return []
    assert method.damp_percent is not None
    return [descent(method.descent_sweeps, method.damp_percent)]
