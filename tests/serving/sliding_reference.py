"""Perplexity as transformers' documentation does it, and full log-probabilities: what ours is held against.

Runs in the engine's environment: `python sliding_reference.py JOB.json …`, where a job names `folder`,
`text_file`, `dtype`, `window`, `stride`, `max_tokens`, `full_windows` and `out`. One window at a time, on the
same weights in the same dtype; nothing of the bot is imported. Leaves `nll` (every token but the first),
`logprobs` (of the first `full_windows` windows side by side) and `seconds` (of the sliding windows alone).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer


def main(job: dict) -> None:
    text = Path(job["text_file"]).read_bytes().decode()
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[:, : job["max_tokens"]]
    dtype = getattr(torch, job["dtype"])
    model = AutoModelForImageTextToText.from_pretrained(job["folder"], dtype=dtype).eval()
    with torch.inference_mode():
        model(ids[:, :64])
        started = time.perf_counter()
        nll, num_tokens = sliding(model, ids, job["window"], job["stride"])
        seconds = time.perf_counter() - started
        logprobs = [whole(model, ids, i, job["window"]) for i in range(job["full_windows"])]
    np.savez(
        job["out"],
        nll=nll,
        seconds=seconds,
        num_tokens=num_tokens,
        logprobs=np.concatenate(logprobs) if logprobs else np.zeros((0, 0)),
    )


def sliding(model, ids: torch.Tensor, window: int, stride: int) -> tuple[np.ndarray, int]:
    """The known loop; losses of every token but the first, and how many tokens went through the model."""
    losses, before, num_tokens = [], 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        inputs = ids[:, begin:end]
        targets = inputs.clone()
        targets[:, : -(end - before)] = -100
        logits = model(inputs).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], targets[0, 1:], reduction="none")
        losses.append(loss[targets[0, 1:] != -100].double().numpy())
        num_tokens += inputs.shape[1]
        before = end
        if end == ids.shape[1]:
            break
    return np.concatenate(losses), num_tokens


def whole(model, ids: torch.Tensor, index: int, window: int) -> np.ndarray:
    """Log-probabilities over the vocabulary after each token but the last of one window."""
    logits = model(ids[:, index * window : (index + 1) * window]).logits
    return logits[0, :-1].float().log_softmax(-1).numpy()


if __name__ == "__main__":
    for path in sys.argv[1:]:
        main(json.loads(Path(path).read_bytes()))
