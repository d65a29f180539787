"""What is a side file, a local path, a pickle, and what only looks like one."""

from __future__ import annotations

import pickle

import pytest

from bot.checkpoint.sidefiles import (
    is_scanned,
    is_side_file,
    local_path_in_text,
    local_path_in_value,
    local_paths,
    named_like_pickle,
    starts_like_pickle,
    strings_of,
    without_local_paths,
)


@pytest.mark.parametrize(
    "path",
    [
        "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja",
        "chat_template.json", "preprocessor_config.json", "video_preprocessor_config.json", "LICENSE",
        "processor_config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json",
        "additional_chat_templates/tool.jinja",
    ],
)  # fmt: skip
def test_side_files(path: str) -> None:
    assert is_side_file(path)


@pytest.mark.parametrize(
    "path", ["config.json", "README.md", "quantize_config.json", "model.safetensors", "SHA256SUMS"]
)
def test_other_files(path: str) -> None:
    assert not is_side_file(path)


@pytest.mark.parametrize(
    "text",
    [
        "/home/me/model", "/root/x", "/tmp/tmpabc", "/mnt/nvme/ck", "/workspace/out", "/data/models/q",
        "/Users/me/x", "C:\\Users\\me\\model", "D:/Users/me", "file:///home/me/x", "./offload/abc",
        "../base", "~/models/x", "/tmp",
        "/scratch/run-1/out", "/some/where/else/entirely", "--model /home/me/x --out y", "path=/mnt/a/b",
        "see /workspace/out.",
    ],
)  # fmt: skip
def test_local_paths_are_found_in_values(text: str) -> None:
    assert local_path_in_value("any", text)


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "a/b", "org/name", "/v1/chat/completions", "/api/models", "/nothink", "</think>", "1/2",
        "and/or",
        "model.language_model.layers", "-:^mtp\\..*", "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+", "w/o",
        "fp8/int4",
        "application/json", "q_proj/k_proj", "Apache-2.0", "N/A", "e:\\n", "ratio 3:/4",
        "vllm serve org/name --host 127.0.0.1", "-v ~/.cache:/root/.cache/huggingface ubuntu",
    ],
)  # fmt: skip
def test_other_text_is_no_local_path(text: str) -> None:
    assert local_path_in_value("any", text) is None


def test_keys_that_are_always_paths() -> None:
    assert local_path_in_value("offload_to_disk_path", "gptqmodel_offload-abc") == "gptqmodel_offload-abc"
    assert local_path_in_value("offload_to_disk_path", "") is None


@pytest.mark.parametrize(
    "text", ["loading /home/me/x now", "at (/tmp/a/b.py)", '"/mnt/x/y"', "file:///x", "C:\\Users\\a\\b"]
)
def test_local_paths_are_found_in_text(text: str) -> None:
    assert local_path_in_text(text)


@pytest.mark.parametrize(
    "address", ["https://example.org/home/x", "http://a.b/data/c", "https://x.y/tmp/z?q=/a"]
)
def test_addresses_are_no_local_paths(address: str) -> None:
    assert local_path_in_text(address) is None
    assert local_path_in_text(f"see {address} for more") is None


def test_vocabularies_and_templates_are_not_looked_into() -> None:
    content = {
        "model": {"vocab": {"/home/x": 1}, "merges": ["/tmp /x"]},
        "added_tokens": [{"content": "/root/a"}],
        "added_tokens_decoder": {"1": {"content": "/tmp/x"}},
        "chat_template": "cat /home/user/file",
        "name_or_path": "/home/me/model",
    }
    assert local_paths(strings_of(content)) == [("name_or_path", "/home/me/model")]
    assert not is_scanned("chat_template.jinja")
    assert not is_scanned("vocab.json")
    assert not is_scanned("model.safetensors")
    assert is_scanned("tokenizer_config.json")
    assert is_scanned("logs/build.log")


def test_what_the_base_says_too_is_no_leak() -> None:
    assert local_paths([("k", "/home/qwen/x")], frozenset(["/home/qwen/x"])) == []


def test_local_paths_are_taken_out_with_their_key() -> None:
    content = {
        "a": 1,
        "meta": {"path": "/tmp/x/y", "ok": True},
        "list": ["/home/a/b", "c"],
        "chat_template": "/tmp/a/b",
    }
    assert without_local_paths(content) == {
        "a": 1,
        "meta": {"ok": True},
        "list": ["c"],
        "chat_template": "/tmp/a/b",
    }
    assert local_paths(strings_of(without_local_paths(content))) == []


@pytest.mark.parametrize(
    "name", ["a.bin", "b.PT", "x/y.pth", "z.pkl", "m.ckpt", "o.pickle", "optimizer.pt", "x.npz"]
)
def test_pickles_by_name(name: str) -> None:
    assert named_like_pickle(name)


@pytest.mark.parametrize("name", ["a.json", "bin", "config.bin.json", "x.safetensors"])
def test_no_pickles_by_name(name: str) -> None:
    assert not named_like_pickle(name)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_by_bytes(protocol: int) -> None:
    assert starts_like_pickle(pickle.dumps({"a": [1]}, protocol=protocol))


def test_old_pickles_and_archives_by_bytes() -> None:
    assert starts_like_pickle(b"cos\nsystem\n(S'true'\ntR.")
    assert starts_like_pickle(b"PK\x03\x04")
    assert not starts_like_pickle(b'{"a": 1}')
    assert not starts_like_pickle(b"config values\n")
    assert not starts_like_pickle(b"")
