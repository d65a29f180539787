"""`datasets.load_dataset` works against the embedded Hub with nothing but `HF_ENDPOINT` changed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract.conftest import Hub
from huggingface_hub import CommitOperationAdd

pytestmark = pytest.mark.contract
NAME = "HuggingFaceH4/ultrachat_200k"
CARD = b"""---
license: mit
configs:
- config_name: default
  data_files:
  - split: train_sft
    path: data/train_sft-*
  - split: test_sft
    path: data/test_sft-*
---
A stand-in.
"""
SCRIPT = """
import json, os, sys
from datasets import load_dataset
sha, private = sys.argv[1:]
rows = load_dataset("HuggingFaceH4/ultrachat_200k", split="train_sft")
streamed = load_dataset("HuggingFaceH4/ultrachat_200k", split="train_sft", streaming=True)
pinned = load_dataset("HuggingFaceH4/ultrachat_200k", split="train_sft", revision=sha)
pinned_stream = load_dataset("HuggingFaceH4/ultrachat_200k", split="test_sft", revision=sha, streaming=True)
hidden = load_dataset(private, split="train")
print(json.dumps({
    "rows": rows["prompt"][:], "streamed": [row["prompt"] for row in streamed],
    "pinned": pinned["prompt"][:], "pinned_stream": [row["prompt"] for row in pinned_stream],
    "messages": rows[0]["messages"], "hidden": hidden["text"][:],
}), flush=True)
os._exit(0)  # streaming leaves threads that can abort the interpreter's end on a busy machine
"""


def parquet(prompts: list[str]) -> bytes:
    """The columns of the real data set, in its format."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as pq

    messages = [
        [{"content": p, "role": "user"}, {"content": p.upper(), "role": "assistant"}] for p in prompts
    ]
    table = pa.table(
        {"prompt": prompts, "prompt_id": [str(n) for n in range(len(prompts))], "messages": messages}
    )
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


@pytest.fixture(scope="module")
def seeded(embedded: Hub) -> str:
    """The stand-in with two commits; the first one's id."""
    pytest.importorskip("datasets")
    embedded.api.create_repo(NAME, repo_type="dataset", exist_ok=True)
    files = {
        "README.md": CARD,
        "data/train_sft-00000-of-00002.parquet": parquet(["a", "b"]),
        "data/train_sft-00001-of-00002.parquet": parquet(["c"]),
        "data/test_sft-00000-of-00001.parquet": parquet(["t"]),
    }
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    first = embedded.api.create_commit(NAME, operations, commit_message="data", repo_type="dataset")
    more = CommitOperationAdd("data/train_sft-00001-of-00002.parquet", parquet(["c", "d"]))
    embedded.api.create_commit(NAME, [more], commit_message="more", repo_type="dataset")
    embedded.api.create_repo("release-bot/hidden", repo_type="dataset", private=True, exist_ok=True)
    lines = CommitOperationAdd("train.jsonl", b'{"text": "x"}\n{"text": "y"}\n')
    embedded.api.create_commit("release-bot/hidden", [lines], commit_message="text", repo_type="dataset")
    return str(first.oid)


def test_load_dataset(embedded: Hub, seeded: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": embedded.endpoint,
        "HF_TOKEN": embedded.token,
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, seeded, "release-bot/hidden"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["rows"] == got["streamed"] == ["a", "b", "c", "d"]
    assert got["pinned"] == ["a", "b", "c"], "the revision decides"
    assert got["pinned_stream"] == ["t"]
    assert got["messages"] == [{"content": "a", "role": "user"}, {"content": "A", "role": "assistant"}]
    assert got["hidden"] == ["x", "y"]
