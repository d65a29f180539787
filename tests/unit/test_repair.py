"""Break, repair, audit: the base's bytes are back, nothing right is touched, a second run does nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints as c
import numpy as np
import pytest

from bot.checkpoint import rewrite
from bot.checkpoint.source import open_source
from bot.errors import InfrastructureError, InputError, ReleaseBotError
from bot.recipe import Recipe, load
from bot.stages.audit import AuditReport, audit
from bot.stages.repair import RepairReport, repair

PACKINGS = tuple(c.RECIPE_OF)
NORM = "model.language_model.norm.weight"
Q = "model.language_model.layers.3.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c.make_base(tmp_path_factory.mktemp("base") / "base")


def recipe_of(packing: str) -> Recipe:
    return load(c.RECIPE_OF[packing])


def mend(folder: Path, base: Path | None, packing: str) -> RepairReport:
    return repair(folder, base=open_source(str(base)) if base else None, recipe=recipe_of(packing))


def look(folder: Path, base: Path, packing: str) -> AuditReport:
    return audit(open_source(str(folder)), base=open_source(str(base)), recipe=recipe_of(packing))


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time and bytes of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns, p.read_bytes()) for p in files
    }


def content(folder: Path) -> dict[str, bytes]:
    return {name: data for name, (_, _, data) in state(folder).items()}


# ── faults, each put into a right checkpoint ───────────────────────────────────────────────


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    c.write_json(path, change(value))


def lose_norm(made: c.Draft) -> None:
    del made.tensors[NORM]


def lose_mtp(made: c.Draft) -> None:
    for name in [name for name in made.tensors if name.startswith("mtp.")]:
        del made.tensors[name]


def alter_visual(made: c.Draft) -> None:
    t = made.tensors["model.visual.pos_embed.weight"]
    made.tensors["model.visual.pos_embed.weight"] = c.Tensor(
        t.dtype, t.shape, t.data[:-1] + bytes([t.data[-1] ^ 1])
    )


def widen_norm(made: c.Draft) -> None:
    values = c.floats(made.tensors[NORM])
    made.tensors[NORM] = c.Tensor("F32", values.shape, values.astype("<f4").tobytes())


def pack_fc(made: c.Draft) -> None:
    made.repack("mtp.fc", c.floats(made.tensors["mtp.fc.weight"]))


def pack_mtp_layer(made: c.Draft) -> None:
    for name in ("mlp.gate_proj", "mlp.up_proj", "self_attn.o_proj"):
        made.repack(f"mtp.layers.0.{name}", c.floats(made.tensors[f"mtp.layers.0.{name}.weight"]))


def pack_visual(made: c.Draft) -> None:
    made.repack(
        "model.visual.merger.linear_fc1", c.floats(made.tensors["model.visual.merger.linear_fc1.weight"])
    )


def pack_gates(made: c.Draft) -> None:
    for each in ("a", "b"):
        name = f"model.language_model.layers.0.linear_attn.in_proj_{each}"
        made.repack(name, c.floats(made.tensors[f"{name}.weight"]))


def add_orphan(made: c.Draft) -> None:
    made.tensors["model.rotary.inv_freq"] = c.bf16(np.ones(3))


def empty_lists(made: c.Draft) -> None:
    for key in ("dynamic", "extra_config", "ignore", "modules_in_block_to_quantize"):
        if key in made.quantization:
            made.quantization[key] = type(made.quantization[key])()


def leak_path(made: c.Draft) -> None:
    made.quantization["meta"] = {"offload_to_disk_path": "/tmp/gptqmodel_x/abc", "quantizer": ["x"]}


DRAFT_FAULTS = [
    lose_norm, lose_mtp, alter_visual, widen_norm, pack_fc, pack_mtp_layer, pack_visual, pack_gates,
    add_orphan, empty_lists, leak_path,
]  # fmt: skip


def stale_index(folder: Path) -> None:
    edit_json(folder / "model.safetensors.index.json", lambda v: v | {"metadata": {"total_size": 0}})


def unnamed_mtp(folder: Path) -> None:
    def drop(value: Any) -> Any:
        return value | {
            "weight_map": {k: v for k, v in value["weight_map"].items() if not k.startswith("mtp.")}
        }

    edit_json(folder / "model.safetensors.index.json", drop)


def no_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def other_config(folder: Path) -> None:
    edit_json(
        folder / "config.json", lambda v: v | {"rope_parameters": {"rope_theta": 1e4}, "use_cache": False}
    )


def lost_side_files(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "LICENSE").unlink()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "processor_config.json").write_text("{}")


def closed_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o600)


def leaking_log(folder: Path) -> None:
    (folder / "build.log").write_text("read /home/me/secret/model.py\n")
    c.write_json(folder / "notes.json", {"from": "/home/me/x", "n": 1})


def unmarked(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        c.write_safetensors(path, c.read_safetensors(path), {})


def leaking_metadata(folder: Path) -> None:
    path = folder / "model-00001-of-00003.safetensors"
    c.write_safetensors(path, c.read_safetensors(path), {"format": "pt", "from": "/home/me/x"})


def trailing_bytes(folder: Path) -> None:
    with (folder / "model-00003-of-00003.safetensors").open("ab") as file:
        file.write(b"junk")


def cut_mtp(folder: Path) -> None:
    path = folder / "model-00003-of-00003.safetensors"
    os.truncate(path, path.stat().st_size - 700)


def doubled(folder: Path) -> None:
    first, last = folder / "model-00001-of-00003.safetensors", folder / "model-00003-of-00003.safetensors"
    c.write_safetensors(
        first, c.read_safetensors(first) | {"mtp.norm.weight": c.read_safetensors(last)["mtp.norm.weight"]}
    )


FOLDER_FAULTS = [
    stale_index, unnamed_mtp, no_index, other_config, lost_side_files, closed_files, leaking_log, unmarked,
    leaking_metadata, trailing_bytes, cut_mtp, doubled,
]  # fmt: skip


def broken(folder: Path, base: Path, packing: str, fault: Callable[[Any], None]) -> Path:
    made = c.draft(base, packing)
    if fault in DRAFT_FAULTS:
        fault(made)
    c.write(folder, made, base)
    if fault in FOLDER_FAULTS:
        fault(folder)
    return folder


@pytest.mark.parametrize("packing", PACKINGS)
def test_what_is_right_is_left_alone(tmp_path: Path, base: Path, packing: str) -> None:
    folder = c.make(tmp_path / "x", base, packing)
    before = state(folder)
    report = mend(folder, base, packing)
    assert (report.changed, report.actions, report.unrepaired, report.bytes_written) == (False, [], [], 0)
    assert state(folder) == before


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("fault", [*DRAFT_FAULTS, *FOLDER_FAULTS], ids=lambda f: f.__name__)
def test_break_repair_audit(tmp_path: Path, base: Path, packing: str, fault: Callable[[Any], None]) -> None:
    folder = broken(tmp_path / "x", base, packing, fault)
    before = state(folder)
    report = mend(folder, base, packing)
    assert report.changed
    assert report.unrepaired == []
    after = look(folder, base, packing)
    assert {each.id: each.detail for each in after.checks if not each.passed} == {}
    assert {oct(path.stat().st_mode & 0o777) for path in folder.rglob("*") if path.is_file()} == {"0o644"}
    touched = {name for action in report.actions for name in action.files if action.kind != "mode"}
    for name, was in before.items():
        if name not in touched:
            assert state(folder)[name] == was, f"{name} was touched"
    settled = state(folder)
    assert not mend(folder, base, packing).changed
    assert state(folder) == settled


@pytest.mark.parametrize("packing", PACKINGS)
def test_all_faults_at_once(tmp_path: Path, base: Path, packing: str) -> None:
    made = c.draft(base, packing)
    for fault in (lose_norm, alter_visual, pack_fc, pack_visual, add_orphan, empty_lists, leak_path):
        fault(made)
    folder = c.write(tmp_path / "x", made, base)
    for fault in (stale_index, other_config, lost_side_files, leaking_log, closed_files, doubled):
        fault(folder)
    mend(folder, base, packing)
    assert look(folder, base, packing).passed
    original = c.read_all(base)
    assert {n: t for n, t in c.read_all(folder).items() if n in original} == {
        n: t for n, t in original.items() if not c.is_quantized(n)
    } | ({n: t for n, t in c.read_all(folder).items() if c.is_quantized(n)} if packing == "nvfp4" else {})


@pytest.mark.parametrize("packing", PACKINGS)
def test_only_the_shard_that_holds_mtp_fc_is_rewritten(tmp_path: Path, base: Path, packing: str) -> None:
    folder = broken(tmp_path / "x", base, packing, pack_fc)
    before = state(folder)
    mend(folder, base, packing)
    changed = {n for n, s in state(folder).items() if n.endswith(".safetensors") and s != before[n]}
    assert changed == {"model-00003-of-00003.safetensors"}
    assert c.read_all(folder)["mtp.fc.weight"] == c.read_all(base)["mtp.fc.weight"]


def test_lost_tensors_come_back_in_a_shard_of_their_own(tmp_path: Path, base: Path) -> None:
    folder = broken(tmp_path / "x", base, "gptq", lose_mtp)
    report = mend(folder, base, "gptq")
    restored = next(action for action in report.actions if action.kind == "restored")
    assert len(restored.tensors) == 15
    assert restored.files == ["model-restored-tensors.safetensors"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["mtp.fc.weight"] == "model-restored-tensors.safetensors"


def test_a_stray_weight_is_dropped(tmp_path: Path, base: Path) -> None:
    made = c.draft(base, "gptq")
    made.tensors[f"{Q}.weight"] = c.read_all(base)[f"{Q}.weight"]
    folder = c.write(tmp_path / "x", made, base)
    report = mend(folder, base, "gptq")
    assert [a.kind for a in report.actions] == ["stray-weight", "index"]
    assert look(folder, base, "gptq").passed


def test_config_is_the_bases_with_quantization(tmp_path: Path, base: Path) -> None:
    folder = broken(tmp_path / "x", base, "gptq", leak_path)
    other_config(folder)
    mend(folder, base, "gptq")
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert config == json.loads((base / "config.json").read_text())
    assert quantization["meta"] == {"quantizer": ["x"]}
    assert json.loads((folder / "quantize_config.json").read_text()) == quantization


@pytest.mark.parametrize("trivial", [True, False])
def test_desc_act_is_cleared_only_where_g_idx_is_trivial(tmp_path: Path, base: Path, trivial: bool) -> None:
    made = c.draft(base, "gptq")
    made.quantization["desc_act"] = True
    if not trivial:
        index = np.arange(256) // 128
        made.tensors[f"{Q}.g_idx"] = c.int32(index[::-1])
    folder = c.write(tmp_path / "x", made, base)
    report = mend(folder, base, "gptq")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["desc_act"] is not trivial
    assert [a.kind for a in report.unrepaired] == ([] if trivial else ["g_idx"])


# ── without a base ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("packing", PACKINGS)
def test_without_a_base_mtp_fc_is_dequantized(tmp_path: Path, base: Path, packing: str) -> None:
    folder = broken(tmp_path / "x", base, packing, pack_fc)
    report = mend(folder, None, packing)
    action = next(each for each in report.actions if each.kind == "dequantized")
    assert "BF16" in action.detail
    assert [each.kind for each in report.unrepaired] == ["needs-base"]
    got, wanted = c.floats(c.read_all(folder)["mtp.fc.weight"]), c.floats(c.read_all(base)["mtp.fc.weight"])
    assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.17
    after = look(folder, base, packing)
    assert after.failed() == ["mtp.bits"]
    assert not mend(folder, None, packing).changed
    assert mend(folder, base, packing).changed
    assert look(folder, base, packing).passed


def test_without_a_base_what_is_missing_is_listed(tmp_path: Path, base: Path) -> None:
    made = c.draft(base, "gptq")
    lose_mtp(made)
    pack_visual(made)
    report = mend(c.write(tmp_path / "x", made, base), None, "gptq")
    assert {"lost", "packed", "needs-base"} <= {each.kind for each in report.unrepaired}


# ── what cannot be repaired ────────────────────────────────────────────────────────────────


def test_a_lost_packed_module_is_listed(tmp_path: Path, base: Path) -> None:
    made = c.draft(base, "gptq")
    for name in [name for name in made.tensors if name.startswith(f"{Q}.")]:
        del made.tensors[name]
    report = mend(c.write(tmp_path / "x", made, base), base, "gptq")
    assert [(a.kind, a.tensors) for a in report.unrepaired if a.kind == "lost"] == [("lost", [f"{Q}.weight"])]


def test_a_shard_with_lost_packed_bytes_is_left_as_it_is(tmp_path: Path, base: Path) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    path = folder / "model-00001-of-00003.safetensors"
    header_end = 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]
    os.truncate(path, header_end + 1000)
    before = path.read_bytes()
    report = mend(folder, base, "gptq")
    assert path.read_bytes() == before
    assert "damaged" in {each.kind for each in report.unrepaired}


def test_pickles_are_named_and_left(tmp_path: Path, base: Path) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    (folder / "training_args.bin").write_bytes(b"x")
    report = mend(folder, base, "gptq")
    assert [(a.kind, a.files) for a in report.unrepaired] == [("pickle", ["training_args.bin"])]


@pytest.mark.parametrize("packing", ["gptq", "auto_round:auto_gptq"])
def test_a_label_that_contradicts_the_bytes_is_refused(tmp_path: Path, base: Path, packing: str) -> None:
    made = c.draft(base, packing)
    made.quantization["checkpoint_format" if packing == "gptq" else "packing_format"] = (
        "gptq_v2" if packing == "gptq" else "auto_round:gptqmodel"
    )
    folder = c.write(tmp_path / "x", made, base)
    before = state(folder)
    with pytest.raises(InputError, match="its bytes are"):
        mend(folder, base, packing)
    assert state(folder) == before


@pytest.mark.parametrize("target", ["tokenizer.json", "model-00003-of-00003.safetensors", "new.txt"])
def test_symlinks_are_refused(tmp_path: Path, base: Path, target: str) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    victim = tmp_path / "victim"
    victim.write_text("keep")
    (folder / target).unlink(missing_ok=True)
    (folder / target).symlink_to(victim)
    with pytest.raises(InputError, match="links"):
        mend(folder, base, "gptq")
    assert victim.read_text() == "keep"


def test_an_index_that_leads_outside_is_refused(tmp_path: Path, base: Path) -> None:
    folder = broken(tmp_path / "x", base, "gptq", pack_fc)
    edit_json(
        folder / "model.safetensors.index.json",
        lambda v: v | {"weight_map": v["weight_map"] | {"mtp.norm.weight": "../../x.safetensors"}},
    )
    before = state(folder)
    with pytest.raises(InputError, match="outside"):
        mend(folder, base, "gptq")
    assert state(folder) == before


def test_a_bad_base_leaves_the_folder_as_it_was(tmp_path: Path, base: Path) -> None:
    folder = broken(tmp_path / "x", base, "gptq", pack_fc)
    bad = tmp_path / "bad"
    shutil.copytree(base, bad)
    last = sorted(bad.glob("*.safetensors"))[-1]
    os.truncate(last, last.stat().st_size // 2)
    before = state(folder)
    with pytest.raises(ReleaseBotError):
        mend(folder, bad, "gptq")
    assert state(folder) == before


# ── kills and full disks ───────────────────────────────────────────────────────────────────


class Killed(BaseException):
    """kill -9: nothing of the program runs after it."""


@pytest.mark.parametrize("after", range(6))
def test_a_kill_between_renames_is_mended_by_the_next_run(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    made = c.draft(base, "gptq")
    for fault in (lose_norm, alter_visual, pack_fc, empty_lists):
        fault(made)
    folder = c.write(tmp_path / "x", made, base)
    lost_side_files(folder)
    renames = 0
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        nonlocal renames
        if renames == after:
            raise Killed
        renames += 1
        replace(source, target)

    monkeypatch.setattr(rewrite.os, "replace", dying)
    monkeypatch.setattr(rewrite.Staging, "__exit__", lambda *_: None)
    with pytest.raises(Killed):
        mend(folder, base, "gptq")
    monkeypatch.undo()
    assert list(folder.glob(f".*{rewrite.SUFFIX}"))
    mend(folder, base, "gptq")
    assert look(folder, base, "gptq").passed
    assert not list(folder.glob(f".*{rewrite.SUFFIX}"))
    assert not mend(folder, base, "gptq").changed


@pytest.mark.parametrize("allowed", [0, 1000, 300_000, 1_000_000])
def test_a_full_disk_leaves_the_folder_as_it_was(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    folder = broken(tmp_path / "x", base, "gptq", pack_fc)
    lost_side_files(folder)
    before = state(folder)
    transfer = rewrite._transfer

    def filling(origin: int, target: int, start: int, length: int) -> int:
        if os.fstat(target).st_size > allowed:
            raise OSError(errno.ENOSPC, "No space left on device")
        return transfer(origin, target, start, length)

    monkeypatch.setattr(rewrite, "_transfer", filling)
    if allowed == 1_000_000:
        monkeypatch.setattr(
            rewrite.Staging, "write", lambda *_: (_ for _ in ()).throw(InfrastructureError("full"))
        )
    with pytest.raises(InfrastructureError):
        mend(folder, base, "gptq")
    assert state(folder) == before


def test_too_little_space_is_said_before_anything_is_written(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = broken(tmp_path / "x", base, "gptq", pack_fc)
    before = state(folder)
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    monkeypatch.setattr(rewrite.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InfrastructureError, match="are free"):
        mend(folder, base, "gptq")
    assert state(folder) == before


def test_repaired_shards_load_in_the_library(tmp_path: Path, base: Path) -> None:
    from safetensors import safe_open

    folder = broken(tmp_path / "x", base, "nvfp4", pack_fc)
    lose = c.read_safetensors(folder / "model-00001-of-00003.safetensors")
    lose.pop("model.visual.pos_embed.weight", None)
    c.write_safetensors(folder / "model-00001-of-00003.safetensors", lose)
    mend(folder, base, "nvfp4")
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            assert file.metadata() == {"format": "pt"}
            for name in file.keys():  # noqa: SIM118
                size = {"F32": 4, "BF16": 2, "F16": 2, "I32": 4}.get(c.read_safetensors(path)[name].dtype, 1)
                assert size
    starts = [
        spec["data_offsets"][0] for spec in _header(folder / "model-00003-of-00003.safetensors").values()
    ]
    assert starts == sorted(starts)


def _header(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return {k: v for k, v in json.loads(data[8 : 8 + length]).items() if k != "__metadata__"}
