"""Holes that an outside checker found in audit and repair, each kept shut."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import time
from pathlib import Path

import checkpoints as c
import numpy as np
import pytest

from bot.checkpoint import rewrite
from bot.checkpoint.sidefiles import local_path_in_stream, local_path_in_text, named_like_pickle
from bot.checkpoint.source import open_source
from bot.errors import InfrastructureError, InputError
from bot.recipe import load
from bot.stages.audit import audit
from bot.stages.repair import RepairReport, repair

RECIPE = load(c.RECIPE_OF["gptq"])
MTP_FC = "mtp.fc"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c.make_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return c.make(tmp_path_factory.mktemp("made") / "made", base, "gptq")


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ck"))


def failed(folder: Path, base: Path | None) -> list[str]:
    given = open_source(str(base)) if base else None
    return audit(open_source(str(folder)), base=given, recipe=RECIPE).failed()


def mend(folder: Path, base: Path | None) -> RepairReport:
    return repair(folder, base=open_source(str(base)) if base else None, recipe=RECIPE)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


# ── names and characters ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("file", ["config.json", "quantize_config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("entry", [{"x": "\ud800"}, {"\udfff": 1}])
def test_lone_surrogates_are_refused(folder: Path, base: Path, file: str, entry: dict[str, object]) -> None:
    value = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(value | entry))
    before = content(folder)
    with pytest.raises(InputError, match="surrogate"):
        failed(folder, base)
    with pytest.raises(InputError, match="surrogate"):
        mend(folder, base)
    assert content(folder) == before


def test_surrogate_pairs_are_characters(folder: Path, base: Path) -> None:
    (folder / "results.json").write_text(json.dumps({"face": "\U0001f600"}))
    assert failed(folder, base) == []


def test_names_that_are_not_utf8_are_refused(folder: Path, base: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff.txt")).write_text("x")
    with pytest.raises(InputError, match="udcff"):
        failed(folder, base)


def test_deep_folders_are_refused(folder: Path, base: Path) -> None:
    (folder / "/".join("d" * 100)).mkdir(parents=True)
    for work in (failed, mend):
        with pytest.raises(InputError, match="deep"):
            work(folder, base)


# ── pickles and second models ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((f"p{n}.{suffix}", pickle.dumps(Evil(), n)) for n in range(6) for suffix in ("txt", "x", "md")),
        ("dict.txt", pickle.dumps({"a": Evil()}, 0)),
        ("other.txt", b"cshutil\nrmtree\n(S'/x'\ntR."),
        ("tar.txt", b"pickle".ljust(257, b"\0") + b"ustar\0" + b"\0" * 300),
        ("a\nb.bin", b"x"),
        ("sub/evil.safetensors", pickle.dumps(Evil())),
        ("sub/zero.safetensors", pickle.dumps(Evil(), 0)),
        ("extra.safetensors", pickle.dumps(Evil())),
        ("evil.SAFETENSORS", pickle.dumps(Evil())),
    ],
)
def test_pickles(folder: Path, base: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    assert "files.pickle" in failed(folder, base)
    assert any(name in action.files for action in mend(folder, base).unrepaired if action.kind == "pickle")


@pytest.mark.parametrize(
    "text", ["cat\ndog\nbird\n", "copyright\nnotice\n", "(see below)\n", "", "NOTE: a.\n"]
)
def test_words_are_no_pickle(folder: Path, base: Path, text: str) -> None:
    (folder / "NOTES").write_text(text)
    assert failed(folder, base) == []


def test_names_with_newlines() -> None:
    assert named_like_pickle("a\nb.bin")
    assert named_like_pickle("a.bin\n")


def test_a_second_checkpoint_in_a_subfolder(folder: Path, base: Path) -> None:
    (folder / "a").mkdir()
    shard = next(folder.glob("*.safetensors"))
    shutil.copy(shard, folder / "a" / "model.safetensors")
    assert failed(folder, base)
    mend(folder, base)
    assert shard.exists()
    assert not (folder / "a" / "model.safetensors").exists()
    assert failed(folder, base) == []


def test_a_second_tokenizer_in_a_subfolder(folder: Path, base: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "tokenizer.json").write_text("{}")
    assert failed(folder, base) == ["sidefiles.differ"]
    mend(folder, base)
    assert failed(folder, base) == []


# ── local paths ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name",
    [
        "README",
        "NOTES",
        "Makefile",
        "a.rst",
        "a.conf",
        "a.out",
        "a.ipynb",
        "a.lock",
        ".gitattributes",
        "s/t/i.md",
    ],
)
def test_paths_in_any_text(folder: Path, base: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("run at /home/bob/models/model now\n")
    assert failed(folder, base) == ["files.local_path"]
    mend(folder, base)
    assert (folder / name).read_text() == "run at model now\n"
    assert failed(folder, base) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"/home/bob/model/x": 1}', '["\\/home\\/bob\\/model"]', '{"model": "/home/bob/model"}',
        '{"a": [["D:/models/out"]]}', '{"a": {"model": {"b": "~/models/x"}}}', '"/home/bob/x',
    ],
)  # fmt: skip
def test_paths_in_json(folder: Path, base: Path, text: str) -> None:
    (folder / "results.json").write_text(text)
    assert failed(folder, base) == ["files.local_path"]
    mend(folder, base)
    assert failed(folder, base) == []


@pytest.mark.parametrize("entry", [{"path": "/home/bob/m"}, {"metadata": {"total_size": 1, "a": "/tmp/x/y"}}])
def test_paths_in_the_index(folder: Path, base: Path, entry: dict[str, object]) -> None:
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entry))
    assert "files.local_path" in failed(folder, base)
    mend(folder, base)
    assert failed(folder, base) == []


@pytest.mark.parametrize(
    "path",
    ["~/models/x", "D:/models/out", "/data1/models", "/ephemeral/q/out", "/scratch/u/1", "\\\\srv\\share\\m"],
)
def test_roots(path: str) -> None:
    assert local_path_in_text(f"Made from `{path}` today.")


@pytest.mark.parametrize(
    "text",
    [
        "![size](./plots/size.png) of org/name, 2026-11-21, 1/2, 21/11/2026, and/or, https://a.b/data/c",
        "`-v ~/.cache/huggingface:/root/.cache/huggingface`", "see `POST /v1/chat/completions`",
        "*.7z filter=lfs diff=lfs merge=lfs -text\nsaved_model/**/* filter=lfs\n", "w:h = 16:/9, $\\\\alpha$",
    ],
)  # fmt: skip
def test_ordinary_markdown(text: str) -> None:
    assert local_path_in_text(text) is None


def test_large_texts_are_read_in_time() -> None:
    started = time.monotonic()
    for each in (b"/", b"a", b"C:\\a ", b"C:\\a a a a", b"=/home ", b"~/", b"\\\\a", b"/data1|", b"file:"):
        chunk = each * ((4 << 20) // len(each))
        assert local_path_in_stream([chunk] * 4) is None
    assert time.monotonic() - started < 30
    assert local_path_in_stream([b"x" * 100 + b" /ho", b"me/bob/x "]) == "/home/bob/x"


# ── side files that are damaged ────────────────────────────────────────────────────────────


def test_a_side_file_that_is_no_json_is_reported(folder: Path, base: Path) -> None:
    (folder / "preprocessor_config.json").write_text("{")
    assert failed(folder, base) == ["sidefiles.differ"]


# ── repair ─────────────────────────────────────────────────────────────────────────────────


def packed_fc(base: Path, target: Path, **change: c.Tensor) -> Path:
    draft = c.draft(base, "gptq")
    draft.repack(MTP_FC, c.floats(c.read_all(base)[f"{MTP_FC}.weight"]))
    draft.tensors |= {f"{MTP_FC}.{part}": tensor for part, tensor in change.items()}
    draft.quantization["desc_act"] = True
    return c.write(target, draft, base)


def test_desc_act_follows_from_what_stays_packed(tmp_path: Path, base: Path) -> None:
    folder = packed_fc(base, tmp_path / "ck", g_idx=c.int32(np.arange(2 * c.HIDDEN)[::-1] // 128))
    assert not [each for each in mend(folder, base).unrepaired if each.kind == "g_idx"]
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["desc_act"] is False
    assert mend(folder, base).changed is False


def test_poisoned_scales_are_not_dequantized(tmp_path: Path, base: Path) -> None:
    scales = np.full((2 * c.HIDDEN // 128, c.HIDDEN), np.nan, np.float16)
    folder = packed_fc(base, tmp_path / "ck", scales=c.Tensor("F16", scales.shape, scales.tobytes()))
    report = mend(folder, None)
    assert [each for each in report.unrepaired if each.kind == "packed" and MTP_FC in each.tensors]
    assert f"{MTP_FC}.qweight" in c.read_all(folder)
    assert mend(folder, None).changed is False


def test_a_base_that_is_no_authority(folder: Path, made: Path) -> None:
    before = content(folder)
    for wrong in (made, folder):
        with pytest.raises(InputError, match="base"):
            mend(folder, wrong)
    assert content(folder) == before


def test_leftovers_stay_when_nothing_can_be_read(folder: Path, base: Path) -> None:
    leftover = folder / f".config.json{rewrite.SUFFIX}"
    leftover.write_text("x")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError):
        mend(folder, base)
    assert leftover.exists()
    shutil.copy(base / "config.json", folder / "config.json")
    mend(folder, base)
    assert not leftover.exists()


def test_a_switch_that_fails_is_taken_back(folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "LICENSE").write_text("other")
    (folder / "config.json").write_text("{}")
    before, real = content(folder), os.replace

    def refuse(one: Path, other: Path) -> None:
        if Path(other).name == "config.json" and str(one).endswith(rewrite.SUFFIX):
            raise PermissionError(1, "Operation not permitted")
        real(one, other)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InfrastructureError, match="config"):
        mend(folder, base)
    assert content(folder) == before


def test_a_folder_where_a_file_belongs(folder: Path, base: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    (folder / "LICENSE").write_text("other")
    before = content(folder)
    with pytest.raises(InputError, match="folder where a file"):
        mend(folder, base)
    assert content(folder) == before


def test_a_header_length_like_a_pickle_is_none(tmp_path: Path, base: Path, folder: Path) -> None:
    """A header of 640 bytes begins with the bytes of a pickle of protocol 2."""
    tensors = c.read_safetensors(next(folder.glob("*.safetensors")))
    name, tensor = next(iter(tensors.items()))
    head = {"__metadata__": {"format": "pt"}}
    head[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [0, len(tensor.data)]}  # type: ignore[assignment]
    text = json.dumps(head).encode().ljust(640)
    (folder / "extra.safetensors").write_bytes(struct.pack("<Q", 640) + text + tensor.data)
    assert "files.pickle" not in failed(folder, base)
