"""The kill switch, where a release is written: nothing changes the Hub while it is on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from contract.conftest import Hub
from huggingface_hub import CommitOperationAdd

from bot.edges.hub import Hub as Edge
from bot.edges.hub import PullRequest
from bot.errors import Stopped

pytestmark = pytest.mark.contract
Write = Callable[[Edge, str, Path], object]


def pull(name: str) -> PullRequest:
    return PullRequest(num=1, title="Release x", status="open", author="x")


def commit(edge: Edge, name: str, folder: Path) -> object:
    return edge.commit(name, title="x", add={"x": folder / "x"}, parent=edge.head(name), create_pr=True)


WRITES: dict[str, Write] = {
    "create_private": lambda edge, name, _: edge.create_private(f"{name}-other"),
    "commit": commit,
    "merge": lambda edge, name, _: edge.merge(name, 1, comment="x"),
    "supersede": lambda edge, name, _: edge.supersede(name, pull(name), comment="x"),
    "tag": lambda edge, name, _: edge.tag(name, "x", edge.head(name)),
    "make_public": lambda edge, name, _: edge.make_public(name),
    "collect": lambda edge, name, _: edge.collect("x", name.split("/")[0], name),
}


def facts(hub: Hub, name: str) -> object:
    """What of the Hub a release could have changed."""
    api, owner = hub.api, name.split("/")[0]
    pulls = [(each.num, each.title, each.status) for each in api.get_repo_discussions(name)]
    tags = [each.name for each in api.list_repo_refs(name).tags]
    info = api.repo_info(name)
    mine = sorted(each.id for each in api.list_models(author=owner) if each.id.startswith(name))
    shelves = sorted(each.title for each in api.list_collections(owner=owner))
    return pulls, tags, info.sha, info.private, mine, shelves


@pytest.mark.parametrize("what", WRITES)
def test_no_write_passes_it(embedded: Hub, tmp_path: Path, what: str) -> None:
    name = embedded.name()
    (tmp_path / "x").write_text("x")
    embedded.api.create_repo(name, private=True)
    embedded.api.create_commit(
        name, [CommitOperationAdd("y", b"y")], commit_message="Release x", create_pr=True
    )
    is_on = True

    def switch() -> None:
        if is_on:
            raise Stopped("paused by ann: wait")

    edge = Edge(embedded=True, endpoint=embedded.endpoint, token=embedded.token, before_write=switch)
    before = facts(embedded, name)
    with pytest.raises(Stopped):
        WRITES[what](edge, name, tmp_path)
    assert facts(embedded, name) == before
    is_on = False
    WRITES[what](edge, name, tmp_path)
    assert facts(embedded, name) != before, "it is a write"


def test_it_is_asked_again_once_the_weights_have_arrived(embedded: Hub, tmp_path: Path) -> None:
    """An upload takes hours; the commit, which alone shows, is made after it."""
    name = embedded.name()
    embedded.api.create_repo(name, private=True)
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    asked: list[int] = []

    def switch() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise Stopped("paused by ann: wait")

    edge = Edge(embedded=True, endpoint=embedded.endpoint, token=embedded.token, before_write=switch)
    before = facts(embedded, name)
    with pytest.raises(Stopped):
        edge.commit(
            name,
            title="x",
            add={"model.safetensors": tmp_path / "model.safetensors"},
            parent=edge.head(name),
            create_pr=True,
        )
    assert len(asked) == 2
    assert facts(embedded, name) == before


def test_taking_a_pull_request_away_is_two_writes_and_each_is_asked_for(embedded: Hub) -> None:
    """Stopped in between, it is renamed: no release is found by it, and it is not taken for a refusal."""
    name = embedded.name()
    embedded.api.create_repo(name, private=True)
    embedded.api.create_commit(
        name, [CommitOperationAdd("y", b"y")], commit_message="Release x", create_pr=True
    )
    asked: list[int] = []

    def switch() -> None:
        asked.append(1)
        if len(asked) > 1:
            raise Stopped("paused by ann: wait")

    edge = Edge(embedded=True, endpoint=embedded.endpoint, token=embedded.token, before_write=switch)
    with pytest.raises(Stopped):
        edge.supersede(name, pull(name), comment="x")
    (left,) = edge.pull_requests(name)
    assert (left.title, left.status) == ("Superseded: Release x", "open")
