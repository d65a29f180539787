"""Which repo is a base's official FP8, which figures may be compared, and how long a speed lasts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot import localhub
from bot.edges.hub import Hub, RepoState
from bot.serving.baselines import not_its_fp8, official_fp8

BASE = "Qwen/Qwen3.5-27B"
TEXT = {"hidden_size": 5120, "num_hidden_layers": 64, "vocab_size": 248320, "num_attention_heads": 24}
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_5",
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "text_config": {"model_type": "qwen3_5_text", **TEXT},
}
QUANTIZATION = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
FP8 = {**CONFIG, "quantization_config": QUANTIZATION}


def state(repo_id: str = f"{BASE}-FP8", **card: Any) -> RepoState:
    return RepoState(repo_id=repo_id, revision="0" * 40, private=False, files={}, card=card)


# ── the official FP8 repo ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("card", [{}, {"base_model": BASE}, {"base_model": ["Qwen/Other", BASE]}])
def test_the_base_s_own_fp8_repo_is_one(card: dict[str, Any]):
    assert not_its_fp8(BASE, CONFIG, state(**card), FP8) is None


@pytest.mark.parametrize(
    ("found", "config", "reason"),
    [
        (state("Qwen/Qwen3.5-27B-v2-FP8"), FP8, "it is Qwen/Qwen3.5-27B-v2-FP8 now"),
        (state(base_model="Qwen/Qwen3.5-27B-Base"), FP8, "made from Qwen/Qwen3.5-27B-Base"),
        (state(), CONFIG, "quant_method is None"),
        (state(), {**FP8, "quantization_config": {"quant_method": "awq"}}, "is 'awq'"),
        (state(), {**FP8, "quantization_config": "fp8"}, "quant_method is None"),
        (state(), {**FP8, "architectures": ["Qwen3_5ForCausalLM"]}, "its architectures is"),
        (state(), {**FP8, "model_type": "qwen3_5_moe"}, "its model_type is 'qwen3_5_moe'"),
        (state(), {**FP8, "text_config": {**TEXT, "num_hidden_layers": 32}}, "num_hidden_layers is 32"),
        (state(), {k: v for k, v in FP8.items() if k != "text_config"}, "hidden_size is None"),
    ],
)  # fmt: skip
def test_what_is_no_fp8_of_the_base_says_why(found: RepoState, config: dict[str, Any], reason: str):
    assert reason in (not_its_fp8(BASE, CONFIG, found, config) or "it was taken")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[localhub.Running]:
    with localhub.running(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
def hub(server: localhub.Running, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return Hub(embedded=True, endpoint=server.url, token=server.token)


@pytest.fixture
def publish(hub: Hub, tmp_path: Path) -> Callable[..., str]:
    def commit(repo_id: str, config: dict[str, Any] | None, card: str = "") -> str:
        hub.api.create_repo(repo_id)
        files = {"README.md": f"---\nlicense: apache-2.0\n{card}\n---\n# Model\n"}
        if config is not None:
            files["config.json"] = json.dumps(config)
        for name, text in files.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        add = {name: tmp_path / name for name in files}
        sha, _ = hub.commit(repo_id, title="first", add=add, parent=hub.head(repo_id))
        return sha

    return commit


def test_it_is_found_on_a_hub_at_its_newest_commit(hub: Hub, publish: Callable[..., str]):
    base = publish("org/model", CONFIG)
    sha = publish("org/model-FP8", FP8, "base_model: org/model")
    found = official_fp8("org/model", hub, base_revision=base)
    assert found is not None
    assert (found.repo_id, found.revision) == ("org/model-FP8", sha)
    assert official_fp8("org/model-FP8", hub) is None


def test_there_may_be_none(hub: Hub, publish: Callable[..., str], capsys: pytest.CaptureFixture[str]):
    publish("org/alone", CONFIG)
    assert official_fp8("org/alone", hub) is None
    assert "no org/alone-FP8" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "config"), [("plain", CONFIG), ("empty", None)])
def test_a_repo_that_only_has_the_name_is_none(
    hub: Hub, publish: Callable[..., str], name: str, config: dict[str, Any] | None
):
    publish(f"org/{name}", CONFIG)
    publish(f"org/{name}-FP8", config)
    assert official_fp8(f"org/{name}", hub) is None
