"""Calibration samples: from rows of a pinned data set to token ids, the same ones every time.

A post-training quantizer looks at the activations that calibration samples cause, so which rows, in which
order, cut at which length is part of what makes an artifact. Everything here is a function of the recipe:

- **Rows** come from the data set at its commit, streamed, never as `main`. They are drawn in the order of
  `IterableDataset.shuffle(seed, buffer_size=10_000)`: the files' order is permuted, then rows leave a buffer
  of 10,000 at random, both by `seed`. So a sample is random within about 10,000 rows, and nothing is
  downloaded but what is read.
- **Image+text rows** (the layout of `nvidia/Nemotron-VLM-Dataset-v2`: `<subset>/<subset>.jsonl` with
  messages, `<subset>/media/shard_*.tar` with images, joined by file name) are split evenly over the
  subsets; of each, the first shard's images are shuffled by `seed`. ModelOpt's own loader does the same,
  but always from `main`.
- **Lengths** are as `bot.recipe_calibration.Lengths` says. Where documents are joined, the end-of-sequence
  token stands between texts; conversations end themselves. An image's tokens are never cut: a row that is
  too long with them is passed over.
- **Text** becomes tokens without added special tokens; conversations go through the base's own chat template.

Exactly `num_samples` come out, or an InputError says how many there were and why. The samples are kept as one
safetensors file a set, written before anything is quantized: a resumed run reads the same bytes, and the
quantizing process needs neither network nor token.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bot.backends.lengths import cut, subset_targets
from bot.backends.report import Report
from bot.backends.rows import image_rows, text_rows
from bot.errors import InputError, RecipeError
from bot.models import BackendJob, CalibrationUse, read_json, write_json
from bot.recipe import Recipe
from bot.recipe_calibration import CalibrationSet
from bot.recipe_fields import UNPINNED

Sample = dict[str, torch.Tensor]
_TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "vocab*",
    "merges*",
    "*processor_config.json",
    "special_tokens*",
)


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    """The samples of one calibration set, read from disk one at a time."""

    rows: str
    file: Path
    use: CalibrationUse

    def __len__(self) -> int:
        return self.use.num_samples

    def __iter__(self) -> Iterator[Sample]:
        with safe_open(self.file, framework="pt") as file:
            names: dict[str, list[str]] = {}
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                names.setdefault(key.partition(".")[0], []).append(key)
            for index in sorted(names):
                yield {key.partition(".")[2]: file.get_tensor(key) for key in sorted(names[index])}

    def seen(self, count: int) -> CalibrationUse:
        """What this set gave, with the number of samples that the tool itself counted."""
        return self.use.model_copy(update={"num_samples_seen": count})


def prepare(job: BackendJob, recipe: Recipe, report: Report) -> list[SampleSet]:
    """The samples of every set of `recipe`, in order: read back where they are kept already."""
    base, folder = Path(job.base_folder), Path(job.resume_folder) / "calibration"
    return [
        _prepare(index, spec, recipe.calibration.seed, base, folder, report)
        for index, spec in enumerate(recipe.calibration.sets)
    ]


def _prepare(
    index: int, spec: CalibrationSet, seed: int, base: Path, folder: Path, report: Report
) -> SampleSet:
    if spec.revision == UNPINNED:
        raise RecipeError(
            f"{spec.dataset} is not pinned", fix="run `release-bot recipes pin` against this Hub"
        )
    stem = f"{index}-{_key(spec, seed, base)[:12]}"
    file, facts = folder / f"{stem}.safetensors", folder / f"{stem}.json"
    if facts.is_file() and file.is_file():
        report.note(f"{spec.dataset}: {spec.num_samples} samples, kept from an earlier run")
        return SampleSet(rows=spec.rows, file=file, use=read_json(facts, CalibrationUse))
    folder.mkdir(parents=True, exist_ok=True)
    report.phase(f"calibration {spec.dataset}", spec.num_samples)
    samples: list[Sample] = []
    for sample in _samples(spec, seed, base):
        samples.append(sample)
        report.progress(len(samples))
    save_file(
        {f"{i:06d}.{name}": value for i, each in enumerate(samples) for name, value in each.items()}, file
    )
    use = _use(spec, samples)
    write_json(facts, use)  # last: without it the samples are drawn again
    return SampleSet(rows=spec.rows, file=file, use=use)


def _key(spec: CalibrationSet, seed: int, base: Path) -> str:
    """Changes with whatever changes a token: the set's fields, the seed, the tokenizer, the libraries."""
    digest = hashlib.sha256(spec.model_dump_json().encode())
    for name in ("datasets", "transformers", "tokenizers", "pillow"):
        digest.update(f"{name} {version(name)} {seed}".encode())
    for path in sorted(p for pattern in _TOKENIZER_FILES for p in base.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _use(spec: CalibrationSet, samples: list[Sample]) -> CalibrationUse:
    lengths = [sample["input_ids"].numel() for sample in samples]
    digest = hashlib.sha256()
    for sample in samples:
        ids = sample["input_ids"].flatten().tolist()
        digest.update(struct.pack(f"<{len(ids) + 1}q", len(ids), *ids))
    return CalibrationUse(
        dataset=spec.dataset,
        revision=spec.revision,
        config=spec.config,
        split=spec.split,
        subsets=spec.subsets,
        rows=spec.rows,
        num_samples=len(samples),
        num_samples_seen=0,
        num_tokens=sum(lengths),
        min_tokens=min(lengths),
        max_tokens=max(lengths),
        num_images=sum(len(sample.get("image_grid_thw", ())) for sample in samples),
        sha256=digest.hexdigest(),
    )


def _samples(spec: CalibrationSet, seed: int, base: Path) -> Iterator[Sample]:
    passed = Counter[str]()
    if spec.rows == "image_text":
        found = _image_samples(spec, seed, base, passed)
    else:
        found = _text_samples(spec, seed, base, passed)
    count = 0
    for sample in found:
        yield sample
        count += 1
        if count == spec.num_samples:
            return
    reasons = "; ".join(f"{number:,} {why}" for why, number in passed.most_common())
    raise InputError(
        f"{spec.dataset} gives {count} calibration samples, and the recipe asks for {spec.num_samples}",
        where=f"revision {spec.revision[:12]}, split {spec.split}"
        + (f", config {spec.config}" if spec.config else ""),
        why=f"rows passed over: {reasons}" if reasons else "the set has no more rows",
        fix="ask for fewer samples or shorter ones, or name a larger set",
    )


# ── text ───────────────────────────────────────────────────────────────────────────────────


def _text_samples(spec: CalibrationSet, seed: int, base: Path, passed: Counter[str]) -> Iterator[Sample]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    require_template(tokenizer, spec, base)
    documents = _documents(text_rows(spec, seed), spec, tokenizer, passed)
    joint = [tokenizer.eos_token_id] if spec.rows == "text" and tokenizer.eos_token_id is not None else []
    for ids in cut(documents, spec.lengths, spec.num_samples, joint, passed):
        tensor = torch.tensor([ids], dtype=torch.int64)
        yield {"input_ids": tensor, "attention_mask": torch.ones_like(tensor)}


def require_template(tokenizer: Any, spec: CalibrationSet, base: Path) -> None:
    """Raise InputError when `spec` holds conversations and the tokenizer has no chat template."""
    if spec.rows != "text" and not tokenizer.chat_template:
        raise InputError(
            f"the base's tokenizer has no chat template, and {spec.dataset} holds conversations",
            where=str(base),
            why="an instruct model's base carries one (chat_template.jinja or tokenizer_config.json)",
            fix="use a base that has one, or a calibration set with rows: text",
        )


def _documents(
    rows: Iterable[dict[str, Any]], spec: CalibrationSet, tokenizer: Any, passed: Counter[str]
) -> Iterator[list[int]]:
    from jinja2 import TemplateError

    for row in rows:
        try:
            text = (
                row["text"]
                if spec.rows == "text"
                else tokenizer.apply_chat_template(row["messages"], tokenize=False)
            )
        except TemplateError as e:
            passed[f"refused by the chat template ({e})"[:120]] += 1
            continue
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids:
            yield ids
        else:
            passed["empty"] += 1


# ── image and text ─────────────────────────────────────────────────────────────────────────


def _image_samples(spec: CalibrationSet, seed: int, base: Path, passed: Counter[str]) -> Iterator[Sample]:
    from bot.backends.torchvision_ops import declare_missing

    declare_missing()
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(base, local_files_only=True)
    require_template(processor.tokenizer, spec, base)
    wanted = subset_targets(spec.num_samples, spec.subsets or [])
    for subset, target in wanted.items():
        count = 0
        for messages, image in image_rows(spec, subset, seed, passed):
            if count == target:
                break
            text = processor.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            sample = dict(processor(text=[text], images=[image], return_tensors="pt"))
            if spec.lengths.min_tokens <= sample["input_ids"].numel() <= spec.lengths.max_tokens:
                yield {name: value.contiguous() for name, value in sample.items()}
                count += 1
            else:
                passed[f"not within {spec.lengths.min_tokens}–{spec.lengths.max_tokens} tokens"] += 1


def describe(sets: list[SampleSet]) -> str:
    """One line for the log."""
    return json.dumps([each.use.model_dump(exclude={"sha256"}) for each in sets])
