"""How documents become samples of the lengths that a recipe asks for: token ids in, token ids out.

The three modes are those of `bot.recipe_calibration.Lengths`. A joined sample never shares a document with
another, and what a cut leaves over is not used: samples are independent draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from bot.recipe_calibration import Lengths


def cut(
    documents: Iterable[list[int]],
    lengths: Lengths,
    num_samples: int,
    joint: list[int],
    passed: Counter[str],
) -> Iterator[list[int]]:
    """Token ids of samples from those of documents, as `lengths` says; `passed` counts documents left out.

    `joint` stands between two documents of one sample. `spread` gives at most `num_samples`; the other
    modes go on as long as there are documents.
    """
    if lengths.mode == "spread":
        yield from _spread(documents, lengths, num_samples, joint)
        return
    shortest = lengths.max_tokens if lengths.mode == "exact" else lengths.min_tokens
    for ids in documents:
        if len(ids) < shortest:
            passed[f"shorter than {shortest} tokens"] += 1
        else:
            yield ids[: lengths.max_tokens]


def _spread(
    documents: Iterable[list[int]], lengths: Lengths, num_samples: int, joint: list[int]
) -> Iterator[list[int]]:
    source = iter(documents)
    for target in spread_lengths(lengths, num_samples):
        ids: list[int] = []
        while len(ids) < target:
            document = next(source, None)
            if document is None:
                return
            ids += [*joint, *document] if ids else document
        yield ids[:target]


def spread_lengths(lengths: Lengths, num_samples: int) -> list[int]:
    """`num_samples` lengths, evenly from the shortest to the longest; a single one is the longest."""
    if num_samples == 1:
        return [lengths.max_tokens]
    step = (lengths.max_tokens - lengths.min_tokens) / (num_samples - 1)
    return [round(lengths.min_tokens + step * i) for i in range(num_samples)]


def subset_targets(num_samples: int, subsets: list[str]) -> dict[str, int]:
    """Samples a subset: as even as can be, the first ones taking the rest."""
    share, rest = divmod(num_samples, max(1, len(subsets)))
    return {subset: share + (index < rest) for index, subset in enumerate(subsets)}
