"""Which repo is the predecessor of which: the same name of an older version, by the same recipe."""

from __future__ import annotations

import pytest

from bot.stages.curate import predecessor

KNOWN = [
    "acme/Qwen3-27B-NVFP4",
    "acme/Qwen3.5-27B-NVFP4",
    "acme/Qwen3.5-27B-GPTQ-W4A16-G128",
    "acme/Qwen3.5-9B-NVFP4",
    "acme/Qwen3.10-27B-NVFP4",
    "acme/something",
    "other/Qwen3.6-27B-NVFP4",
]


@pytest.mark.parametrize(
    ("repo", "suffix", "before"),
    [
        ("acme/Qwen3.6-27B-NVFP4", "NVFP4", "acme/Qwen3.5-27B-NVFP4"),
        ("acme/Qwen3.5-27B-NVFP4", "NVFP4", "acme/Qwen3-27B-NVFP4"),
        ("acme/Qwen4-27B-NVFP4", "NVFP4", "acme/Qwen3.10-27B-NVFP4"),
        ("acme/Qwen3-27B-NVFP4", "NVFP4", None),
        ("acme/Qwen3.6-27B-GPTQ-W4A16-G128", "GPTQ-W4A16-G128", "acme/Qwen3.5-27B-GPTQ-W4A16-G128"),
        ("acme/Qwen3.6-4B-NVFP4", "NVFP4", None),
        ("acme/27B-NVFP4", "NVFP4", None),
        ("acme/Qwen3.6-27B", "NVFP4", None),
    ],
)
def test_the_newest_older_version_of_the_same_name(repo: str, suffix: str, before: str | None):
    assert predecessor(repo, suffix, [*KNOWN, repo]) == before
