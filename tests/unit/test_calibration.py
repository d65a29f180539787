"""From rows to samples: lengths, joins, order, what is refused. Tokens themselves are tried end to end."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bot.backends import rows
from bot.backends.lengths import cut, spread_lengths, subset_targets
from bot.cache import git_sha1_of
from bot.errors import InfrastructureError, InputError
from bot.recipe_calibration import CalibrationSet, Lengths


def lengths(mode: str, low: int, high: int) -> Lengths:
    return Lengths.model_validate({"mode": mode, "min_tokens": low, "max_tokens": high})


def documents(*sizes: int) -> Iterator[list[int]]:
    """Documents whose tokens are 100·i, 100·i + 1, …"""
    for index, size in enumerate(sizes):
        yield list(range(100 * index, 100 * index + size))


# ── lengths ────────────────────────────────────────────────────────────────────────────────


def test_truncate_cuts_long_documents_and_passes_short_ones_over():
    passed: Counter[str] = Counter()
    found = list(cut(documents(5, 2, 9, 3), lengths("truncate", 3, 6), 99, [], passed))
    assert found == [[0, 1, 2, 3, 4], [200, 201, 202, 203, 204, 205], [300, 301, 302]]
    assert passed == {"shorter than 3 tokens": 1}


def test_exact_takes_only_documents_that_are_long_enough():
    passed: Counter[str] = Counter()
    found = list(cut(documents(4, 3, 9), lengths("exact", 4, 4), 99, [], passed))
    assert [len(each) for each in found] == [4, 4]
    assert passed == {"shorter than 4 tokens": 1}


def test_spread_goes_evenly_from_the_shortest_to_the_longest():
    assert spread_lengths(lengths("spread", 256, 2048), 8) == [256, 512, 768, 1024, 1280, 1536, 1792, 2048]
    assert spread_lengths(lengths("spread", 10, 11), 3) == [10, 10, 11]
    assert spread_lengths(lengths("spread", 256, 2048), 1) == [2048]


def test_spread_joins_documents_and_shares_none():
    found = list(cut(documents(3, 2, 4, 9), lengths("spread", 4, 6), 2, [-1], Counter()))
    assert found == [[0, 1, 2, -1], [200, 201, 202, 203, -1, 300]]


def test_spread_ends_where_documents_do():
    assert len(list(cut(documents(4, 4), lengths("spread", 4, 4), 3, [], Counter()))) == 2


@pytest.mark.parametrize(
    ("count", "subsets", "expected"),
    [(128, ["a", "b", "c"], [43, 43, 42]), (2, ["a", "b", "c"], [1, 1, 0]), (5, ["a"], [5]), (5, [], [])],
)
def test_subsets_share_evenly(count: int, subsets: list[str], expected: list[int]):
    assert list(subset_targets(count, subsets).values()) == expected


# ── rows ───────────────────────────────────────────────────────────────────────────────────


def spec(dataset: str, kind: str, columns: list[str], **more: Any) -> CalibrationSet:
    fields = {"dataset": dataset, "revision": "0" * 40, "split": "train", "rows": kind, "columns": columns}
    shape = {"num_samples": 4, "lengths": {"mode": "truncate", "min_tokens": 1, "max_tokens": 9}}
    return CalibrationSet.model_validate({**fields, **shape, **more})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`datasets` reads a folder that is called like the set: no Hub is needed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.get_paths_info", lambda *_, **__: [])
    (tmp_path / "org" / "set").mkdir(parents=True)
    return tmp_path / "org" / "set"


def write(folder: Path, found: list[dict[str, Any]], name: str = "train.jsonl") -> None:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in found))


def test_the_order_of_rows_is_the_seeds(here: Path):
    write(here, [{"text": f"row {i}"} for i in range(50)])
    read = [
        [row["text"] for row in rows.text_rows(spec("org/set", "text", ["text"]), seed)] for seed in (1, 1, 2)
    ]
    assert read[0] == read[1] != read[2]
    assert sorted(read[0]) == sorted(read[2]) == sorted(f"row {i}" for i in range(50))
    assert read[0] != sorted(read[0])


def test_instructions_become_conversations(here: Path):
    write(here, [{"instruction": "Add.", "output": "2", "other": 1}])
    found = list(rows.text_rows(spec("org/set", "instruction", ["instruction", "output"]), 0))
    assert found == [
        {"messages": [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "2"}]}
    ]


def test_conversations_keep_role_and_content_only(here: Path):
    write(here, [{"messages": [{"role": "user", "content": "Hi", "id": 7}]}])
    found = list(rows.text_rows(spec("org/set", "chat", ["messages"]), 0))
    assert found == [{"messages": [{"role": "user", "content": "Hi"}]}]


def test_a_missing_column_names_those_there_are(here: Path):
    write(here, [{"body": "x"}])
    with pytest.raises(InputError, match="no column text") as caught:
        list(rows.text_rows(spec("org/set", "text", ["text"]), 0))
    assert "body" in caught.value.fix


@pytest.mark.parametrize("more", [{"split": "nope"}, {"config": "nope"}, {"data_files": "nope.jsonl"}])
def test_a_part_that_is_not_there_is_an_input_error(here: Path, more: dict[str, str]):
    write(here, [{"text": "x"}])
    with pytest.raises(InputError, match="cannot be read"):
        list(rows.text_rows(spec("org/set", "text", ["text"], **more), 0))


@pytest.mark.parametrize("error", [ConnectionError("refused"), TimeoutError("slow"), OSError(5, "I/O")])
def test_a_hub_that_fails_is_infrastructure(here: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(InfrastructureError, match="the Hub failed"):
        list(rows.text_rows(spec("org/set", "text", ["text"]), 0))


# ── images ─────────────────────────────────────────────────────────────────────────────────


def message(image: str, *, answer: bool = True) -> dict[str, Any]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": f"What is {image}?"}]
    reply = [{"role": "assistant", "content": [{"type": "text", "text": "red"}]}]
    return {"id": image, "messages": [{"role": "user", "content": content}, *(reply if answer else [])]}


@pytest.fixture
def vision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CalibrationSet:
    media = tmp_path / "plots" / "media"
    media.mkdir(parents=True)
    for shard, numbers in ((0, range(6)), (1, range(6, 9))):
        with tarfile.open(media / f"shard_00000{shard}.tar", "w") as tar:
            for number in numbers:
                data = io.BytesIO()
                Image.new("RGB", (32, 32), (number, 0, 0)).save(data, "PNG")
                content = b"not an image" if number == 4 else data.getvalue()
                info = tarfile.TarInfo(f"{number}.png")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    asked = [message(f"{number}.png") for number in (0, 1, 2, 3, 4, 7)]
    (tmp_path / "plots" / "plots.jsonl").write_text("\n".join(json.dumps(each) for each in asked) + "\n\n")
    files = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *_, **__: files)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda _, path, **__: str(tmp_path / path))

    def told(_: object, dataset: str, path: str, **__: object) -> list[object]:
        return [SimpleNamespace(path=path, lfs=None, blob_id=git_sha1_of(tmp_path / path))]

    monkeypatch.setattr("huggingface_hub.HfApi.get_paths_info", told)
    return spec("org/vlm", "image_text", ["messages"], subsets=["plots"])


def test_images_join_their_conversations_by_name(vision: CalibrationSet):
    passed: Counter[str] = Counter()
    found = list(rows.image_rows(vision, "plots", 0, passed))
    assert len(found) == 4  # of the first shard: six, one without a conversation, one unreadable
    for messages, image in found:
        number = image.getpixel((0, 0))[0]
        assert messages == [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": f"What is {number}.png?"}],
            }
        ]
    assert passed == {"images without a conversation": 1, "unreadable images": 1}


def test_the_order_of_images_is_the_seeds(vision: CalibrationSet):
    def order(seed: int) -> list[int]:
        return [image.getpixel((0, 0))[0] for _, image in rows.image_rows(vision, "plots", seed, Counter())]

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(6)}) > 1


def test_a_subset_without_images_is_refused(vision: CalibrationSet):
    with pytest.raises(InputError, match="no images for the subset 'docvqa'"):
        list(rows.image_rows(vision, "docvqa", 0, Counter()))
