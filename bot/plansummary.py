"""The plan as Markdown for the job's summary: what starts, what does not and why.

Names and reasons come from outside and are escaped where they enter. Skipped pairs are counted by reason
first; each stands below, folded, up to a number that GitHub's limit on summaries (1 MiB) leaves room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from bot.cardtext import code, markdown
from bot.plan import MAX_JOBS, Plan, Skip
from bot.watch import Skipped, Watched

MAX_ROWS: Final = 400
_MAX_REASON: Final = 200


def text(plan: Plan, watched: Watched | None) -> str:
    """The whole summary."""
    parts = [_watched(watched)] if watched else []
    parts.append(_entries(plan))
    if plan.skips:
        parts.append(_skips(plan.skips))
    return "\n\n".join(parts) + "\n"


def _watched(found: Watched) -> str:
    parts = ["## Watched", f"{found.num_listed:,} models listed, {found.num_calls} requests to the Hub."]
    if found.changes:
        rows = [
            (code(c.repo_id), c.kind.replace("_", " "), code(c.revision[:8]), str(c.num_files))
            for c in found.changes
        ]
        parts.append(_table(("base", "change", "commit", "files"), rows))
    if found.failed:
        parts.append("Could not be looked at, tried again next time:")
        parts.append(_table(("what", "class", "why"), [_skipped(each) for each in found.failed]))
    if found.skipped:
        counts = Counter(each.code for each in found.skipped)
        parts.append("Passed over: " + ", ".join(f"{num} {name}" for name, num in counts.most_common()) + ".")
        models = [_skipped(each) for each in found.skipped]
        parts.append(_folded("each model", ("model", "reason", "why"), models))
    return "\n\n".join(parts)


def _skipped(each: Skipped) -> tuple[str, ...]:
    return code(each.repo_id), each.code.replace("_", " "), markdown(each.reason[:_MAX_REASON])


def _entries(plan: Plan) -> str:
    if plan.paused is not None:
        return f"## Plan\n\n**Paused**, {markdown(plan.paused[:_MAX_REASON])}: nothing starts."
    if not plan.entries:
        return "## Plan\n\nNothing to start."
    started = plan.entries[:MAX_JOBS]
    rows = [
        (code(e.base), code(e.revision[:8]), e.recipe, e.kind, e.runner_class, code(e.key), markdown(e.why))
        for e in started
    ]
    lines = [f"## Plan\n\n{len(started)} jobs start."]
    if plan.num_left:
        lines.append(f"{plan.num_left} more wait for the next tick: one tick starts {MAX_JOBS} jobs at most.")
    table = _table(("base", "commit", "recipe", "kind", "runner", "key", "why"), rows)
    return "\n\n".join([*lines, table])


def _skips(skips: list[Skip]) -> str:
    ordered = sorted(skips, key=lambda each: (each.code, each.base, each.recipe))
    counts = [(name.replace("_", " "), str(len(list(group)))) for name, group in groupby(ordered, _code)]
    rows = [
        (code(each.base), each.recipe, each.code.replace("_", " "), markdown(each.reason[:_MAX_REASON]))
        for each in ordered
    ]
    return "\n\n".join(
        [
            "## Not started",
            _table(("reason", "pairs"), counts),
            _folded("each pair", ("base", "recipe", "reason", "why"), rows),
        ]
    )


def _code(skip: Skip) -> str:
    return skip.code


def _folded(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    more = f"\n\n{len(rows) - MAX_ROWS:,} more are in the log." if len(rows) > MAX_ROWS else ""
    return f"<details><summary>{title}</summary>\n\n{_table(columns, rows[:MAX_ROWS])}{more}\n\n</details>"


def _table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Cells are Markdown already: none can hold a bar or a line break unescaped."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)
