"""Curating with its own token: the collection is kept, the predecessor is told and not written to."""

from __future__ import annotations

from typing import Any

import pytest
from cards import golden

from bot.edges.hub import Hub as Edge
from bot.errors import Refused
from bot.recipe import Recipe
from bot.stages.curate import Curated, curate

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


def test_nothing_points_at_what_is_private(guarded: Any):
    hidden = published(guarded, "Qwen5.1-1B", private=True)
    with pytest.raises(Refused, match="not public"):
        curated(guarded, hidden, [], guarded.token)
