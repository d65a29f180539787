"""What a base is, and what makes it unusable: decided from config, index and headers."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot import base as bases
from bot import recipe as recipes
from bot.checkpoint.source import FolderSource
from bot.edges.hub import RepoState
from bot.errors import InputError, RecipeError
from bot.models import Base, BaseEvidence

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "qwen3.5-tiny"
INDEX = "model.safetensors.index.json"
BASE = Base(repo_id="Qwen/x", revision="a" * 40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURE, tmp_path / "base"))


def describe(folder: Path, **card: Any) -> BaseEvidence:
    state = RepoState(repo_id="Qwen/x", revision="a" * 40, private=False, files={}, card=card)
    return bases.describe(bases.read(FolderSource(folder)), state, base=BASE, head="a" * 40)


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("architectures", 5), ("architectures", "Qwen"), ("architectures", [1]), ("architectures", ...),
     ("model_type", 5), ("model_type", ...)],
)  # fmt: skip
def test_a_config_that_does_not_say_what_it_is_is_refused(folder: Path, field: str, value: object):
    edit(folder / "config.json", **{field: value})
    with pytest.raises(InputError, match=f"{field} is not") as caught:
        describe(folder)
    assert "config.json" in caught.value.where


def test_an_index_that_does_not_hold_is_refused(folder: Path):
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    first, second = sorted(set(places.values()))[:2]
    name = next(each for each, file in places.items() if file == first)
    for changed, words in (
        ({**places, "x": "../../etc/passwd"}, r"'../../etc/passwd', which is outside"),
        ({**places, name: "model-00009.safetensors"}, r"model-00009.safetensors, which is not there"),
        ({**places, name: second}, f"{name} lies in {second}, which does not hold it"),
        ({**places, "model.gone": first}, f"model.gone lies in {first}, which does not hold it"),
    ):
        edit(folder / INDEX, weight_map=changed)
        with pytest.raises(InputError, match=words):
            describe(folder)


def test_a_damaged_shard_is_refused(folder: Path):
    shard = sorted(folder.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    with pytest.raises(InputError, match=f"{shard.name} is damaged: .*its header promises"):
        describe(folder)
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    names = sorted(
        (each for each in header if each != "__metadata__"), key=lambda n: header[n]["data_offsets"]
    )
    start, end = header[names[1]]["data_offsets"]
    header[names[1]]["data_offsets"] = [start - 2, end - 2]
    written = json.dumps(header, separators=(",", ":")).encode()
    shard.write_bytes(struct.pack("<Q", len(written)) + written + content[8 + length :])
    with pytest.raises(InputError, match=f"{shard.name} is damaged: .*inside"):
        describe(folder)


@pytest.mark.parametrize("shape", [(), (256,), (1, 2, 3)])
def test_a_module_to_quantize_is_a_matrix(shape: tuple[int, ...]):
    checkpoint = bases.read(FolderSource(FIXTURE))
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    tensors = {**checkpoint.tensors, name: replace(checkpoint.tensors[name], shape=shape)}
    with pytest.raises(InputError, match=r"mlp.up_proj has shape"):
        bases.refuse_unfit(
            replace(checkpoint, tensors=tensors), describe(FIXTURE), recipes.load("gptq-w4a16-g128")
        )


@pytest.mark.parametrize(
    ("coverage", "words"),
    [
        ({"quantize": ["mlp.gat_proj", "mlp.up_proj"]}, r"mlp.gat_proj(.|\n)*did you mean 'mlp.gate_proj'"),
        ({"quantize": ["mlp.nothing"]}, "none of the modules"),
        ({"keep": ["*"]}, "both quantized and kept"),
        ({"keep": ["mtp.*"]}, "neither quantized nor kept"),
    ],
)
def test_coverage_that_does_not_fit_the_base_is_refused(coverage: dict[str, list[str]], words: str):
    content = recipes.load("gptq-w4a16-g128").model_dump(mode="json")
    bases.refuse_unfit(
        bases.read(FolderSource(FIXTURE)), describe(FIXTURE), recipes.Recipe.model_validate(content)
    )
    content["coverage"] |= coverage
    with pytest.raises(RecipeError, match=words):
        bases.refuse_unfit(
            bases.read(FolderSource(FIXTURE)), describe(FIXTURE), recipes.Recipe.model_validate(content)
        )


def test_a_missing_pipeline_tag_follows_from_the_tensors(folder: Path):
    assert describe(folder).pipeline_tag == "image-text-to-text"
    assert describe(folder, pipeline_tag="text-generation").pipeline_tag == "text-generation"
    checkpoint = bases.read(FolderSource(folder))
    text_only = {name: entry for name, entry in checkpoint.tensors.items() if ".visual." not in name}
    state = RepoState(repo_id="Qwen/x", revision="a" * 40, private=False, files={}, card={})
    found = bases.describe(replace(checkpoint, tensors=text_only), state, base=BASE, head="a" * 40)
    assert found.pipeline_tag == "text-generation"


@pytest.mark.parametrize(
    "hostile", ["", "a\nb", "<script>", "[x](y)", "-x", "a" * 97, 5, ["mit"], None, "mit\n"]
)
def test_what_is_more_than_a_word_is_not_taken_over(hostile: object):
    found = describe(
        FIXTURE, license=hostile, license_name=hostile, pipeline_tag=hostile, language=["en", hostile]
    )
    assert (found.license, found.license_name, found.languages) == ("unknown", None, ["en"])
    assert found.pipeline_tag == "image-text-to-text"


@pytest.mark.parametrize(
    ("link", "kept"),
    [("https://x.org/LICENSE?a=1", True), ("LICENSE", True), ("javascript:alert(1)", False), ("a\nb", False)],
)
def test_a_licence_link_is_a_link(link: str, kept: bool):
    found = describe(FIXTURE, license="apache-2.0", license_name="Qwen 2.0", license_link=link, language="zh")
    assert found.license_link == (link if kept else None)
    assert (found.license, found.license_name, found.languages) == ("apache-2.0", "Qwen 2.0", ["zh"])
