"""The loads that speed is measured under, and the words of `vllm bench serve` for each.

Random tokens at each number of streams, for comparison with other people's figures; and the real prompts of
each kind in one stream, since drafts hold more often in code than in prose.

What is held equal. Every request is greedy and ignores the end token, so that a load is the same work for
every checkpoint; drafts that hold in greedy text hold less often in sampled text. Each run has a seed of its
own, and real prompts a cache salt of their own: a prefix cache never answers a prompt that an earlier run
sent. Requests are sent as fast as the streams allow; with more streams than the server's `max_num_seqs`,
time to first token measures the queue. Not covered: images, long prompts, request rates below saturation.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bot.errors import RecipeError
from bot.recipe_evaluation import SpeedPlan

SLACK_TOKENS: Final = 16  # random ids become text and ids again; a prompt can come out some tokens longer
PUBLIC_URL: Final = "http://localhost:8000"
RANDOM: Final = "random"
SEEDS_PER_LOAD: Final = 100


@dataclass(frozen=True, kw_only=True)
class BenchLoad:
    """One row of the table: what is sent, how many at a time, how often. `prompts` is empty for random."""

    dataset: str
    streams: int
    max_num_seqs: int
    input_tokens: int | None
    output_tokens: int
    num_prompts: int
    num_runs: int
    first_seed: int
    prompts: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.streams}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server as the bench is told of it; `tokenizer` is a folder, or a repo's name where it is printed."""

    url: str
    model: str
    tokenizer: str


def plan_runs(plan: SpeedPlan, *, max_num_seqs: int, kinds: Mapping[str, Sequence[str]]) -> list[BenchLoad]:
    """Random tokens at each number of streams, then the real prompts of each kind in one stream."""
    loads: list[tuple[str, int, int | None, int, tuple[str, ...]]] = [
        (RANDOM, streams, plan.input_tokens, plan.prompts_per_stream * streams, ())
        for streams in plan.streams
    ]
    asked = {kind: tuple(prompts[: plan.prompts_per_kind]) for kind, prompts in kinds.items()}
    loads += [(kind, 1, None, len(prompts), prompts) for kind, prompts in asked.items() if prompts]
    return [
        BenchLoad(
            dataset=dataset,
            streams=streams,
            max_num_seqs=max_num_seqs,
            input_tokens=input_tokens,
            output_tokens=plan.output_tokens,
            num_prompts=num_prompts,
            num_runs=plan.num_runs,
            first_seed=index * SEEDS_PER_LOAD,
            prompts=prompts,
        )
        for index, (dataset, streams, input_tokens, num_prompts, prompts) in enumerate(loads)
    ]


def check_fits(plan: SpeedPlan, max_model_len: int) -> None:
    """Raise RecipeError when a random prompt and its answer are longer than the context that is served."""
    needed = plan.input_tokens + plan.output_tokens + SLACK_TOKENS
    if needed > max_model_len:
        raise RecipeError(
            f"evaluation.speed asks for {plan.input_tokens} + {plan.output_tokens} tokens and {SLACK_TOKENS} "
            f"of slack, and the server's max_model_len is {max_model_len}",
            why="a request longer than the context is refused; random prompts vary by a few tokens",
            fix="lower evaluation.speed.input_tokens or output_tokens, or raise serve.max_model_len",
        )


def arguments(
    load: BenchLoad, target: Target, *, seed: int, num_prompts: int, dataset_file: str
) -> list[str]:
    """The words after `vllm bench serve` for one run (vLLM 0.32.0, vllm/benchmarks/serve.py).

    `dataset_file` holds the load's real prompts and is not used for random ones.
    """
    words = ["--backend", "openai", "--base-url", target.url]
    words += ["--model", target.model, "--tokenizer", target.tokenizer]
    if load.input_tokens is not None:
        words += ["--dataset-name", "random", "--random-input-len", str(load.input_tokens)]
        words += ["--random-output-len", str(load.output_tokens)]
    else:
        words += ["--dataset-name", "custom", "--dataset-path", dataset_file, "--disable-shuffle"]
        words += ["--custom-output-len", str(load.output_tokens)]
        words += ["--extra-body", json.dumps({"cache_salt": f"run-{seed}"}, separators=(",", ":"))]
    words += ["--num-prompts", str(num_prompts), "--max-concurrency", str(load.streams), "--seed", str(seed)]
    words += ["--temperature", "0", "--ignore-eos"]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99"]
    return [*words, "--save-result", "--save-detailed"]


def shown_command(load: BenchLoad, name: str) -> str:
    """The first run of `load` as anyone can make it against a server of `name`: no path of this machine."""
    shown = name.rstrip("/").rpartition("/")[2] if name.startswith("/") else name
    target = Target(url=PUBLIC_URL, model=shown, tokenizer=shown)
    words = arguments(
        load,
        target,
        seed=load.first_seed + 1,
        num_prompts=load.num_prompts,
        dataset_file=f"{load.dataset}.jsonl",
    )
    return shlex.join(["vllm", "bench", "serve", *words])
