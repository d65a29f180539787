"""The evaluation set's files, rows and passages; every way in which a set is not what a recipe says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bot import recipe as recipes
from bot.errors import InputError, RecipeError
from bot.serving.evaluation_text import JOINED_BY, fetch, main, passages, read_rows, rows

CARD = """---
license: other
configs:
- config_name: first
  data_files:
  - split: test
    path: first/test-*
  - split: train
    path: [first/train-a.parquet, first/train-b.parquet]
- config_name: second
  data_files:
  - split: test
    path: second/*.parquet
---
# A set
"""


def write(folder: Path, path: str, **columns: list[object]) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    write(tmp_path, "first/test-00001-of-00002.parquet", text=["c", "d"], extra=[1, 2])
    write(tmp_path, "first/test-00000-of-00002.parquet", text=["", " a \n", "b"], extra=[1, 2, 3])
    write(tmp_path, "first/train-a.parquet", text=["x"])
    write(tmp_path, "first/train-b.parquet", text=["y"])
    write(tmp_path, "second/all.parquet", article=["z"])
    return tmp_path


def test_rows_of_a_split_in_the_files_order(folder: Path) -> None:
    assert read_rows(folder, "first", "test", "text") == ["", " a \n", "b", "c", "d"]
    assert read_rows(folder, "first", "train", "text") == ["x", "y"]
    assert JOINED_BY == "\n\n"


def test_the_process_leaves_rows_or_a_typed_error(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert main([str(folder), "first", "test", "text", str(out)]) == 0
    assert rows(out) == ["", " a \n", "b", "c", "d"]
    assert main([str(folder), "first", "dev", "text", str(out)]) == 3
    error = json.loads((tmp_path / "rows.json.error").read_text(encoding="utf-8"))
    assert error["error"] == "InputError"
    assert main([str(folder), "first", "test", "text", str(out)]) == 0
    assert not (tmp_path / "rows.json.error").exists()


@pytest.mark.parametrize(
    ("config", "split", "what", "fix"),
    [
        ("third", "test", "no config 'third'", "there are: first, second"),
        ("first", "validation", "no split 'validation'", "there are: test, train"),
        ("second", "test", "no column 'text'", "its columns are: article"),
    ],
)
def test_names_that_the_set_does_not_have(folder: Path, config: str, split: str, what: str, fix: str) -> None:
    with pytest.raises(InputError, match=what) as caught:
        read_rows(folder, config, split, "text")
    assert caught.value.fix == fix


def test_a_set_without_text(folder: Path) -> None:
    for path in folder.glob("first/test-*"):
        path.unlink()
    write(folder, "first/test-0.parquet", text=["", " \n"])
    with pytest.raises(InputError, match="no text in its 2 rows"):
        read_rows(folder, "first", "test", "text")


def test_a_column_that_is_no_text(folder: Path) -> None:
    write(folder, "first/test-00000-of-00002.parquet", text=[1, 2])
    with pytest.raises(InputError, match="holds int, not text"):
        read_rows(folder, "first", "test", "text")


def test_conversations_and_other_columns_are_rows_too(folder: Path, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write(folder, "second/all.parquet", messages=[said, said[:1]], code=["x = 1", "y"])
    assert read_rows(folder, "second", "test", "messages") == [said, said[:1]]
    assert read_rows(folder, "second", "test", "code") == ["x = 1", "y"]
    out = tmp_path / "rows.json"
    assert main([str(folder), "second", "test", "messages", str(out)]) == 0
    assert rows(out) == [said, said[:1]]
    assert list(passages(rows(out))) == []  # what becomes a prompt is text


@pytest.mark.parametrize("odd", [[], [{"role": "user"}], [{"content": "a"}]])
def test_a_list_that_is_no_conversation(folder: Path, odd: list[dict[str, str]]) -> None:
    right = [{"role": "user", "content": "a"}]
    write(folder, "second/all.parquet", messages=[right, odd])
    with pytest.raises(InputError, match="holds list, not text"):
        read_rows(folder, "second", "test", "messages")


def test_files_that_are_not_there_or_no_parquet(folder: Path) -> None:
    (folder / "first/test-00000-of-00002.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="no readable parquet"):
        read_rows(folder, "first", "test", "text")
    for path in folder.glob("first/test-*"):
        path.unlink()
    with pytest.raises(InputError, match="files are not there"):
        read_rows(folder, "first", "test", "text")


@pytest.mark.parametrize("path", ["../secret.parquet", "/etc/passwd", "first/../../x", "https://x.example/y"])
def test_a_readme_that_leaves_its_repo(folder: Path, path: str) -> None:
    (folder / "README.md").write_text(CARD.replace("first/test-*", path), encoding="utf-8")
    with pytest.raises(InputError, match="leaves its repo"):
        read_rows(folder, "first", "test", "text")


@pytest.mark.parametrize(
    "readme", ["", "# no front matter", "---\n: : [\n---\n", "---\nconfigs: 3\n---\n", "---\n- a\n---\n",
               "---\nconfigs:\n- config_name: first\n---\n"]
)  # fmt: skip
def test_a_readme_that_says_nothing(folder: Path, readme: str) -> None:
    (folder / "README.md").write_text(readme, encoding="utf-8")
    with pytest.raises(InputError):
        read_rows(folder, "first", "test", "text")


def test_an_unpinned_set_is_not_fetched() -> None:
    plan = recipes.load("nvfp4").evaluation.model_copy(update={"revision": "unpinned"})
    with pytest.raises(RecipeError, match="is not pinned"):
        fetch(plan, None)  # type: ignore[arg-type]  # no Hub is asked


def test_passages_are_the_whole_text_in_pieces() -> None:
    made = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(100)]
    found = list(passages(made, num_chars=1000))
    assert JOINED_BY.join(found) == JOINED_BY.join(made)
    assert all(1000 <= len(each) + len(JOINED_BY) <= 1000 + 66 for each in found[:-1])
    assert list(passages(["", " "])) == []
