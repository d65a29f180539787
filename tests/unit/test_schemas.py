"""The shipped JSON schemas are those of the models."""

from __future__ import annotations

import pytest

from bot import schemas


@pytest.mark.parametrize("name", schemas.models())
def test_schemas_are_current(name: str):
    assert schemas.path(name).read_text(encoding="utf-8") == schemas.text(schemas.models()[name]), (
        "run `make generated`"
    )


def test_no_schema_is_left_over():
    assert {each.name for each in schemas.FOLDER.glob("*.json")} == {
        schemas.path(name).name for name in schemas.models()
    }


def test_every_file_carries_its_schema_version():
    for name, model in schemas.models().items():
        assert "schema_version" in model.model_fields, name
