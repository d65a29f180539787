"""From an engine's log to a typed error: what went wrong, whose fault it is, and what to do.

vLLM ends with the same exit status and the same last line ("Engine core initialization failed") whatever
happened, and the cause stands dozens of lines above, in another process' traceback. So what is known of its
words is kept as data: a pattern, the kind of failure, why it happens, what to do. The most specific comes
first; what no pattern knows is told by the first exception that the log holds.

Two questions matter to whoever reads the error. Is it the *checkpoint* (`NotServable`: it fails the gate, and
trying again is pointless) or the *engine and machine* (`EngineError`: the same work may succeed later)? And
what did the engine say? Its lines are shown without this machine's paths and without secrets.

The patterns were taken from logs of vLLM 0.32.0 with each fault provoked, those of CUDA from its source.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Final, Literal

from bot.errors import EngineError, NotServable
from bot.serving.engine_log import Lines, cause, masked, said, split, telling
from bot.serving.engine_log import tail as tail

CheckpointFault = Literal["weights_missing", "unsupported", "did_not_load"]
EngineFault = Literal["out_of_memory", "port", "died", "hung", "refused_request"]
GIB: Final = 2**30
LAST_LINES: Final = 40  # a program that dies without a traceback says why at its end


@dataclass(frozen=True, kw_only=True)
class Symptom:
    """Words of a log that stand for one failure."""

    words: str
    kind: CheckpointFault | EngineFault
    why: str
    fix: str


_AUDIT = "`release-bot audit` names the tensor; quantize again when the files are as the backend left them"
_FREE_MEMORY = "free memory on this machine, or lower max_model_len in the recipe's serve section"

SYMPTOMS: Final = (
    Symptom(
        words=r"Following weights were not initialized from checkpoint.*\bpre_fc_norm_",
        kind="weights_missing",
        why="they are the MTP head's, which the engine calls `model.` too; the index does not lead to them",
        fix="`release-bot repair` brings the head back from the base",
    ),
    Symptom(
        words=r"Following weights were not initialized from checkpoint",
        kind="weights_missing",
        why="the model has these parameters and the checkpoint's index does not lead to them",
        fix="`release-bot repair` brings back what the base has",
    ),
    Symptom(
        words=r"desc_act=True\) is no longer supported",
        kind="unsupported",
        why="this engine has no kernels for activation order within groups",
        fix="`release-bot repair` writes desc_act false where g_idx is trivial; else use static_groups",
    ),
    Symptom(
        words=r"Model architectures? \S+ (?:are not supported|was supported|is not supported|failed to be)",
        kind="unsupported",
        why="the config names an architecture that this engine does not have",
        fix="restore config.json's architectures from the base, or raise the engine's version",
    ),
    Symptom(
        words=r"model type `[^`]*` but Transformers does not recognize",
        kind="unsupported",
        why="the config names a model_type that this engine's transformers does not have",
        fix="restore config.json's model_type from the base, or raise the engine's version",
    ),
    Symptom(
        words=r"Unknown quantization method|Failed to find a kernel that can implement"
        r"|quantization method \S+ is not supported|minimum capability|not supported for the current GPU"
        r"|Forced NVFP4 kernel",
        kind="unsupported",
        why="this engine or this device has no kernel for the checkpoint's packing",
        fix="`release-bot doctor` says which formats this machine runs",
    ),
    Symptom(
        words=r"There is no module or parameter named",
        kind="did_not_load",
        why="the checkpoint holds a tensor that the model has no place for",
        fix=_AUDIT,
    ),
    Symptom(
        words=r"SafetensorError|MetadataIncompleteBuffer|invalid JSON in header",
        kind="did_not_load",
        why="a shard is cut off or damaged",
        fix="`release-bot audit` names the shard; copy or quantize it again",
    ),
    Symptom(
        words=r"Weight files referenced in index but missing|Cannot find any model weights",
        kind="did_not_load",
        why="the index names a shard that is not there",
        fix="`release-bot audit` names the shard; copy or quantize it again",
    ),
    Symptom(
        words=r"exceeds dimension size|size mismatch|shape mismatch|Attempted to load weight \(",
        kind="did_not_load",
        why="a tensor has another shape than the config promises",
        fix=_AUDIT,
    ),
    Symptom(
        words=r"Can't load image processor|Can't load (?:the )?(?:feature extractor|tokenizer|processor)"
        r"|preprocessor_config\.json",
        kind="did_not_load",
        why="a file of the tokenizer or processor is missing or damaged",
        fix="`release-bot repair` restores the side files of the base",
    ),
    Symptom(
        words=r"is not a valid JSON file",
        kind="did_not_load",
        why="a config of the checkpoint is damaged",
        fix="`release-bot repair` restores the side files of the base",
    ),
    Symptom(
        words=r"out of memory|OutOfMemoryError|No available memory for the cache blocks"
        r"|larger than the available KV cache|less than requested memory for kv"
        r"|less than desired (?:GPU|CPU|device) memory|can't allocate memory|Cannot allocate memory"
        r"|std::bad_alloc|^MemoryError",
        kind="out_of_memory",
        why="weights, KV cache and activations do not fit beside what else runs here",
        fix=_FREE_MEMORY,
    ),
    Symptom(
        words=r"[Aa]ddress already in use",
        kind="port",
        why="another program took the port between its choice and the server's start",
        fix="run it again; a new port is chosen each time",
    ),
    Symptom(
        words=r"Worker proc \S+ died unexpectedly \(exit code: -?[1-9]\d*\)"
        r"|engine core exited unexpectedly",
        kind="died",
        why="one of the engine's own processes was killed, or crashed in native code",
        fix="run it again, which goes on from the next measurement; if it dies again, see what kills it",
    ),
    Symptom(
        words=r"vllm(?: serve)?: error: |unrecognized arguments",
        kind="refused_request",
        why="this version of the engine does not know an argument of the command",
        fix="compare the recipe's serve section with `vllm serve --help=all` of the pinned version",
    ),
)
_AT_EVERY_END: Final = re.compile(r"nanobind: | - leaked | - \.\.\. ")
_COMPILED: Final = [(re.compile(each.words), each) for each in SYMPTOMS]


# ── errors ─────────────────────────────────────────────────────────────────────────────────


def of_end(
    lines: Lines, *, status: int | None, serving: bool, killed_for_memory: bool | None, where: str
) -> NotServable | EngineError:
    """The error for a server that ended by itself; `status` as `subprocess` has it, below 0 for a signal.

    `serving`: it had answered before, so the checkpoint did load. `killed_for_memory`: whether the kernel
    ended a process for want of memory meanwhile; None where that cannot be known.
    """
    if killed_for_memory or (killed_for_memory is None and status == -signal.SIGKILL):
        why = "the kernel ended a process because the machine had no memory left"
        return _engine("out_of_memory", "the engine was killed", lines, where, why, _FREE_MEMORY)
    if found := _first_symptom(lines):
        line, symptom = found
        match symptom.kind:
            case "weights_missing" | "unsupported" | "did_not_load" as kind:
                if not serving:
                    return not_servable(kind, line, lines, where=where, why=symptom.why, fix=symptom.fix)
            case kind:
                return _engine(kind, line, lines, where, symptom.why, symptom.fix)
    last = cause(lines)
    if serving or status is None or status < 0:
        what = f"the engine {_ended(status)}" + (f": {last}" if last else "")
        return _engine(
            "died", what, lines, where, "", "run it again, which goes on from the next measurement"
        )
    what = last or f"the engine {_ended(status)} without a word"
    fix = f"read the log; when the base fails in the same way it is the engine. {_AUDIT}"
    return not_servable("did_not_load", what, lines, where=where, why="", fix=fix)


def hung(lines: Lines, *, timeout_s: float, where: str) -> EngineError:
    """The error for a server that did not answer in time."""
    return _engine(
        "hung",
        f"the engine did not answer within {timeout_s:g} s and was ended",
        lines,
        where,
        "it is stuck, or this machine is far too slow for the checkpoint",
        "look where its log ends; run it again",
    )


def too_much_memory(lines: Lines, *, held_bytes: int, limit_bytes: int, where: str) -> EngineError:
    """The error for a server that we ended for its memory."""
    return _engine(
        "out_of_memory",
        f"the engine's processes held {held_bytes / GIB:.2f} GiB, above the limit of {limit_bytes / GIB:.2f}",
        lines,
        where,
        "beyond the limit the kernel would end whatever it likes",
        _FREE_MEMORY,
    )


def not_servable(
    kind: CheckpointFault, what: str, lines: Lines, *, where: str, why: str, fix: str
) -> NotServable:
    """The checkpoint's fault, with the end of the log."""
    error = NotServable(kind, what, log_tail=tail(lines), where=where, fix=fix)
    error.why = why
    return error


def _engine(kind: EngineFault, what: str, lines: Lines, where: str, why: str, fix: str) -> EngineError:
    last = "\n".join(f"    {line}" for line in tail(lines))
    return EngineError(kind, what, where=where, why=why, fix=f"{fix}. The log's last words:\n{last}")


def _ended(status: int | None) -> str:
    if status is None:
        return "ended"
    if status >= 0:
        return f"ended with status {status}"
    known = -status in list(signal.Signals)
    return f"was ended by {signal.Signals(-status).name if known else f'signal {-status}'}"


def _first_symptom(lines: Lines) -> tuple[str, Symptom] | None:
    """The most specific symptom and its line, among errors first, then among the last lines of any kind."""
    last = [line for line in lines if not _AT_EVERY_END.match(line)][-LAST_LINES:]
    texts = [masked(text) for _, text in map(split, last) if not text.startswith("$ ")]
    for place in (telling(lines), texts):
        for pattern, symptom in _COMPILED:
            for index, text in enumerate(place):
                if pattern.search(text):
                    return said(_with_what_follows(place, index)), symptom
    return None


def _with_what_follows(lines: list[str], index: int) -> str:
    """A line, and the next one where it ends by announcing it (`Reasons: `)."""
    line = lines[index].rstrip()
    return f"{line} {lines[index + 1].strip()}" if line.endswith(":") and lines[index + 1 :] else line
