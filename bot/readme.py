"""The README's generated part, the recipe table: `make generated` writes it, a test keeps it current."""

from __future__ import annotations

from pathlib import Path

from bot import recipe as recipes
from bot.models import write_atomically
from bot.recipe import Recipe

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- recipes: begin, written by `make generated` -->", "<!-- recipes: end -->"


def recipe_table() -> str:
    """The recipes as a Markdown table, in the order of their names."""
    rows = [
        "| recipe | what | bits, group | calibration | context, KV cache, drafts |",
        "|---|---|---|---|---|",
    ]
    rows += [_row(recipes.load(name)) for name in recipes.names()]
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
    )
    return "| " + " | ".join(cells) + " |"


def updated(text: str) -> str:
    """`text` with what stands between the marks replaced by the current table."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks {BEGIN!r} … {END!r}")
    return f"{head}{BEGIN}\n{recipe_table()}\n{END}{tail}"


if __name__ == "__main__":
    write_atomically(README, updated(README.read_text(encoding="utf-8")).encode())
