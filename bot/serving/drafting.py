"""How often the MTP head's drafts are taken, and whether drafting leaves the text as it is.

A head that is missing or dead costs speed and nothing else: the text stays right, the log says that the
drafter was loaded. Only the engine's counters tell. They are read before and after each kind of prompts;
every answer has the same length (`ignore_eos`), so that a kind's share does not depend on who stops early.

Greedy answers are kept as token ids, with drafting and without. Whether the two must be equal is a matter of
what the engine promises (`PROMISE`), which is data with its source, and no verdict of this module.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bot import log
from bot.measurements import Acceptance, DraftsOfKind, Equality, Greedy
from bot.serving import prompts
from bot.serving.client import Client, drafts_between

# Enough to keep an engine busy, and no more than any recipe's max_num_seqs.
WORKERS = 8


@dataclass(frozen=True, kw_only=True)
class Promise:
    """Whether an engine promises that greedy text is the same with drafting; `versions` it was read for."""

    holds: bool
    why: str
    versions: str
    sources: tuple[str, ...]


PROMISE = Promise(
    holds=False,
    why=(
        "vLLM calls speculative decoding lossless up to the precision of the hardware: verifying several "
        "tokens in one pass rounds otherwise than one at a time, and a near-tie of two logits in BF16 then "
        "goes the other way. Its batch-invariant mode, which would exclude that, needs a GPU and refuses "
        "models with gated delta net layers."
    ),
    versions="0.32.0",
    sources=(
        "vLLM documentation, Speculative Decoding, Lossless guarantees",
        "vLLM documentation, Batch Invariance",
        "vllm/v1/attention/selector.py: get_mamba_attn_backend",
    ),
)


def acceptance(client: Client, *, num_speculative_tokens: int, output_tokens: int) -> Acceptance:
    """Drafts and how many were accepted over all real prompts, by kind; `output_tokens` for each prompt.

    Nothing else may ask the server meanwhile, since the counters are the engine's. Raises what Client does.
    """
    started, kinds = time.monotonic(), prompts.kinds()
    first = before = client.drafts()
    rows: list[DraftsOfKind] = []
    with log.Progress("acceptance", total=sum(map(len, kinds.values())), unit=" prompts") as progress:
        done = 0
        for kind, asked in kinds.items():
            _answers(client, asked, output_tokens)
            after = client.drafts()
            rows.append(DraftsOfKind(kind=kind, num_prompts=len(asked), drafts=drafts_between(before, after)))
            before, done = after, done + len(asked)
            progress.update(done, note=kind)
    return Acceptance(
        num_speculative_tokens=num_speculative_tokens,
        num_output_tokens=output_tokens,
        total=drafts_between(first, before),
        kinds=rows,
        wall_s=time.monotonic() - started,
    )


def greedy(client: Client, output_tokens: int) -> Greedy:
    """Greedy token ids after each real prompt, kinds in order. Raises what Client does."""
    started = time.monotonic()
    asked = [prompt for kind in prompts.kinds().values() for prompt in kind]
    return Greedy(tokens=_answers(client, asked, output_tokens), wall_s=time.monotonic() - started)


def _answers(client: Client, asked: Sequence[str], output_tokens: int) -> list[list[int]]:
    def answer(prompt: str) -> list[int]:
        message = {"role": "user", "content": prompt}
        return client.chat([message], max_tokens=output_tokens, ignore_eos=True).token_ids

    return client.map(answer, asked, workers=WORKERS)


def equality(
    with_drafting: Sequence[Sequence[int]],
    without: Sequence[Sequence[int]],
    *,
    promised: bool = PROMISE.holds,
    why: str = PROMISE.why,
) -> Equality:
    """The same greedy prompts both ways, token ids in the same order. Raises ValueError for other counts."""
    pairs = list(zip(with_drafting, without, strict=True))
    shares = [leading_share(one, other) for one, other in pairs]
    return Equality(
        num_prompts=len(pairs),
        num_equal=sum(list(one) == list(other) for one, other in pairs),
        promised=promised,
        why=why,
        mean_equal_share=sum(shares) / len(shares) if shares else 1.0,
    )


def leading_share(one: Sequence[int], other: Sequence[int]) -> float:
    """Share (0–1) of the longer sequence's tokens before the first difference; 1 for two empty ones."""
    longest = max(len(one), len(other))
    if not longest:
        return 1.0
    equal = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        equal += 1
    return equal / longest
