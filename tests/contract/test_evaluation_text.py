"""The evaluation set from a Hub: only the files of its split, at the recipe's commit."""

from __future__ import annotations

import pytest
from contract.conftest import Hub
from huggingface_hub import CommitOperationAdd

from bot import recipe as recipes
from bot.edges import hub as edge
from bot.errors import InputError
from bot.recipe_evaluation import Evaluation
from bot.serving.evaluation_text import fetch

pytestmark = pytest.mark.contract
CARD = b"""---
configs:
- config_name: wikitext-2-raw-v1
  data_files:
  - {split: test, path: wikitext-2-raw-v1/test-*}
  - {split: train, path: wikitext-2-raw-v1/train-*}
- config_name: wikitext-103-raw-v1
  data_files:
  - {split: test, path: wikitext-103-raw-v1/test-*}
---
A stand-in.
"""
FILES = {
    "README.md": CARD,
    "wikitext-2-raw-v1/test-00000-of-00001.parquet": b"the test",
    "wikitext-2-raw-v1/train-00000-of-00001.parquet": b"the training split",
    "wikitext-103-raw-v1/test-00000-of-00001.parquet": b"another config",
}


@pytest.fixture
def pinned(embedded: Hub) -> Evaluation:
    name = embedded.name()
    embedded.api.create_repo(name, repo_type="dataset")
    first = embedded.api.create_commit(
        name,
        repo_type="dataset",
        operations=[CommitOperationAdd(path, data) for path, data in FILES.items()],
        commit_message="the set",
    )
    embedded.api.upload_file(
        path_or_fileobj=b"changed since",
        path_in_repo="wikitext-2-raw-v1/test-00000-of-00001.parquet",
        repo_id=name,
        repo_type="dataset",
    )
    shipped = recipes.load("nvfp4").evaluation
    return shipped.model_copy(update={"dataset": name, "revision": first.oid})


def client(embedded: Hub) -> edge.Hub:
    return edge.Hub(embedded=True, endpoint=embedded.endpoint, token=embedded.token)


def test_only_the_split_at_its_commit(embedded: Hub, pinned: Evaluation) -> None:
    folder = fetch(pinned, client(embedded))
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {
        name: data for name, data in FILES.items() if "-103-" not in name and "train" not in name
    }


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"split": "dev"}, "no split 'dev'"),
        ({"config": "wikitext-3"}, "no config 'wikitext-3'"),
        ({"revision": "0" * 40}, "no such repo, revision or file"),
        ({"dataset": "nobody/has-this"}, "no such repo, revision or file"),
    ],
)
def test_a_set_that_is_not_there(
    embedded: Hub, pinned: Evaluation, change: dict[str, str], what: str
) -> None:
    with pytest.raises(InputError, match=what):
        fetch(pinned.model_copy(update=change), client(embedded))
