"""Small requests whose answers show that each part of a checkpoint lives.

A checkpoint can load and still have a part that is dead: a vision tower of zeros, a chat template that no
longer asks for thinking, a broken tool format. Each canary asks for one thing that only that part can do and
holds the answer to a rule of its own. The rules fit any Qwen3.5, from one that was trained for minutes to
the largest; what a model is too small for, its base does not hold either, and a gate asks of a release what
its base can do. A wrong answer is a finding and never an error.

Not covered: how good the answers are. That is perplexity's and divergence's to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot import log
from bot.errors import EngineError
from bot.measurements import Canaries, Canary, CanaryId
from bot.serving import pictures
from bot.serving.canary_rules import degenerate, is_city, names_only, says
from bot.serving.canary_texts import BEGINNINGS, WEATHER, ledger
from bot.serving.client import ChatAnswer, Client
from bot.serving.drafting import leading_share
from bot.serving.engine_log import masked
from bot.serving.subject import Subject

ANSWER_TOKENS = 32
TOOL_TOKENS = 64
REASONING_TOKENS = 128
AGREEMENT_TOKENS = 16
NUM_SAMPLED = 8
BATCH_SHARE = 0.5  # of leading tokens; rounding in a batch moves a near-tie late, mixed-up requests all
NUM_AGREEMENT = 12  # of the beginnings
_SAMPLE_PAGES = 64
SIDES = (64, 96, 128, 224)
PLAIN: Mapping[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
THINKING: Mapping[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The server that is asked, and what is known of the checkpoint in it."""

    client: Client
    subject: Subject


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a canary saw; its row in the evidence follows from it."""

    held: bool
    detail: str
    answers: list[str]
    tokens: list[list[int]] = field(default_factory=list)


def run(client: Client, subject: Subject, *, prefix_caching: bool, spared: Mapping[str, str]) -> Canaries:
    """Every canary, one after the other; `prefix_caching` says whether the engine keeps prefixes.

    `spared` are canaries that this engine cannot be asked, and why (`command.spared`).
    Raises what Client raises for an engine that died or hangs and for answers that are garbage.
    """
    started = time.monotonic()
    asked = Asked(client=client, subject=subject)
    rows: list[Canary] = []
    with log.Progress("canaries", total=len(CANARIES)) as progress:
        for name, canary in CANARIES.items():
            why = spared.get(name) or not_applicable(name, subject, prefix_caching=prefix_caching)
            rows.append(_unseen(name, why, applicable=False) if why else _row(name, canary, asked))
            progress.update(len(rows), note=f"{name}: {rows[-1].detail}")
    return Canaries(rows=rows, wall_s=time.monotonic() - started)


def _row(name: CanaryId, canary: Callable[[Asked], Seen], asked: Asked) -> Canary:
    """One canary; a request that the server refuses is a finding, an engine that ends is not."""
    try:
        seen = canary(asked)
    except EngineError as e:
        if e.kind != "refused_request":
            raise
        return _unseen(name, masked(e.what), applicable=True)
    return Canary(
        id=name,
        applicable=True,
        served=True,
        held=seen.held,
        detail=seen.detail,
        answers=seen.answers,
        tokens=seen.tokens,
    )


def _unseen(name: CanaryId, why: str, *, applicable: bool) -> Canary:
    return Canary(id=name, applicable=applicable, served=False, held=False, detail=why, answers=[], tokens=[])


def not_applicable(name: CanaryId, subject: Subject, *, prefix_caching: bool) -> str | None:
    """Why this canary says nothing of this checkpoint as it is served; None where it does."""
    if name in ("image", "video"):
        if not subject.facts.num_visual_tensors:
            return "the checkpoint has no vision tower"
        if subject.serve.limit_mm_per_prompt.get(name) == 0:
            return f"the recipe serves no {name}"
    if name == "prefix_cache" and not prefix_caching:
        return "prefix caching is off"
    return None


# ── text ───────────────────────────────────────────────────────────────────────────────────


def _chat(asked: Asked, content: str, *, max_tokens: int = ANSWER_TOKENS, **options: Any) -> ChatAnswer:
    message = {"role": "user", "content": content}
    return asked.client.chat([message], max_tokens=max_tokens, **{**PLAIN, **options})


def _fact(asked: Asked) -> Seen:
    answer = _chat(asked, "What is the capital of France?").content
    return Seen(held=says(answer, "Paris"), detail="Paris is right", answers=[answer])


def _arithmetic(asked: Asked) -> Seen:
    answer = _chat(asked, "What is 17 + 25?").content
    return Seen(held=says(answer, "42"), detail="42 is right", answers=[answer])


def _agreement(asked: Asked) -> Seen:
    tokens = [_continued(asked, each) for each in BEGINNINGS[:NUM_AGREEMENT]]
    why = degenerate(tokens)
    return Seen(held=why is None, detail=why or f"{len(tokens)} answers", answers=[], tokens=tokens)


def _continued(asked: Asked, beginning: str | Sequence[int]) -> list[int]:
    # Log-probabilities are asked for since weights that are no numbers answer, and only these show it.
    answer = asked.client.complete(beginning, max_tokens=AGREEMENT_TOKENS, ignore_eos=True, logprobs=0)
    return answer.token_ids


# ── vision ─────────────────────────────────────────────────────────────────────────────────


def _image(asked: Asked) -> Seen:
    answers = {}
    for colour, side in zip(pictures.COLOURS, SIDES, strict=True):
        messages = pictures.about_image(pictures.image_url(colour, side), "What colour is this image?")
        answers[colour] = asked.client.chat(messages, max_tokens=ANSWER_TOKENS, **PLAIN).content
    right = sum(names_only(answer, colour) for colour, answer in answers.items())
    held = right >= len(answers) - 1 and answers["red"] != answers["blue"]
    return Seen(held=held, detail=f"{right} of {len(answers)} colours right", answers=list(answers.values()))


def _video(asked: Asked) -> Seen:
    answers = []
    for colours in (("red", "blue"), ("green", "yellow")):
        messages = pictures.about_video(pictures.video_url(colours, 128), "What colour is this video?")
        answers.append(asked.client.chat(messages, max_tokens=ANSWER_TOKENS, **PLAIN).content)
    held = all(answers) and answers[0] != answers[1]
    return Seen(held=held, detail=f"the two answers {'differ' if held else 'are the same'}", answers=answers)


# ── formats that the server parses ─────────────────────────────────────────────────────────


def _tool_call(asked: Asked) -> Seen:
    answer = _chat(asked, "What is the weather in Paris?", max_tokens=TOOL_TOKENS, tools=[dict(WEATHER)])
    calls = [f"{call.name}({call.arguments})" for call in answer.tool_calls]
    right = [call for call in answer.tool_calls if call.name == "get_weather" and is_city(call.arguments)]
    return Seen(
        held=bool(right), detail=f"{len(right)} right calls parsed", answers=calls or [answer.content]
    )


def _reasoning(asked: Asked) -> Seen:
    answer = _chat(asked, "What does json.dumps do?", max_tokens=REASONING_TOKENS, **THINKING)
    leaks = "<think>" in answer.content or "</think>" in answer.content
    held = bool((answer.reasoning or "").strip()) and not leaks
    detail = "reasoning leaks into the content" if leaks else "reasoning is apart" if held else "no reasoning"
    return Seen(held=held, detail=detail, answers=[answer.reasoning or "", answer.content])


# ── load ───────────────────────────────────────────────────────────────────────────────────


def _long_prompt(asked: Asked) -> Seen:
    served = _max_model_len(asked)
    text, num_tokens = _ledger(asked.client, served - ANSWER_TOKENS)
    answer = _chat(asked, text)
    held = says(answer.content, "7412")
    found = "found" if held else "not found"
    return Seen(
        held=held,
        detail=f"answered after {num_tokens} of {served} tokens; the number in it was {found}",
        answers=[answer.content],
    )


def _max_model_len(asked: Asked) -> int:
    """The context that the server really serves."""
    told = [each["max_model_len"] for each in asked.client.models() if each.get("max_model_len")]
    return told[0] if told else min(asked.subject.serve.max_model_len, asked.subject.max_position_embeddings)


def _ledger(client: Client, limit: int) -> tuple[str, int]:
    """A question after a long text that holds its answer: at most `limit` tokens, and near that.

    Templates add a few tokens when thinking is off, which `tokenize` does not see: 16 are left for them.
    """
    room = limit - 16
    least, some = _length(client, ledger(0)), _length(client, ledger(_SAMPLE_PAGES))
    page = (some - least) / _SAMPLE_PAGES
    pages = max(0, int((room - least) / page))
    while (length := _length(client, ledger(pages))) > room and pages:
        pages -= max(1, int((length - room) / page))
    return ledger(pages), length


def _length(client: Client, content: str) -> int:
    return len(client.tokenize([{"role": "user", "content": content}]))


def _batch(asked: Asked) -> Seen:
    """Sixteen requests at once against each alone: an engine that mixes them up answers otherwise."""
    alone = [_continued(asked, each) for each in BEGINNINGS]
    together = asked.client.map(
        lambda each: _continued(asked, each), list(BEGINNINGS), workers=len(BEGINNINGS)
    )
    shares = [leading_share(one, other) for one, other in zip(alone, together, strict=True)]
    mean = sum(shares) / len(shares)
    equal = sum(share == 1 for share in shares)
    return Seen(
        held=all(together) and mean >= BATCH_SHARE,
        detail=f"{equal} of {len(shares)} answers as alone, {mean:.0%} of leading tokens",
        answers=[],
    )


def _sampled(asked: Asked) -> Seen:
    """Answers as people get them: drawn by the checkpoint's own `generation_config.json`, not greedy."""
    told: dict[str, Any] = {"temperature": None, "ignore_eos": True, "logprobs": True}
    answers = [
        _chat(asked, "Tell me something about rivers.", seed=seed, **told) for seed in range(NUM_SAMPLED)
    ]
    tokens = [answer.token_ids for answer in answers]
    why = degenerate(tokens)
    return Seen(
        held=why is None,
        detail=why or f"{len({tuple(each) for each in tokens})} different answers of {len(tokens)}",
        answers=[answers[0].content],
    )


def _prefix_cache(asked: Asked) -> Seen:
    """The same prompt twice, long enough to fill blocks of a hybrid model's cache."""
    text, num_tokens = _ledger(asked.client, min(4096, _max_model_len(asked)) - ANSWER_TOKENS)
    before = _hits(asked.client)
    answers = [_chat(asked, text, max_tokens=AGREEMENT_TOKENS) for _ in range(2)]
    hits = _hits(asked.client) - before
    return Seen(
        held=answers[0].token_ids == answers[1].token_ids,
        detail=f"a prompt of {num_tokens} tokens twice, {hits} of them from the cache",
        answers=[each.content for each in answers],
    )


def _hits(client: Client) -> int:
    return int(sum(s.value for s in client.metrics() if s.name == "vllm:prefix_cache_hits_total"))


CANARIES: Mapping[CanaryId, Callable[[Asked], Seen]] = {
    "text.fact": _fact,
    "text.arithmetic": _arithmetic,
    "text.agreement": _agreement,
    "image": _image,
    "video": _video,
    "tool_call": _tool_call,
    "reasoning": _reasoning,
    "long_prompt": _long_prompt,
    "batch": _batch,
    "sampled": _sampled,
    "prefix_cache": _prefix_cache,
}
