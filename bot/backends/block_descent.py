"""Coordinate descent on a decoder layer that AutoRound has trained: the same format, less error of the layer.

AutoRound moves all matrices of a layer together, by signed gradients of the layer's error over a few samples
at a time. Where a matrix's outputs are only added to the residual stream, that error is a quadratic form, and
each code and scale has a best value in closed form, over all samples at once. `descent.py` takes them in
turn, in the order of the forward pass, each step with the inputs that the steps before it leave:

- what reads the layer's input (`q_proj`, …): towards its own outputs in the base;
- what attention or the recurrence adds (`o_proj`, `out_proj`): towards the base's residual stream behind it,
  which also makes up for what earlier layers lost;
- what the MLP adds (`down_proj`): towards the base's output of the layer, the error that AutoRound trains.

`gate_proj` and `up_proj` stay as trained: a nonlinearity and a product follow them, and towards their own
outputs the layer's error rises (docs/house/tried.md). A symmetric scale of AutoRound's may be negative: its
codes are then taken with the other sign, between mirrored bounds. `patches/autoround.py` puts it in.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bot.errors import BackendError

READ_THE_INPUT = ("q_proj", "k_proj", "v_proj", "in_proj_qkv", "in_proj_z")
ADDED_TO_THE_INPUT = ("o_proj", "out_proj")
ADDED_LAST = ("down_proj",)

Samples = Sequence[torch.Tensor]
Seen = dict[str, list[torch.Tensor]]
# What `descent.py` takes of a matrix: second moments of its inputs, and what its outputs lack.
Products = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How a matrix is improved: `descended` of `bot.backends.descent`, its damping and its sweeps.

    `note` is given a matrix's weights before and after, and gives those to keep.
    """

    descended: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    damp: float
    sweeps: int
    note: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A decoder layer, and how AutoRound runs it: `runner` is its BlockForwardRunner.

    `inputs` are its samples, each [1, tokens, hidden]; `others` what the layer gets beside them.
    """

    block: torch.nn.Module
    inputs: Samples
    runner: Any
    others: dict[str, Any]

    def run(
        self, names: Sequence[str], indices: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The outputs of samples [tokens, hidden], and the inputs [tokens, in] of the matrices `names`."""
        with _watched(self.block, names) as seen:
            outputs = self.runner.forward(self.block, self.inputs, self.others, indices)
        return _flat(outputs), {name: torch.cat(each) for name, each in seen.items() if each}

    def stream(self, indices: torch.Tensor) -> torch.Tensor:
        """The inputs of samples [tokens, hidden]."""
        return _flat(torch.cat([self.inputs[i] for i in indices.tolist()]))

    def weight(self, name: str) -> torch.Tensor:
        """A matrix in FP32 [out, in]."""
        return self.block.get_submodule(name).weight.float()


def untrained(block: torch.nn.Module, inputs: Samples, runner: Any, others: dict[str, Any]) -> Layer:
    """The layer as it is in the base, to be kept from before its training.

    The forward pass is not compiled: a compiled one passes over what watches the inputs.
    """
    from auto_round.compressors.utils import block_forward

    plain = copy.copy(runner)
    plain.block_forward = block_forward
    # The tool empties its own list of inputs.
    return Layer(block=copy.deepcopy(block), inputs=list(inputs), runner=plain, others=others)


def improve(
    block: torch.nn.Module, inputs: Samples, base: Layer, outputs: Samples, descent: Descent, *, where: str
) -> None:
    """Improve the trained `block` in place: `weight` and `scale` of its quantized matrices.

    `inputs` are what it gets behind quantized layers, `outputs` what `base` makes of its own; each sample
    [1, tokens, hidden]. Raises BackendError, which names the layer `where`, when a matrix sees no input or a
    value is not finite.
    """
    trained = Layer(block=block, inputs=inputs, runner=base.runner, others=base.others)
    with torch.no_grad():
        for step in (READ_THE_INPUT, ADDED_TO_THE_INPUT, ADDED_LAST):
            names = [name for name, module in block.named_modules() if _is_part(name, module, step)]
            found = _products(trained, base, outputs, names, step, where) if names else {}
            for name, products in found.items():
                _improve(block.get_submodule(name), base.weight(name), products, descent, f"{where}.{name}")


def _is_part(name: str, module: torch.nn.Module, step: Sequence[str]) -> bool:
    return name.rpartition(".")[2] in step and getattr(module, "scale", None) is not None


def _products(
    trained: Layer, base: Layer, outputs: Samples, names: Sequence[str], step: Sequence[str], where: str
) -> dict[str, Products]:
    """For each matrix XXᵀ [in, in] and DXᵀ [out, in], D being what its outputs should be more than W X."""
    found: dict[str, Products] = {}
    size = trained.runner.batch_size
    for start in range(0, len(trained.inputs), size):
        indices = torch.arange(start, min(start + size, len(trained.inputs)))
        out, seen = trained.run(names, indices)
        _require_seen(seen, names, where)
        native = base.run(names, indices)[1] if step != ADDED_LAST else {}
        for name in names:
            x, weight = seen[name].float(), base.weight(name)
            if step == ADDED_LAST:
                wanted = _flat(torch.cat([outputs[i] for i in indices.tolist()])).to(x)
                lacks = wanted - out.to(x) + x @ (trained.weight(name) - weight).T
            else:
                lacks = (native[name].float() - x) @ weight.T
                if step == ADDED_TO_THE_INPUT:
                    lacks += base.stream(indices).to(x) - trained.stream(indices).to(x)
            more = (x.T @ x, lacks.T @ x)
            found[name] = (found[name][0] + more[0], found[name][1] + more[1]) if name in found else more
    return found


def _improve(layer: Any, weight: torch.Tensor, products: Products, descent: Descent, where: str) -> None:
    """One matrix: its codes as they are packed, `layer.weight` being their values in the tool's dtype."""
    scales = layer.scale.to(weight)
    maxq, zeros = 2**layer.bits - 1, torch.zeros_like(scales) + torch.as_tensor(layer.zp).to(scales)
    groups = torch.arange(weight.shape[1], device=weight.device) // layer.group_size
    before = torch.round(layer.weight.to(weight) / scales[:, groups]) * scales[:, groups]
    q, sizes = descent.descended(
        before,
        weight,
        *products,
        scales.abs(),
        torch.where(scales < 0, maxq - zeros, zeros),
        groups,
        maxq=maxq,
        damp=descent.damp,
        sweeps=descent.sweeps,
        where=where,
    )
    kept = sizes.to(layer.scale.dtype).to(sizes)  # the file's scale: what it loses is no other code
    layer.weight.data.copy_(descent.note(before, torch.round(q / sizes[:, groups]) * kept[:, groups]))
    layer.scale = torch.where(scales < 0, -kept, kept).to(layer.scale)


@contextmanager
def _watched(block: torch.nn.Module, names: Sequence[str]) -> Iterator[Seen]:
    """The inputs [tokens, in] of the matrices `names`, batch by batch, while the layer runs."""
    seen: Seen = {name: [] for name in names}

    def keeping(name: str) -> Callable[[torch.nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: seen[name].append(_flat(inputs[0]))

    hooks = [block.get_submodule(name).register_forward_pre_hook(keeping(name)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _require_seen(seen: dict[str, torch.Tensor], names: Sequence[str], where: str) -> None:
    if missing := [name for name in names if name not in seen]:
        raise BackendError(
            "no input reaches a matrix",
            where=f"{where}.{missing[0]}",
            why="the layer's forward pass does not call it as a module",
            fix="set method.descent_sweeps to 0, or name the step that it belongs to in block_descent.py",
        )


def _flat(samples: torch.Tensor) -> torch.Tensor:
    return samples.reshape(-1, samples.shape[-1])
