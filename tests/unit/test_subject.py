"""What a checkpoint's files say of it before it is served."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import measured
import pytest

from bot import recipe as recipes
from bot.errors import InputError
from bot.serving import subject

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "qwen3.5-tiny"
SERVE = recipes.load("gptq-w4a16-g128").serve


def of(folder: Path) -> subject.Subject:
    return subject.of_folder(folder, measured.engine(), role="base", name="tiny", revision=None, serve=SERVE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FIXTURE, tmp_path / "copy")
    return tmp_path / "copy"


def edit(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].update(fields)
    (folder / "config.json").write_text(json.dumps(config))


def test_the_fixture_drafts_and_sees():
    found = of(FIXTURE)
    assert (found.vocab_size, found.max_position_embeddings) == (2048, 8192)
    assert found.facts.packing == "none"
    assert found.facts.drafts
    assert found.facts.num_mtp_tensors == 15
    assert found.facts.num_visual_tensors > 0


def test_a_copy_has_the_same_fingerprint_and_a_changed_byte_another(copy: Path):
    before = of(FIXTURE).facts.fingerprint
    (copy / "README.md").write_text("another card")
    assert of(copy).facts.fingerprint == before
    weights = next(copy.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert of(copy).facts.fingerprint != before


def test_the_digests_that_are_known_give_the_same_fingerprint(copy: Path):
    import hashlib

    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in copy.iterdir()}
    assert subject.fingerprint(digests) == subject.fingerprint_of(copy)


def test_a_head_that_the_config_promises_is_asked_for_when_it_is_gone(copy: Path):
    (copy / "model-00003-of-00003.safetensors").unlink()
    index = copy / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = {k: v for k, v in content["weight_map"].items() if "00003" not in v}
    index.write_text(json.dumps(content))
    found = of(copy)
    assert found.facts.num_mtp_tensors < 15
    assert found.facts.drafts
    edit(copy, mtp_num_hidden_layers=0)
    if not found.facts.num_mtp_tensors:
        assert not of(copy).facts.drafts


@pytest.mark.parametrize("value", [None, 0, -1, True, "2048"])
def test_a_vocabulary_that_is_no_number_is_unreadable(copy: Path, value: object):
    edit(copy, vocab_size=value)
    with pytest.raises(InputError, match="vocab_size"):
        of(copy)


@pytest.mark.parametrize(
    ("quantization", "packing"),
    [
        (None, "none"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}, "auto_round:auto_gptq"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "fp8"}, "fp8"),
        ({}, "unknown"),
    ],
)
def test_the_packing_is_what_the_config_says(quantization: dict[str, object] | None, packing: str):
    assert subject.packing_of(quantization) == packing
