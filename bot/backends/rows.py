"""Rows of pinned calibration sets, as plain text, conversations, or conversations with an image.

The only place of the quantizer side that uses the network, through `datasets` and `huggingface_hub`, which
obey `HF_ENDPOINT`. Failures are typed: a Hub that does not answer is infrastructure (retried), a set,
split, column or file that is not there is input (not retried).

Rows are streamed, past every cache. What is read as a file, images and the README that says which files
are whose, comes through the Hub client's cache: it is held to the digest that the Hub tells, and comes again
where it differs, since an earlier job may have written there.
"""

from __future__ import annotations

import json
import os
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from bot.errors import InfrastructureError, InputError, ReleaseBotError
from bot.recipe_calibration import CalibrationSet

SHUFFLE_BUFFER = 10_000
Row = dict[str, Any]
Messages = list[dict[str, Any]]
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@contextmanager
def _typed(spec: CalibrationSet) -> Iterator[None]:
    """Errors of the Hub libraries as ours."""
    import httpx2
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    where = f"{spec.dataset}@{spec.revision[:12]}"
    try:
        yield
    except ReleaseBotError:
        raise
    except (RepositoryNotFoundError, EntryNotFoundError, FileNotFoundError, ValueError, KeyError) as e:
        raise InputError(
            f"the calibration set cannot be read: {_first_line(e)}",
            where=where,
            why="it is gone, gated for this token, or has no such config, split or file at that commit",
            fix="check the set's fields in the recipe, and that the token may read it",
        ) from e
    except (HfHubHTTPError, ConnectionError, TimeoutError, httpx2.HTTPError, OSError) as e:
        raise InfrastructureError(
            f"the Hub failed while reading a calibration set: {_first_line(e)}",
            where=where,
            fix=f"check the network and {os.environ.get('HF_ENDPOINT', 'the Hub')}; then run it again",
        ) from e


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


# ── text and conversations ─────────────────────────────────────────────────────────────────


def text_rows(spec: CalibrationSet, seed: int) -> Iterator[Row]:
    """Rows in the seed's order: `{"text": str}` or `{"messages": [...]}` as `spec.rows` says."""
    take = _TAKE[spec.rows]
    with _typed(spec):
        from datasets import load_dataset

        if (
            readme := _told(spec, "README.md")
        ) is not None:  # `load_dataset` reads it from the client's cache
            _held(spec, readme)
        stream = load_dataset(
            spec.dataset,
            name=spec.config,
            data_files=spec.data_files,
            split=spec.split,
            revision=spec.revision,
            streaming=True,
        )
        for row in stream.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER):
            missing = [column for column in spec.columns if column not in row]
            if missing:
                raise InputError(
                    f"{spec.dataset} has no column {', '.join(missing)}",
                    where=f"revision {spec.revision[:12]}",
                    fix=f"its columns are: {', '.join(row)}",
                )
            yield take(*[row[column] for column in spec.columns])


def _text(text: Any) -> Row:
    return {"text": text if isinstance(text, str) else ""}


def _chat(messages: Any) -> Row:
    return {"messages": [{"role": each["role"], "content": each["content"]} for each in messages]}


def _instruction(instruction: Any, output: Any) -> Row:
    return _chat([{"role": "user", "content": instruction}, {"role": "assistant", "content": output}])


_TAKE: dict[str, Callable[..., Row]] = {"text": _text, "chat": _chat, "instruction": _instruction}


# ── images ─────────────────────────────────────────────────────────────────────────────────


def image_rows(
    spec: CalibrationSet, subset: str, seed: int, passed: Counter[str]
) -> Iterator[tuple[Messages, Any]]:
    """(messages up to the last question, image) of one subset, in the seed's order."""
    from PIL import Image, UnidentifiedImageError

    with _typed(spec):
        shard = _first_shard(spec, subset)
        with tarfile.open(_download(spec, shard), "r:") as tar:
            members = {
                m.name: m for m in tar if m.isfile() and Path(m.name).suffix.lower() in _IMAGE_SUFFIXES
            }
            order = sorted(members)
            random.Random(f"{seed} {subset}").shuffle(order)
            asked = _messages(Path(_download(spec, f"{subset}/{subset}.jsonl")), members)
            for name in order:
                if name not in asked:
                    passed["images without a conversation"] += 1
                    continue
                data = tar.extractfile(members[name])
                assert data is not None
                try:
                    yield asked[name], Image.open(BytesIO(data.read())).convert("RGB")
                except (UnidentifiedImageError, OSError):
                    passed["unreadable images"] += 1


def _first_shard(spec: CalibrationSet, subset: str) -> str:
    from huggingface_hub import HfApi

    files = HfApi().list_repo_files(spec.dataset, repo_type="dataset", revision=spec.revision)
    shards = sorted(f for f in files if f.startswith(f"{subset}/media/") and f.endswith(".tar"))
    if not shards:
        raise InputError(
            f"{spec.dataset} holds no images for the subset {subset!r}",
            where=f"revision {spec.revision[:12]}, {subset}/media/",
            fix="name subsets whose images are in the repo (media/shard_*.tar)",
        )
    return shards[0]


def _download(spec: CalibrationSet, path: str) -> str:
    """The file's place. Raises InputError when the commit has no such file."""
    file = _told(spec, path)
    if file is None:
        raise InputError(f"{spec.dataset} has no file {path}", where=f"revision {spec.revision[:12]}")
    return _held(spec, file)


def _told(spec: CalibrationSet, path: str) -> Any:
    """What the Hub tells of a file of the commit; None when there is none."""
    from huggingface_hub import HfApi

    found = HfApi().get_paths_info(spec.dataset, path, repo_type="dataset", revision=spec.revision)
    return found[0] if found else None


def _held(spec: CalibrationSet, file: Any) -> str:
    """The place of a file whose bytes are what the Hub says; downloaded anew where they are not."""
    from huggingface_hub import hf_hub_download

    from bot.edges import snapshot

    sha256 = file.lfs.sha256 if file.lfs else None
    for force in (False, True):
        place = hf_hub_download(
            spec.dataset, file.path, repo_type="dataset", revision=spec.revision, force_download=force
        )
        if snapshot.matches(Path(place).resolve(), sha256=sha256, blob_id=file.blob_id):
            return place
    raise InfrastructureError(
        "a downloaded file is not what the Hub says",
        where=f"{spec.dataset}@{spec.revision[:12]} {file.path}",
        fix="run it again; if it stays, look at the data set's files",
    )


def _messages(jsonl: Path, images: dict[str, Any]) -> dict[str, Messages]:
    """The first conversation about each image, up to its last question, with the image's place marked."""
    found: dict[str, Messages] = {}
    with open(jsonl, encoding="utf-8") as file:
        for line in file:
            messages = json.loads(line).get("messages") if line.strip() else None
            name = _image_name(messages)
            if name in images and name not in found and (asked := _up_to_last_question(messages)):
                found[name] = asked
    return found


def _parts(messages: Any) -> Iterator[dict[str, Any]]:
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content")
        yield from (part for part in content if isinstance(part, dict)) if isinstance(content, list) else ()


def _image_name(messages: Any) -> str | None:
    names = [part.get("image") for part in _parts(messages) if part.get("type") == "image"]
    return names[0] if len(names) == 1 and isinstance(names[0], str) else None


def _up_to_last_question(messages: Any) -> Messages:
    last = max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    return [{"role": m["role"], "content": _without_path(m["content"])} for m in messages[: last + 1]]


def _without_path(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [{"type": "image"} if part.get("type") == "image" else part for part in content]
