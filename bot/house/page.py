"""`docs/house/README.md`: all evidence as tables, made again from it alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bot import figures, house
from bot.house.model import HouseEvidence, OnBase, base_name, gain, over_all
from bot.lab.record import ALL, BaseFacts, Figures, Measured
from bot.measurements import Interval
from bot.models import write_atomically

HEAD = """# House recipes: the evidence

Written by `python -m tests.bench.house` from the JSON files beside it. Each recipe stands beside the one that
it is held against: both quantize the same tiny trained bases, are served by the same engine and scored on the
same tokens. Settings are chosen on other texts; where a choice was made on these all the same, a note says
so. [docs/lab.md](../lab.md) says what must hold for a recipe to ship.

The texts are stand-ins of WikiText (prose), CodeXGLUE (code) and UltraChat (chat): parts of Python's standard
library that no base was trained on. *Change* is that of the mean KL divergence from the base, in nats, with
the 95% interval of a paired bootstrap over windows. Over all, the three kinds of text weigh alike.
"""
NONE = "No house recipe has evidence yet.\n"


def page(found: Sequence[HouseEvidence]) -> str:
    """The page, a section a recipe."""
    sections = [_section(each) for each in found] or [NONE]
    return "\n".join([HEAD, *sections])


def _section(found: HouseEvidence) -> str:
    quoted = gain(found)
    parts = [
        f"## `{found.recipe}` beside `{found.counterpart}`\n",
        f"Divergence {figures.change(quoted.best)} to {figures.change(quoted.worst)} over {len(found.bases)} "
        f"bases. Variants tried on the split `choose`: {found.num_tried} ({found.tried}).\n",
        *([f"Note: {found.note}.\n"] if found.note else []),
        _table(("setting", found.counterpart, found.recipe), _settings(found)),
        _table(
            ("base", "hidden × layers, MLP", "parameters", "bits a weight (of what is quantized)",
             f"KLD, {found.counterpart}", f"KLD, {found.recipe}", "change", "95%"),
            map(_base_row, found.bases),
        ),
        _table(
            ("base", "domain", "KLD", "change", "95%", f"PPL / base's, {found.counterpart}",
             f"PPL / base's, {found.recipe}"),
            (row for each in found.bases for row in _domain_rows(each)),
        ),
        _table(
            ("base", f"quantizing, {found.counterpart}", f"quantizing, {found.recipe}", "machine"),
            map(_cost_row, found.bases),
        ),
        *_conditions(found),
    ]  # fmt: skip
    return "\n".join(parts)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _settings(found: HouseEvidence) -> Iterator[Sequence[str]]:
    for each in found.settings:
        yield f"`{each.parameter}`", each.counterpart, each.house


def _base_row(found: OnBase) -> Sequence[str]:
    facts, row = found.facts, over_all(found)
    return (
        base_name(found),
        _shape(facts),
        figures.count(facts.num_parameters),
        "; ".join(dict.fromkeys([_bits(found.counterpart), _bits(found.house)])),
        figures.nats(found.counterpart_kld),
        figures.nats(row.kld),
        figures.change(row.change),
        _interval(row.change_interval),
    )


def _shape(facts: BaseFacts) -> str:
    return f"{facts.hidden_size} × {facts.num_hidden_layers}, {facts.intermediate_size}"


def _bits(found: Measured) -> str:
    return f"{found.bits_per_weight or 0:.3f} ({found.quantized_bits_per_weight or 0:.3f})"


def _interval(found: Interval) -> str:
    return f"{figures.change(found.low)} to {figures.change(found.high)}"


def _domain_rows(found: OnBase) -> Iterator[Sequence[str]]:
    ours, theirs = _by_domain(found.house), _by_domain(found.counterpart)
    for row in (each for each in found.against if each.domain != ALL):
        yield (
            base_name(found),
            row.domain,
            figures.nats(row.kld),
            figures.change(row.change),
            _interval(row.change_interval),
            _ppl(theirs[row.domain]),
            _ppl(ours[row.domain]),
        )


def _by_domain(found: Measured) -> Mapping[str, Figures]:
    return {each.domain: each for each in found.figures}


def _ppl(found: Figures) -> str:
    return f"{found.ppl / found.base_ppl:.4f}"


def _cost_row(found: OnBase) -> Sequence[str]:
    machine = found.hardware.gpu or f"{found.hardware.cpu}, {found.hardware.num_cores} cores"
    return base_name(found), _cost(found.counterpart), _cost(found.house), machine


def _cost(found: Measured) -> str:
    memory = max(found.quantize_peak_memory_bytes or 0, found.quantize_peak_gpu_memory_bytes or 0)
    resumed = " (gone on with: the last process alone)" if found.resumed_layers else ""
    return f"{figures.seconds(found.quantize_wall_s or 0)}, {figures.gib(memory)}{resumed}"


def _conditions(found: HouseEvidence) -> Iterator[str]:
    """What was set for tiny bases and what measured them; once where it is the same on all."""
    for name, records in (
        (found.counterpart, [each.counterpart for each in found.bases]),
        (found.recipe, [each.house for each in found.bases]),
    ):
        told = {", ".join(f"`{k}={v}`" for k, v in each.overrides.items()) or "nothing" for each in records}
        yield f"- Set for `{name}` here: {'; or '.join(sorted(told))}."
    engines = sorted({each.engine for each in found.bases})
    versions = sorted({f"{k} {v}" for each in found.bases for k, v in each.quantizer_versions.items()})
    weights = ", ".join(f"{base_name(each)} `{each.facts.weights_sha256[:16]}`" for each in found.bases)
    yield f"- Measured with {', '.join(engines)}; quantized with {', '.join(versions)}."
    yield f"- Weights of the bases (sha256): {weights}.\n"


def write() -> None:
    """Write the page from the evidence that there is."""
    write_atomically(house.FOLDER / "README.md", page(house.read_all()).encode())


if __name__ == "__main__":
    write()
