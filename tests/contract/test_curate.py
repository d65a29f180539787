"""Curating with its own token: the collection is kept, the predecessor is told and not written to."""

from __future__ import annotations

from typing import Any

import pytest
from cards import golden
from huggingface_hub import CommitOperationAdd

from bot.edges.hub import Hub as Edge
from bot.errors import Refused
from bot.recipe import Recipe
from bot.stages.curate import TITLE, Curated, curate

CARD = b"---\nlicense: apache-2.0\n---\n\n# A card\n"


def release(repo_id: str) -> Any:
    return golden("nvfp4").release.model_copy(update={"target_repo": repo_id})


def published(guarded: Any, name: str, *, private: bool = False) -> str:
    suffix = Recipe.model_validate(golden("nvfp4").release.recipe).repo_suffix
    repo_id = f"acme/{name}-{suffix}"
    guarded.api.create_repo(repo_id, private=private)
    guarded.api.upload_file(path_or_fileobj=CARD, path_in_repo="README.md", repo_id=repo_id)
    return repo_id


def curated(guarded: Any, repo_id: str, known: list[str], token: str) -> Curated:
    hub = Edge(embedded=True, endpoint=guarded.endpoint, token=token)
    return curate(release(repo_id), known, hub=hub, collection="Curated in tests")


def test_the_predecessor_is_told_by_a_pull_request_once(guarded: Any):
    old, new = published(guarded, "Qwen3.1-1B"), published(guarded, "Qwen3.2-1B")
    found = [curated(guarded, new, [old, new], "hf_shelf_proposes") for _ in range(2)]
    assert [(each.predecessor, each.new_version) for each in found] == [(old, "proposed")] * 2
    edge = Edge(embedded=True, endpoint=guarded.endpoint, token=guarded.token)
    (said,) = edge.pull_requests(old)
    assert "new_version" not in edge.state(old).card
    edge.merge(old, said.num, comment="by a person")
    assert edge.state(old).card["new_version"] == new
    assert curated(guarded, new, [old, new], "hf_shelf_proposes").new_version == "unchanged"
    items = guarded.api.get_collection(found[0].collection).items
    assert [each.item_id for each in items] == [new]


def test_a_token_that_may_write_there_merges_it(guarded: Any):
    old, new = published(guarded, "Qwen4.1-1B"), published(guarded, "Qwen4.2-1B")
    assert curated(guarded, new, [old, new], guarded.token).new_version == "merged"


def opened(guarded: Any, token: str, old: str, new: str, *paths: str) -> int:
    """A pull request under the title that curating looks for."""
    operations = [CommitOperationAdd(path, CARD + b"More.\n") for path in paths]
    api = guarded.as_token(token)
    return api.create_commit(old, operations, commit_message=f"{TITLE}: {new}", create_pr=True).pr_num


@pytest.mark.parametrize("paths", [("README.md", "modeling_evil.py"), ("README.md",)])
def test_a_stranger_s_pull_request_of_that_title_is_never_merged(guarded: Any, paths: tuple[str, ...]):
    """The predecessor is public and the title no secret; ours is opened beside it."""
    name = f"Qwen6.{len(paths)}"
    old, new = published(guarded, f"{name}.1-1B"), published(guarded, f"{name}.2-1B")
    theirs = opened(guarded, "hf_eve", old, new, *paths)
    assert curated(guarded, new, [old, new], guarded.token).new_version == "merged"
    edge = Edge(embedded=True, endpoint=guarded.endpoint, token=guarded.token)
    found = {each.num: (each.author, each.status) for each in edge.pull_requests(old)}
    assert found.pop(theirs) == ("eve", "open")
    assert list(found.values()) == [("root", "merged")]
    assert "modeling_evil.py" not in edge.state(old).files
    assert edge.state(old).card["new_version"] == new


@pytest.mark.parametrize(
    ("paths", "told"), [(("README.md",), "merged"), (("README.md", "modeling_evil.py"), "proposed")]
)
def test_a_member_s_is_merged_where_it_changes_the_card_only(guarded: Any, paths: tuple[str, ...], told: str):
    name = f"Qwen7.{len(paths)}"
    old, new = published(guarded, f"{name}.1-1B"), published(guarded, f"{name}.2-1B")
    opened(guarded, "hf_carol", old, new, *paths)
    assert curated(guarded, new, [old, new], guarded.token).new_version == told
    edge = Edge(embedded=True, endpoint=guarded.endpoint, token=guarded.token)
    assert len(list(edge.pull_requests(old))) == 1
    assert "modeling_evil.py" not in edge.state(old).files


def test_nothing_points_at_what_is_private(guarded: Any):
    hidden = published(guarded, "Qwen5.1-1B", private=True)
    with pytest.raises(Refused, match="not public"):
        curated(guarded, hidden, [], guarded.token)
