"""The stand-ins have the real sets' layout, columns and enough text, and come out the same twice."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pyarrow import parquet

from bot.demo.standins import IMAGES_PER_SUBSET, LONG_CHARS, held_out, write_standins

SUBSETS = ("sparsetables", "plotqa_cot", "wiki_en")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_standins(tmp_path_factory.mktemp("standins"))


def jsonl(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return [json.loads(line) for line in text.splitlines()]


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / name
    return parquet.read_table(path).to_pylist() if path.suffix == ".parquet" else jsonl(path)


@pytest.mark.parametrize(
    ("repo_id", "name", "columns", "least"),
    [
        ("theblackcat102/evol-codealpaca-v1", "train.jsonl", ["instruction", "output"], 300),
        ("allenai/c4", "en/c4-train.00000-of-01024.json.gz", ["text", "timestamp", "url"], 300),
        ("allenai/c4", "en/c4-validation.00000-of-00008.json.gz", ["text", "timestamp", "url"], 20),
        (
            "HuggingFaceH4/ultrachat_200k",
            "data/train_sft-00000-of-00001.parquet",
            ["prompt", "prompt_id", "messages"],
            600,
        ),
        ("NeelNanda/pile-10k", "data/train-00000-of-00001.parquet", ["text", "meta"], 300),
        ("abisee/cnn_dailymail", "3.0.0/train-00000-of-00001.parquet", ["article", "highlights", "id"], 300),
        ("Salesforce/wikitext", "wikitext-2-raw-v1/test-00000-of-00001.parquet", ["text"], 300),
        ("Salesforce/wikitext", "wikitext-2-raw-v1/train-00000-of-00001.parquet", ["text"], 300),
        ("nvidia/Nemotron-VLM-Dataset-v2", "wiki_en/wiki_en.jsonl", ["id", "messages"], 64),
    ],
)
def test_layout_columns_and_counts(
    folders: dict[str, Path], repo_id: str, name: str, columns: list[str], least: int
) -> None:
    found = rows(folders[repo_id], name)
    assert len(found) >= least
    assert all(list(row) == columns for row in found)
    assert all(value is not None for row in found for value in row.values())


def test_readme_says_stand_in_and_its_configs_match_files(folders: dict[str, Path]) -> None:
    for repo_id, folder in folders.items():
        _, header, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        assert f"This is not `{repo_id}`" in body
        configs = yaml.safe_load(header)["configs"]
        assert sum(bool(config.get("default")) for config in configs) == 1
        for config in configs:
            for file in config["data_files"]:
                assert list(folder.glob(file["path"])), (repo_id, file)


def test_conversations_alternate_and_start_with_the_prompt(folders: dict[str, Path]) -> None:
    for row in rows(folders["HuggingFaceH4/ultrachat_200k"], "data/train_sft-00000-of-00001.parquet"):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert row["messages"][0]["content"] == row["prompt"]
        assert row["prompt_id"] == hashlib.sha256(row["prompt"].encode()).hexdigest()


def test_lengths_suit_calibration(folders: dict[str, Path]) -> None:
    pile = rows(folders["NeelNanda/pile-10k"], "data/train-00000-of-00001.parquet")
    assert sum(len(row["text"]) >= LONG_CHARS for row in pile) >= 128
    for repo_id, name in (
        ("theblackcat102/evol-codealpaca-v1", "train.jsonl"),
        ("allenai/c4", "en/c4-train.00000-of-01024.json.gz"),
    ):
        lengths = [len("".join(map(str, row.values()))) for row in rows(folders[repo_id], name)]
        for low in range(800, 6_400, 800):
            assert sum(low <= length < low + 800 for length in lengths) >= 20


@pytest.mark.parametrize("subset", SUBSETS)
def test_images_are_joined_by_name(folders: dict[str, Path], subset: str) -> None:
    folder = folders["nvidia/Nemotron-VLM-Dataset-v2"] / subset
    with tarfile.open(folder / "media" / "shard_000000.tar") as tar:
        images = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert len(images) == len(set(images.values())) == IMAGES_PER_SUBSET
    for row in jsonl(folder / f"{subset}.jsonl"):
        asked, told = row["messages"]
        part, question = asked["content"]
        image = Image.open(io.BytesIO(images[part["image"]]))
        assert (image.width, image.height) == (part["metadata"]["width"], part["metadata"]["height"])
        assert question["text"]
        assert told["content"][0]["text"]


def test_evaluation_text_is_not_calibration_text(folders: dict[str, Path]) -> None:
    def articles(split: str) -> set[str]:
        found = rows(folders["Salesforce/wikitext"], f"wikitext-2-raw-v1/{split}-00000-of-00001.parquet")
        return {row["text"] for row in found if row["text"].startswith(" = ")}

    assert len(articles("test")) >= 100
    assert not articles("test") & articles("train")
    assert all(held_out(name[3:-4]) for name in articles("test") if name.startswith(" = pydoc/"))


def test_small_and_the_same_twice(folders: dict[str, Path], tmp_path: Path) -> None:
    again = write_standins(tmp_path)
    total = 0
    for repo_id, folder in folders.items():
        files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        size = sum((folder / file).stat().st_size for file in files)
        assert size <= 2_000_000, repo_id
        total += size
        for file in files:
            assert (folder / file).read_bytes() == (again[repo_id] / file).read_bytes(), (repo_id, file)
    assert total <= 8_000_000
