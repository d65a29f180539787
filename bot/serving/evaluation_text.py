"""The evaluation set: from a pinned data set on the Hub to one text.

The set's README says which files make which split of which config, as `datasets` reads it; only those are
fetched, at the recipe's commit. Its rows are joined by two newlines, empty ones included: that is how the
figures on hand-made cards were made as far as anyone can tell, and a card says so. A row may also be a
conversation, a list of messages; the checkpoint's own chat template makes it text, which ends itself.

Files are parquet, which the bot itself cannot read (`pyarrow` is large). So `rows_file` runs this very module
in the engine's environment, once a set, as `python -m bot.serving.evaluation_text FOLDER CONFIG SPLIT COLUMN
OUT`, which leaves the rows as one JSON list.

A README comes from outside: a pattern that leaves the folder, or a file that is no parquet, is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bot.edges import process
from bot.errors import InputError, RecipeError, ReleaseBotError
from bot.models import write_atomically
from bot.recipe_evaluation import Evaluation
from bot.recipe_fields import UNPINNED

if TYPE_CHECKING:
    from bot.edges.hub import Hub

JOINED_BY = "\n\n"
Row = str | list[dict[str, Any]]  # a text, or a conversation
PASSAGE_CHARS = 8_000
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


# ── the bot's side ─────────────────────────────────────────────────────────────────────────


def where(evaluation: Evaluation) -> str:
    """The set in one line, for errors."""
    revision = evaluation.revision[:12]
    return f"{evaluation.dataset}@{revision}, config {evaluation.config}, split {evaluation.split}"


def fetch(evaluation: Evaluation, hub: Hub) -> Path:
    """The folder with the set's README and the files of its split, at the recipe's commit.

    Raises RecipeError for an unpinned set, InputError when it has no such config or split, or is gone or
    gated, InfrastructureError when the Hub fails.
    """
    if evaluation.revision == UNPINNED:
        raise RecipeError(
            f"{evaluation.dataset} is not pinned",
            where="evaluation.revision",
            fix="run `release-bot recipes pin` against this Hub",
        )
    repo = evaluation.dataset, evaluation.revision
    folder = hub.download_dataset(*repo, ["README.md"])
    return hub.download_dataset(*repo, ["README.md", *_patterns(folder, evaluation.config, evaluation.split)])


def rows_file(folder: Path, evaluation: Evaluation, *, python: Path, kept: Path, log_file: Path) -> Path:
    """The JSON list of the set's rows, made below `kept` if it is not there.

    `python` is an interpreter that has pyarrow. Raises InputError as `read_rows`.
    """
    fields = [evaluation.dataset, evaluation.revision, evaluation.config, evaluation.split, evaluation.column]
    path = kept / f"{hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]}.json"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    program = [str(python), "-m", "bot.serving.evaluation_text"]
    with process.importable() as importable:
        process.run(
            [*program, str(folder), evaluation.config, evaluation.split, evaluation.column, str(path)],
            env={**process.inherited(), "PYTHONPATH": importable, "PYTHONNOUSERSITE": "1"},
            log_file=log_file,
            error_file=_error_file(path),
            failure=InputError,
        )
    return path


def rows(path: Path) -> list[Row]:
    """The rows in a file that `rows_file` made."""
    found: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return found


def passages(rows: list[Row], *, num_chars: int = PASSAGE_CHARS) -> Iterator[str]:
    """The same text in pieces of whole rows, of at least `num_chars` each but for the last."""
    piece: list[str] = []
    length = 0
    for row in (row for row in rows if isinstance(row, str)):
        piece.append(row)
        length += len(row) + len(JOINED_BY)
        if length >= num_chars:
            yield JOINED_BY.join(piece)
            piece, length = [], 0
    if any(row.strip() for row in piece):
        yield JOINED_BY.join(piece)


# ── the environment's side ─────────────────────────────────────────────────────────────────


def read_rows(folder: Path, config: str, split: str, column: str) -> list[Row]:
    """Every row of the split, in the files' order.

    Raises InputError for an unknown config or split, a file that is missing or no parquet, a set without a
    column of text, and one without any text.
    """
    import pyarrow
    import pyarrow.parquet

    found: list[Row] = []
    for path in _files(folder, config, split):
        try:
            file = pyarrow.parquet.ParquetFile(path)
            if column not in file.schema_arrow.names:
                raise InputError(
                    f"the evaluation set has no column {column!r}",
                    where=path.relative_to(folder).as_posix(),
                    fix=f"its columns are: {', '.join(file.schema_arrow.names)}",
                )
            for batch in file.iter_batches(columns=[column]):
                found += _checked(
                    batch.column(0).to_pylist(), f"{path.relative_to(folder).as_posix()}: {column}"
                )
        except (pyarrow.ArrowInvalid, OSError) as e:
            raise InputError(
                f"a file of the evaluation set is no readable parquet: {str(e).splitlines()[0]}",
                where=path.relative_to(folder).as_posix(),
                fix="name a set whose files are parquet",
            ) from e
    if not any(row.strip() if isinstance(row, str) else row for row in found):
        raise InputError(
            f"the evaluation set has no text in its {len(found):,} rows",
            where=f"config {config}, split {split}",
            fix="name a split that has some",
        )
    return found


def _checked(values: list[Any], where: str) -> list[Row]:
    if wrong := [value for value in values if not (isinstance(value, str) or _is_conversation(value))]:
        raise InputError(
            f"the evaluation set's column holds {type(wrong[0]).__name__}, not text",
            where=where,
            fix="name a set of plain text, or of conversations as lists of role and content",
        )
    return values


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(each, dict) and all(isinstance(each.get(part), str) for part in ("role", "content"))
            for each in value
        )
    )


def _files(folder: Path, config: str, split: str) -> list[Path]:
    found = sorted({path for pattern in _patterns(folder, config, split) for path in folder.glob(pattern)})
    if not found:
        raise InputError(
            "the evaluation set's files are not there",
            where=f"config {config}, split {split}",
            why="its README names files that the repo does not have at this commit",
            fix="name another revision",
        )
    return found


def _patterns(folder: Path, config: str, split: str) -> list[str]:
    """Which files make the split, as the README's `configs` say."""
    configs = _configs(folder / "README.md")
    if config not in configs:
        raise InputError(
            f"the evaluation set has no config {config!r}",
            where=folder.name,
            fix=f"there are: {', '.join(configs) or 'none'}",
        )
    if split not in configs[config]:
        raise InputError(
            f"the evaluation set has no split {split!r} in its config {config!r}",
            where=folder.name,
            fix=f"there are: {', '.join(configs[config]) or 'none'}",
        )
    for pattern in configs[config][split]:
        if pattern.startswith("/") or ".." in pattern.split("/") or "://" in pattern:
            raise InputError("the evaluation set's README leaves its repo", where=f"{config}: {pattern}")
    return configs[config][split]


def _configs(readme: Path) -> dict[str, dict[str, list[str]]]:
    """Config → split → patterns of files."""
    try:
        head = _FRONT_MATTER.match(readme.read_text(encoding="utf-8"))
        content = yaml.safe_load(head[1]) if head else None
        configs = content.get("configs") if isinstance(content, dict) else None
        return {str(each["config_name"]): _splits(each["data_files"]) for each in configs or []}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as e:
        raise InputError(
            f"the evaluation set's README does not say which files make its splits ({type(e).__name__})",
            where=readme.parent.name,
            fix="name a set whose README has `configs` with `data_files`",
        ) from e


def _splits(data_files: list[dict[str, Any]]) -> dict[str, list[str]]:
    paths = {str(each["split"]): each["path"] for each in data_files}
    return {split: [path] if isinstance(path, str) else list(map(str, path)) for split, path in paths.items()}


def _error_file(path: Path) -> Path:
    return path.with_name(path.name + ".error")


def main(argv: list[str]) -> int:
    """Read one split and write its rows; 0 when it is done."""
    folder, config, split, column, out = Path(argv[0]), argv[1], argv[2], argv[3], Path(argv[4])
    _error_file(out).unlink(missing_ok=True)
    try:
        write_atomically(out, json.dumps(read_rows(folder, config, split, column)).encode())
    except ReleaseBotError as e:
        fields = {"error": type(e).__name__, "what": e.what, "where": e.where, "why": e.why, "fix": e.fix}
        _error_file(out).write_text(json.dumps(fields), encoding="utf-8")
        print(e)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
