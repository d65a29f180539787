"""A checkpoint that is to be served: its folder, its name on the card, and what its files say of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot import log
from bot.checkpoint.folder import FolderSource
from bot.checkpoint.reading import Checkpoint, read_checkpoint
from bot.errors import InputError
from bot.measurements import EngineFacts, Role, SubjectFacts
from bot.recipe import Serve
from bot.serving import quirks

# What an engine reads; a card or a log beside the weights makes no other checkpoint.
SERVED = (".safetensors", ".json", ".jinja", ".txt", ".model")
NOT_SERVED = ("evidence.json", "build_evidence.json")
_BLOCK = 8 * 2**20


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One checkpoint. `max_position_embeddings` and `vocab_size` are those of the language model."""

    folder: Path
    serve: Serve
    facts: SubjectFacts
    max_position_embeddings: int
    vocab_size: int


def of_folder(
    folder: Path,
    engine: EngineFacts,
    *,
    role: Role,
    name: str,
    revision: str | None,
    serve: Serve,
    fingerprint: str | None = None,
) -> Subject:
    """The checkpoint in `folder`. Raises InputError for one whose config or headers cannot be read.

    `fingerprint` spares reading every byte where the files' digests are known already.
    """
    checkpoint = read_checkpoint(FolderSource(folder))
    packing = packing_of(checkpoint.quantization)
    text = checkpoint.config.get("text_config")
    fields = {**checkpoint.config, **(text if isinstance(text, dict) else {})}
    tensors = [entry.name for shard in checkpoint.shards.values() for entry in shard.tensors]
    num_mtp = sum(each.startswith("mtp.") for each in tensors)
    return Subject(
        folder=folder,
        serve=serve,
        facts=SubjectFacts(
            role=role,
            name=name,
            revision=revision,
            fingerprint=fingerprint or fingerprint_of(folder),
            packing=packing,
            drafts=bool(num_mtp or fields.get("mtp_num_hidden_layers")),
            num_mtp_tensors=num_mtp,
            num_visual_tensors=sum(each.startswith("model.visual.") for each in tensors),
            tensor_bytes=sum(e.num_bytes for shard in checkpoint.shards.values() for e in shard.tensors),
            emulated=quirks.emulation(engine, packing),
        ),
        max_position_embeddings=_positive(checkpoint, fields, "max_position_embeddings"),
        vocab_size=_positive(checkpoint, fields, "vocab_size"),
    )


def _positive(checkpoint: Checkpoint, fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise InputError(
            f"config.json has no {name}: {value!r}",
            where=checkpoint.label,
            why="it is no language model's config, or it was edited",
            fix="take config.json from the base, with the quantization_config added",
        )
    return value


def packing_of(quantization: dict[str, Any] | None) -> str:
    """`none`, or how the config says that its Linear layers are packed."""
    if quantization is None:
        return "none"
    method = str(quantization.get("quant_method", "unknown"))
    if method == "modelopt":
        return str(quantization.get("quant_algo", "modelopt")).lower()
    return str(quantization.get("packing_format", method)) if method == "auto-round" else method


def fingerprint_of(folder: Path) -> str:
    """sha256 over the path and the sha256 of every file that an engine reads."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    served = [path for path in paths if is_served(names[path])]
    found, done = {}, 0
    with log.Progress("reading", total=sum(p.stat().st_size for p in served), unit="bytes") as progress:
        for path in served:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    done += len(block)
                    progress.update(done, note=path.name)
            found[names[path]] = digest.hexdigest()
    return fingerprint(found)


def fingerprint(digests: Mapping[str, str]) -> str:
    """sha256 over path and digest of the served ones among `digests`, which maps one to the other."""
    lines = [f"{path}\0{digest}\n" for path, digest in sorted(digests.items()) if is_served(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_served(path: str) -> bool:
    """Whether an engine reads this file of a checkpoint."""
    return path.endswith(SERVED) and path not in NOT_SERVED and not path.startswith(".cache/")
