"""The real quantizers on small arrays, in their own environment: one process that answers many tests.

Importing the tools takes half a minute, a layer milliseconds. So a session starts this module once with the
environment's python and speaks with it in lines: a task's name, the `.npz` (arrays) and `.json` (settings)
that it reads, and where its answer goes. What the tools print goes to a log.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def gptq(arrays: Arrays, settings: dict[str, Any]) -> Arrays:
    """Quantize W [out, in] float32 on samples x0, x1, … [tokens, in]; y0, … are FOEM's native inputs.

    Returns dequantized q, scale and zero [out, groups], g_idx, loss, damp, and how often each patch acted.
    """
    import torch
    from gptqmodel.looper.named_module import NamedModule
    from gptqmodel.looper.native_processor import NATIVE_INPUTS_STATE_KEY
    from gptqmodel.quantization import FOEM, GPTQ, QuantizeConfig
    from gptqmodel.quantization.config import Fallback, FallbackStrategy, FOEMConfig

    from bot.backends.patches import applied
    from bot.backends.patches.gptqmodel import PATCHES

    given = dict(settings)
    patches, foem, threshold = given.pop("patches", []), given.pop("foem", None), given.pop("fallback", None)
    fallback = Fallback(strategy=FallbackStrategy.RTN, threshold=threshold) if threshold else None
    config = QuantizeConfig(
        **given, foem=FOEMConfig(**foem) if foem else None, fallback=fallback, device="cpu"
    )
    layer = torch.nn.Linear(arrays["w"].shape[1], arrays["w"].shape[0], bias=False)
    layer.weight.data = torch.from_numpy(arrays["w"].copy())
    named = NamedModule(layer, "layer", "model.layers.0.layer", 0)
    samples = [torch.from_numpy(arrays[f"x{i}"]) for i in range(sum(name.startswith("x") for name in arrays))]
    if foem and foem["alpha"]:
        named.state[NATIVE_INPUTS_STATE_KEY] = [
            torch.from_numpy(arrays[f"y{i}"]) for i in range(len(samples))
        ]
    task = (FOEM if foem else GPTQ)(module=named, qcfg=config)
    task.expected_nsamples = float(sum(len(each) for each in samples))
    task.quantizer.configure(perchannel=True)
    for each in samples:
        task.add_batch(each.unsqueeze(0), layer(each).detach().unsqueeze(0))
    with applied([PATCHES[name] for name in patches]) as acted:
        q, scale, zero, g_idx, _, loss, damp, _ = task.quantize()
    counts = {f"acted_{name}": np.array(count) for name, count in acted.counts().items()}
    numbers = {"q": q, "scale": scale, "zero": zero, "g_idx": g_idx}
    found = {name: value.cpu().numpy() for name, value in numbers.items()}
    return found | counts | {"loss": np.array(loss), "damp": np.array(damp)}


TASKS = {"gptq": gptq}


def main() -> None:
    """Answer tasks until standard input ends; `ready`, then `done` or `failed` a task, on the given pipe."""
    answers = os.fdopen(int(sys.argv[1]), "w")
    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"
    from bot.backends.torchvision_ops import declare_missing

    declare_missing()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        task, folder = json.loads(line)
        place = Path(folder)
        try:
            with np.load(place / "in.npz") as given:
                arrays = {name: given[name] for name in given.files}
            settings = json.loads((place / "in.json").read_text())
            np.savez(place / "out.npz", **TASKS[task](arrays, settings))
        except Exception as e:
            traceback.print_exc()
            error = {"type": type(e).__name__, "text": str(e)}
            (place / "error.json").write_text(json.dumps(error))
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)  # the tools leave threads behind
