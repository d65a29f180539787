"""The evaluation set as one checkpoint's tokenizer sees it; runs in the engine's environment."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bot.errors import InputError
from bot.serving.evaluation_text import JOINED_BY, Row, rows
from bot.serving.score_engine import Ids
from bot.serving.score_job import ScoreJob


@dataclass(frozen=True, kw_only=True)
class Text:
    """The evaluation set as this checkpoint's tokenizer sees it."""

    sha256: str
    ids: Ids


def text_of(job: ScoreJob) -> Text:
    """The set's rows joined and tokenized, without added special tokens. Raises InputError."""
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(job.folder, local_files_only=True)
        text = _joined(rows(Path(job.rows_file)), tokenizer)
        ids = np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    except (OSError, ValueError, KeyError, TemplateError) as e:
        raise InputError(
            f"the tokenizer cannot be used: {(str(e).strip() or type(e).__name__).splitlines()[0]}",
            where=job.name,
            fix="take the tokenizer's files from the base",
        ) from e
    if ids.size and ids.max() >= job.vocab_size:
        raise InputError(
            f"the tokenizer gives token {ids.max()}, and the model has {job.vocab_size:,}",
            where=job.name,
            why="tokenizer and model do not belong together",
            fix="take the tokenizer's files from the base",
        )
    return Text(sha256=hashlib.sha256(text.encode()).hexdigest(), ids=ids)


def _joined(found: list[Row], tokenizer: Any) -> str:
    """Texts with an empty line between; conversations as the chat template has them, one after the other."""
    if any(isinstance(row, str) for row in found):
        return JOINED_BY.join(row for row in found if isinstance(row, str))
    return "".join(tokenizer.apply_chat_template(row, tokenize=False) for row in found)


def digest(ids: Ids) -> str:
    """sha256 over token ids as little-endian 32-bit integers."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i4").tobytes()).hexdigest()
