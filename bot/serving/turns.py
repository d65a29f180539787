"""A chat template as token ids, so that a conversation can be grown to an exact number of tokens.

The engine continues token ids; what the template puts around a user's text is found by tokenizing a probe
conversation and looking for the probe's letters. No template is parsed, and none is assumed. An answer stays
in the conversation as it was generated, its thinking included, where a template may drop that from earlier
turns: the same for every checkpoint that is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.serving.client import Client, garbage

ASKED, ANSWERED = "q", "z"


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Token ids before the first user's text, between an answer and the next one, and after a text."""

    first: list[int]
    between: list[int]
    after: list[int]

    @property
    def num_tokens(self) -> int:
        """The most that a turn needs beside its text."""
        return max(len(self.first), len(self.between)) + len(self.after)

    def grown(self, conversation: Sequence[int], text: Sequence[int]) -> list[int]:
        """`conversation` (empty, or ended by an answer) with one more user's turn, up to its answer."""
        return [*conversation, *(self.between if conversation else self.first), *text, *self.after]

    def room(self, conversation: Sequence[int], context_tokens: int) -> int:
        """Tokens of text that make the next prompt exactly `context_tokens` long."""
        return context_tokens - len(self.grown(conversation, []))


def of(client: Client) -> Turns:
    """The turns of the served model's chat template. Raises NotServable where it drops what is said."""
    user, assistant = {"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}
    asked, answered = client.tokenize(ASKED), client.tokenize(ANSWERED)
    single, double = client.tokenize([user]), client.tokenize([user, assistant, user])
    try:
        return between(single, double, asked=asked[-1], answered=answered[-1])
    except (ValueError, IndexError) as e:
        raise garbage("the chat template renders a conversation without what was said in it") from e


def between(single: list[int], double: list[int], *, asked: int, answered: int) -> Turns:
    """Turns from user, and from user, assistant, user. Raises ValueError where a probe is missing."""
    at, again = _last(single, asked), _last(double, asked)
    reply = _last(double[:again], answered)
    return Turns(first=single[:at], between=double[reply + 1 : again], after=single[at + 1 :])


def _last(tokens: list[int], wanted: int) -> int:
    return len(tokens) - 1 - tokens[::-1].index(wanted)
