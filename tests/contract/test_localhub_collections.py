"""Collections through the client: made once, filled, ordered, annotated, private to their owners."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest
from contract.conftest import Hub
from huggingface_hub import Collection
from huggingface_hub.errors import HfHubHTTPError

pytestmark = pytest.mark.contract


@pytest.fixture
def collection(hub: Hub) -> Iterator[Collection]:
    title = f"contract {secrets.token_hex(4)}"
    made = hub.api.create_collection(title, namespace=hub.namespace, description="for a test", private=True)
    yield made
    hub.api.delete_collection(made.slug, missing_ok=True)


def test_create_is_idempotent_by_title(hub: Hub, collection: Collection) -> None:
    assert collection.slug.startswith(f"{hub.namespace}/contract-")
    assert collection.description == "for a test"
    again = hub.api.create_collection(collection.title, namespace=hub.namespace, exists_ok=True)
    assert again.slug == collection.slug
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api.create_collection(collection.title, namespace=hub.namespace)
    assert refused.value.response.status_code == 409


def test_items(hub: Hub, collection: Collection, make_repo: Callable[..., str]) -> None:
    model, data = make_repo("model"), make_repo("dataset")
    hub.api.add_collection_item(collection.slug, model, "model", note="first")
    filled = hub.api.add_collection_item(collection.slug, data, "dataset")
    assert [(item.item_id, item.item_type, item.note) for item in filled.items] == [
        (model, "model", "first"),
        (data, "dataset", None),
    ]
    hub.api.add_collection_item(collection.slug, model, "model", exists_ok=True)
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api.add_collection_item(collection.slug, model, "model")
    assert refused.value.response.status_code == 409
    hub.api.update_collection_item(
        collection.slug, filled.items[1].item_object_id, note="now first", position=0
    )
    turned = hub.api.get_collection(collection.slug)
    assert [(item.item_id, item.note) for item in turned.items] == [(data, "now first"), (model, "first")]
    hub.api.delete_collection_item(collection.slug, turned.items[0].item_object_id)
    assert [item.item_id for item in hub.api.get_collection(collection.slug).items] == [model]
    with pytest.raises(HfHubHTTPError):
        hub.api.delete_collection_item(collection.slug, turned.items[0].item_object_id)
    hub.api.delete_collection_item(collection.slug, turned.items[0].item_object_id, missing_ok=True)


def test_metadata(hub: Hub, collection: Collection) -> None:
    changed = hub.api.update_collection_metadata(
        collection.slug, description="another", theme="green", private=False
    )
    assert (changed.description, changed.theme, changed.private) == ("another", "green", False)
    hub.api.update_collection_metadata(collection.slug, title="Renamed " + collection.title)
    assert hub.api.get_collection(collection.slug).title.startswith("Renamed"), (
        "the old slug still leads there"
    )


def test_private_ones_are_absent_to_others(hub: Hub, collection: Collection) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        hub.as_token(False).get_collection(collection.slug)
    assert refused.value.response.status_code in (401, 404)


def test_listing(embedded: Hub) -> None:
    api = embedded.api
    api.create_repo("Shelved/a")
    api.create_repo("Shelved/secret", private=True)
    made = [api.create_collection(f"Listed {n}", namespace="Shelved", private=n == 2) for n in range(3)]
    api.add_collection_item(made[0].slug, "Shelved/a", "model")
    api.add_collection_item(made[0].slug, "Shelved/secret", "model")
    stranger = embedded.as_token(False)
    assert {c.slug for c in api.list_collections(owner="Shelved")} == {c.slug for c in made}
    assert {c.slug for c in stranger.list_collections(owner="Shelved")} == {c.slug for c in made[:2]}
    assert [c.slug for c in stranger.list_collections(item="models/Shelved/a")] == [made[0].slug]
    assert [item.item_id for item in stranger.get_collection(made[0].slug).items] == ["Shelved/a"]
    api.delete_repo("Shelved/a")
    assert [item.item_id for item in api.get_collection(made[0].slug).items] == ["Shelved/secret"]


def test_a_repo_nobody_has_cannot_be_added(hub: Hub, collection: Collection) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        hub.api.add_collection_item(collection.slug, f"{hub.namespace}/never-was-here", "model")
    assert refused.value.response.status_code == 404
