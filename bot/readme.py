"""The README's tables of recipes and gates: `make generated` writes them, a test keeps them current."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bot import figures, house
from bot import recipe as recipes
from bot.gates import GATES
from bot.gates.gate import Gate
from bot.house.model import gain
from bot.models import write_atomically
from bot.recipe import Recipe

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- {}: begin, written by `make generated` -->", "<!-- {}: end -->"


def recipe_table() -> str:
    """The recipes as a Markdown table: the faithful ones by name, each before the house recipes beside it."""
    rows = [
        "| recipe | what | bits, group | calibration | context, KV cache, drafts | divergence against |",
        "|---|---|---|---|---|---|",
    ]
    found = [recipes.load(name) for name in recipes.names()]
    rows += [
        _row(each)
        for each in sorted(found, key=lambda r: (r.counterpart or r.name, r.counterpart is not None))
    ]
    return "\n".join(rows)


def _row(recipe: Recipe) -> str:
    sets = "; ".join(f"{each.num_samples} × {each.dataset}" for each in recipe.calibration.sets)
    serve = recipe.serve
    cells = (
        f"[`{recipe.name}`](recipes/{recipe.name}.yaml)",
        recipe.card.headline,
        f"{recipe.method.bits}, {recipe.method.group_size}",
        sets,
        f"{serve.max_model_len:,}, {serve.kv_cache_dtype}, {serve.num_speculative_tokens}",
        _beside(recipe),
    )
    return "| " + " | ".join(cells) + " |"


def _beside(recipe: Recipe) -> str:
    """A house recipe's change of divergence over its bases, beside which recipe; else nothing."""
    if recipe.counterpart is None:
        return ""
    found = house.read(recipe.name)
    if found is None:
        return f"`{recipe.counterpart}`: no evidence yet"
    quoted = gain(found)
    low, high = figures.change(quoted.best), figures.change(quoted.worst)
    bases = f"[{len(quoted.bases)} tiny bases](docs/house/README.md)"
    return f"`{recipe.counterpart}`: {low} to {high} on {bases}"


def gate_table() -> str:
    """The gates as a Markdown table, in the order in which they are asked."""
    rows = ["| gate | holds when | why |", "|---|---|---|"]
    rows += [f"| {_ids(gate)} | {gate.title.replace('{part}', 'N')} | {gate.why} |" for gate in GATES]
    return "\n".join(rows)


def _ids(gate: Gate) -> str:
    return f"`{gate.id}.N`" if gate.parts else f"`{gate.id}`"


TABLES: Mapping[str, Callable[[], str]] = {"recipes": recipe_table, "gates": gate_table}


def updated(text: str) -> str:
    """`text` with what stands between each table's marks replaced by the current table."""
    for name, table in TABLES.items():
        begin, end = BEGIN.format(name), END.format(name)
        head, found, rest = text.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"README.md lacks {begin!r} … {end!r}")
        text = f"{head}{begin}\n{table()}\n{end}{tail}"
    return text


if __name__ == "__main__":
    write_atomically(README, updated(README.read_text(encoding="utf-8")).encode())
