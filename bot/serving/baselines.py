"""What a release is held against: its base, and the official FP8 repo where there is one.

An FP8 repo counts as the base's own when the same author published it under the base's name with `-FP8`, its
card names no other base, and its config says FP8 and describes the same network. A repo that fails one of
these is somebody's experiment, or the FP8 of another base, and no row of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bot import log
from bot.checkpoint.documents import read_object
from bot.checkpoint.hub import HubSource
from bot.edges.hub import Hub, RepoState
from bot.errors import InputError

SUFFIX: Final = "-FP8"
# Fields of a config that say whether two checkpoints are the same network.
NETWORK: Final = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)

Config = Mapping[str, Any]


# ── the official FP8 repo ──────────────────────────────────────────────────────────────────


def official_fp8(base_repo_id: str, hub: Hub, *, base_revision: str | None = None) -> RepoState | None:
    """The base's FP8 repo at its newest commit; None when there is none, or it is not the base's own.

    Two listings and two small files are read. Raises InfrastructureError when the Hub does not answer.
    """
    if base_repo_id.endswith(SUFFIX):
        return None
    try:
        state = hub.state(base_repo_id + SUFFIX)
        config = _config(state.repo_id, state.revision, hub)
    except InputError as e:
        log.info(f"  no {base_repo_id}{SUFFIX}: {e.what}")
        return None
    base_config = _config(base_repo_id, base_revision, hub)
    reason = not_its_fp8(base_repo_id, base_config, state, config)
    if reason:
        log.warning(f"{state.repo_id} is no baseline: {reason}")
    return None if reason else state


def not_its_fp8(base_repo_id: str, base_config: Config, state: RepoState, config: Config) -> str | None:
    """Why `state`, whose config.json is `config`, is not the FP8 of the base; None when it is."""
    if state.repo_id != base_repo_id + SUFFIX:
        return f"it is {state.repo_id} now"  # the Hub follows renames
    named = _names(state.card.get("base_model"))
    if named and base_repo_id not in named:
        return f"its card says that it was made from {', '.join(named)}"
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if method != "fp8":
        return f"its quant_method is {method!r}, not 'fp8'"
    for field in ("model_type", "architectures", *NETWORK):
        theirs, ours = _field(config, field), _field(base_config, field)
        if theirs != ours:
            return f"its {field} is {theirs!r}, the base's {ours!r}"
    return None


def _names(value: object) -> list[str]:
    """`base_model` of a card: one name, or a list of them."""
    if isinstance(value, list):
        return [str(each) for each in value]
    return [value] if isinstance(value, str) else []


def _field(config: Config, name: str) -> object:
    """A field of the config, or of its language model's section."""
    text = config.get("text_config")
    inner = text if name in NETWORK and isinstance(text, Mapping) else {}
    return inner.get(name, config.get(name))


def _config(repo_id: str, revision: str | None, hub: Hub) -> dict[str, Any]:
    source = HubSource(repo_id, revision, token=hub.api.token if isinstance(hub.api.token, str) else None)
    found: dict[str, Any] = read_object(source, "config.json")
    return found
