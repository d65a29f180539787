"""vLLM inside a process of the bot: prompts of token ids in, log-probabilities of their tokens out.

It is the engine that a card's command starts, with the same arguments but without a server around it.
`prompt_logprobs` gives at each position the token that stands there and the likeliest ones, as Python lists:
about 84 bytes an entry, with token ids and ranks beside. So what is asked for at once is bounded here, and
turned into arrays at once.

Prompt log-probabilities are taken from logits before any temperature or penalty (`raw_logprobs`), in float32.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bot.errors import InputError
from bot.serving.store import replacing
from bot.serving.windows import Window

Ids = NDArray[np.int32]
Array = NDArray[Any]

BATCH_ENTRIES = 2**23
MAX_WINDOW_ENTRIES = 2**26
BATCH_TOKENS = 2**17


class Garbage(Exception):
    """The checkpoint's scores are no numbers, or absent."""


class Scorer:
    """vLLM in this process."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        from vllm import LLM

        started = time.monotonic()
        self._llm = LLM(**arguments)
        self.start_s = time.monotonic() - started

    @property
    def scores_given_ids(self) -> bool:
        """Whether the engine gives log-probabilities at ids that it is told."""
        return bool(self._llm.llm_engine.vllm_config.use_v2_model_runner)

    def outputs(self, prompts: Sequence[Ids], parameters: Sequence[dict[str, Any]]) -> list[Any]:
        """vLLM's outputs, in order."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        return list(
            self._llm.generate(
                [TokensPrompt(prompt_token_ids=ids.tolist()) for ids in prompts],
                [SamplingParams(**each) for each in parameters],
                use_tqdm=False,
            )
        )


def parameters(num_logprobs: int, at_ids: Array | None = None) -> dict[str, Any]:
    """Sampling parameters that score a prompt: the token that stands there and the `num_logprobs` likeliest.

    -1 is the whole vocabulary. `at_ids` `[T - 1, k]`: ids to be scored at each position besides.
    """
    asked: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0, "detokenize": False, "flat_logprobs": True}
    asked["prompt_logprobs"] = num_logprobs
    if at_ids is not None:
        asked["prompt_logprob_token_ids"] = np.ascontiguousarray(at_ids, dtype=np.int32)
    return asked


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Log-probabilities of a prompt's tokens 1…T-1: of the token itself, and of the likeliest, best first."""

    nll: NDArray[np.float64]
    ids: Ids
    logprobs: NDArray[np.float32]

    def over(self, vocab_size: int) -> NDArray[np.float32]:
        """`[T - 1, V]` by token id, when all of the vocabulary was asked for. Raises Garbage."""
        if self.ids.shape[1] != vocab_size:
            raise Garbage(f"{self.ids.shape[1]:,} log-probabilities a token, not {vocab_size:,}")
        by_id = np.full(self.logprobs.shape, np.nan, dtype=np.float32)
        np.put_along_axis(by_id, self.ids, self.logprobs, axis=1)
        return by_id


def rows_of(flat: Any, num_tokens: int) -> Rows:
    """vLLM's `FlatLogprobs` of a prompt of `num_tokens` tokens as arrays. Raises Garbage."""
    positions = num_tokens - 1
    count = len(flat.logprobs) if flat is not None else 0
    if not count or count % positions:
        raise Garbage(f"the engine gave {count:,} log-probabilities for {positions:,} tokens")
    logprobs = np.asarray(flat.logprobs, dtype=np.float64).reshape(positions, -1)
    ids = np.asarray(flat.token_ids, dtype=np.int32).reshape(positions, -1)
    if not np.isfinite(logprobs[:, 0]).all():
        bad = int((~np.isfinite(logprobs[:, 0])).sum())
        raise Garbage(f"{bad:,} of {positions:,} tokens have a log-probability that is no finite number")
    return Rows(nll=-logprobs[:, 0], ids=ids[:, 1:], logprobs=logprobs[:, 1:].astype(np.float32))


def batches(windows: Sequence[Window], entries_a_token: int) -> Iterator[list[tuple[int, Window]]]:
    """The windows with their numbers, as many at a time as fit in memory and keep the engine full."""
    batch: list[tuple[int, Window]] = []
    tokens = 0
    for number, window in enumerate(windows):
        more = tokens + window.num_tokens
        if batch and (more > BATCH_TOKENS or more * entries_a_token > BATCH_ENTRIES):
            yield batch
            batch, tokens = [], 0
        batch.append((number, window))
        tokens += window.num_tokens
    if batch:
        yield batch


def refuse_huge(window_tokens: int, vocab_size: int) -> None:
    """Raises InputError where the whole vocabulary of one window is more than a process should hold."""
    if window_tokens * vocab_size > MAX_WINDOW_ENTRIES:
        raise InputError(
            f"this engine gives log-probabilities for whole vocabularies only: {window_tokens:,} tokens "
            f"times {vocab_size:,} entries do not fit in memory",
            where="divergence",
            why="scoring at given ids needs vLLM's V2 model runner, which runs on CUDA",
            fix="measure it on a machine with a GPU, or lower evaluation.window_tokens",
        )


def save(path: str, arrays: dict[str, Array]) -> None:
    """Write per-token arrays; a reader sees all of the file or none."""
    with replacing(Path(path)) as partial, partial.open("wb") as file:
        np.savez(file, **cast("dict[str, Any]", arrays))
