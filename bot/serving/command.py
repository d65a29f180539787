"""The command that serves a checkpoint: as its card prints it, and what this machine needs beside it.

A card prints portable flags only, made from the recipe's `serve:` section; a field that asks for the engine's
own default (`auto`, none) prints nothing. What is run is that command with a closed list laid over it: every
item says why it is there, and the list stands in the evidence and on the card. An item replaces a printed
flag of the same name, so `printed + overlay = run` can be checked by reading.

The same settings as keyword arguments serve the engine that runs in a process of its own for scoring: both
come from one place, so that perplexity is measured on the arithmetic that ships.

Paths and ports of this machine are put in at the very end (`argv`); the overlay shows words in their place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bot.measurements import OverlayItem
from bot.recipe import Serve
from bot.serving import quirks
from bot.serving.engine import Engine, platform_items
from bot.serving.subject import Subject

MODEL: Final = "MODEL"  # the one positional argument, named so in the overlay
LEFT_OUT: Final = "left out"
FOLDER: Final = "the checkpoint's folder"
FREE_PORT: Final = "a free port"
OWN_NAME: Final = "a name of this run"
HOST: Final = "127.0.0.1"
SPECULATIVE: Final = "--speculative-config"
TRACKING: Final = '{"enable_weights_track":true}'

# On a CPU the cache takes main memory. 16 KiB a token holds the models that a CPU rehearses (2 × 2 bytes ×
# 256 × KV heads × full attention layers); the engine refuses to start, with the figure, where it does not.
KV_BYTES_PER_TOKEN: Final = 16 * 1024
MIN_KV_BYTES: Final = 512 * 2**20
MAX_KV_SHARE: Final = 1 / 8
DEFAULT_MAX_NUM_SEQS: Final = 16  # as many as the streams that speed is measured with

# Flags of the HTTP server, which an engine without one does not know; and the kinds of the others' values.
_SERVER_ONLY: Final = (
    "--host",
    "--port",
    "--served-model-name",
    "--reasoning-parser",
    "--enable-auto-tool-choice",
    "--tool-call-parser",
)
_NUMBERS: Final = ("--max-model-len", "--max-num-seqs", "--kv-cache-memory-bytes")
_NO_INPUTS: Final = {"image": 0, "video": 0, "audio": 0}


@dataclass(frozen=True, kw_only=True)
class _Flag:
    """One argument; `value` None for a switch."""

    name: str
    value: str | None

    @property
    def key(self) -> str:
        """What the flag sets: `--x` and `--no-x` are two values of one setting."""
        return "--" + self.name.removeprefix("--").removeprefix("no-")

    @property
    def words(self) -> list[str]:
        return [self.name] if self.value is None else [self.name, self.value]


# ── what the card prints ───────────────────────────────────────────────────────────────────


def printed(serve: Serve, name: str, *, drafting: bool = True) -> list[str]:
    """The command for the checkpoint `name`, as argv; `drafting` False for a model without an MTP head."""
    flags = _portable(serve, drafting=drafting)
    return ["vllm", "serve", name, *(word for flag in flags for word in flag.words)]


def _portable(serve: Serve, *, drafting: bool) -> list[_Flag]:
    flags = [_Flag(name="--max-model-len", value=str(serve.max_model_len))]
    if serve.dtype != "auto":
        flags.append(_Flag(name="--dtype", value=serve.dtype))
    if serve.quantization is not None:
        flags.append(_Flag(name="--quantization", value=serve.quantization))
    if serve.kv_cache_dtype != "auto":
        flags.append(_Flag(name="--kv-cache-dtype", value=serve.kv_cache_dtype))
    if serve.max_num_seqs is not None:
        flags.append(_Flag(name="--max-num-seqs", value=str(serve.max_num_seqs)))
    if serve.enable_prefix_caching is not None:
        switch = "--enable-prefix-caching" if serve.enable_prefix_caching else "--no-enable-prefix-caching"
        flags.append(_Flag(name=switch, value=None))
    if serve.limit_mm_per_prompt:
        flags.append(_Flag(name="--limit-mm-per-prompt", value=_json(serve.limit_mm_per_prompt)))
    if drafting and serve.num_speculative_tokens > 0:
        method = {"method": "mtp", "num_speculative_tokens": serve.num_speculative_tokens}
        flags.append(_Flag(name=SPECULATIVE, value=_json(method)))
    return [
        *flags,
        _Flag(name="--reasoning-parser", value=serve.reasoning_parser),
        _Flag(name="--enable-auto-tool-choice", value=None),
        _Flag(name="--tool-call-parser", value=serve.tool_call_parser),
    ]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


# ── what is laid over it ───────────────────────────────────────────────────────────────────


def overlay(subject: Subject, engine: Engine, *, drafting: bool) -> list[OverlayItem]:
    """Everything that this machine's command has beside the printed one, arguments before variables."""
    items = [*_always(), *_of_subject(subject, engine, drafting=drafting)]
    if engine.facts.device == "cpu":
        items += _on_cpu(subject, engine)
    for quirk in quirks_of(subject, engine, drafting=drafting):
        items += quirk.overlay
    return _once([*items, *platform_items(engine)])


def quirks_of(subject: Subject, engine: Engine, *, drafting: bool) -> list[quirks.Quirk]:
    """The engine's quirks that this start has to answer."""
    return quirks.applying(engine.facts, subject.facts, drafting=drafting and drafts(subject))


def spared(subject: Subject, engine: Engine, *, drafting: bool) -> dict[str, str]:
    """The canaries that a quirk makes impossible to ask, and why."""
    concerned = quirks_of(subject, engine, drafting=drafting)
    return {canary: quirk.what for quirk in concerned for canary in quirk.spares}


def drafts(subject: Subject) -> bool:
    """Whether the printed command asks for drafts: the recipe does, and there is a head."""
    return subject.facts.drafts and subject.serve.num_speculative_tokens > 0


def _always() -> list[OverlayItem]:
    return [
        _argument(MODEL, FOLDER, "the files that were checked, before anyone can download them"),
        _argument("--host", HOST, "reachable from this machine only"),
        _argument("--port", FREE_PORT, "several engines can run on one machine"),
        _argument("--served-model-name", OWN_NAME, "an answer of another server is told apart"),
        _argument(
            "--model-loader-extra-config",
            TRACKING,
            "a weight that the checkpoint lacks stops the start; for quantized models it is off by default",
        ),
    ]


def _of_subject(subject: Subject, engine: Engine, *, drafting: bool) -> list[OverlayItem]:
    items = []
    if subject.serve.max_num_seqs is None:
        items.append(
            _argument(
                "--max-num-seqs",
                str(DEFAULT_MAX_NUM_SEQS),
                "the recipe leaves it to the engine, whose default differs by machine",
            )
        )
    if subject.serve.max_model_len > subject.max_position_embeddings:
        items.append(
            _argument(
                "--max-model-len",
                str(subject.max_position_embeddings),
                "this base's own limit, which is below the recipe's",
            )
        )
    if drafts(subject) and not drafting:
        items.append(_argument(SPECULATIVE, LEFT_OUT, "the same server without drafts, to hold them against"))
    return items


def _on_cpu(subject: Subject, engine: Engine) -> list[OverlayItem]:
    return [
        _argument(
            "--enforce-eager", "", "compiling for a CPU takes minutes and is no part of what is checked"
        ),
        _argument(
            "--kv-cache-memory-bytes",
            str(kv_cache_bytes(subject, engine)),
            "on a CPU the cache takes main memory, most of it when nothing is said",
        ),
    ]


def kv_cache_bytes(subject: Subject, engine: Engine) -> int:
    """The cap on the KV cache on a CPU: what one request of full length may take, within the machine."""
    wanted = KV_BYTES_PER_TOKEN * min(subject.serve.max_model_len, subject.max_position_embeddings)
    allowed = int(engine.facts.hardware.memory_bytes * MAX_KV_SHARE)
    return max(MIN_KV_BYTES, min(wanted, allowed))


def _argument(name: str, value: str, why: str) -> OverlayItem:
    return OverlayItem(kind="argument", name=name, value=value, why=why, quirk=None)


def _once(items: Iterable[OverlayItem]) -> list[OverlayItem]:
    """Each name once, the last item that sets it; arguments before variables."""
    last = {(item.kind, _Flag(name=item.name, value=None).key): item for item in items}
    return sorted(last.values(), key=lambda item: item.kind)


# ── what is run ────────────────────────────────────────────────────────────────────────────


def argv(subject: Subject, engine: Engine, *, port: int, served_name: str, drafting: bool) -> list[str]:
    """The command that is run: printed, the overlay over it, and this machine's program, folder and port."""
    flags = _run(subject, engine, drafting=drafting)
    real = {"--port": str(port), "--served-model-name": served_name}
    words = [
        word for flag in flags for word in _Flag(name=flag.name, value=real.get(flag.name, flag.value)).words
    ]
    return [str(engine.environment.python.parent / "vllm"), "serve", str(subject.folder), *words]


def settings(subject: Subject, engine: Engine, *, drafting: bool) -> dict[str, str | None]:
    """Every flag that is set in the end and its value, None for a switch."""
    return {flag.name: flag.value for flag in _run(subject, engine, drafting=drafting)}


def engine_arguments(subject: Subject, engine: Engine) -> dict[str, Any]:
    """The same settings as keyword arguments of `vllm.LLM`, less the model: for scoring text.

    No drafts and no HTTP server; prefix caching off, since a cached prefix has no prompt log-probabilities;
    no memory set aside for images.
    """
    flags = [flag for flag in _run(subject, engine, drafting=False) if flag.key not in _SERVER_ONLY]
    return {
        **{flag.key.removeprefix("--").replace("-", "_"): _keyword(flag) for flag in flags},
        "enable_prefix_caching": False,
        "limit_mm_per_prompt": dict(_NO_INPUTS),
    }


def _keyword(flag: _Flag) -> Any:
    """A flag's value as the engine's own type."""
    if flag.value is None:
        return not flag.name.startswith("--no-")
    if flag.key in _NUMBERS:
        return int(flag.value)
    return json.loads(flag.value) if flag.value.startswith("{") else flag.value


def _run(subject: Subject, engine: Engine, *, drafting: bool) -> list[_Flag]:
    flags = {flag.key: flag for flag in _portable(subject.serve, drafting=drafts(subject))}
    for item in overlay(subject, engine, drafting=drafting):
        if item.kind == "argument" and item.name != MODEL:
            flag = _Flag(name=item.name, value=item.value or None)
            flags[flag.key] = flag
    return [flag for flag in flags.values() if flag.value != LEFT_OUT]
