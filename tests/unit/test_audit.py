"""A right checkpoint passes every check; each rigged one fails just those that are about its fault."""

from __future__ import annotations

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

from bot.checkpoint.source import open_source
from bot.errors import InputError
from bot.recipe import Recipe, load
from bot.stages.audit import CHECKS, AuditReport, audit

IDS = [
    "tensors.missing",
    "tensors.orphan",
    "tensors.kept_bits",
    "mtp.missing",
    "mtp.unindexed",
    "mtp.fc_packed",
    "mtp.bits",
    "visual.bits",
    "precision.visual",
    "precision.in_proj_ab",
    "scales.finite",
    "scales.zero",
    "weights.distance",
    "gidx.trivial",
    "config.lists",
    "config.architecture",
    "index.total_size",
    "index.paths",
    "shards.missing",
    "shards.truncated",
    "shards.overlap",
    "sidefiles.missing",
    "sidefiles.differ",
    "files.local_path",
    "files.pickle",
    "files.symlink",
]
Q = "model.language_model.layers.3.self_attn.q_proj"
GATE = "model.language_model.layers.1.mlp.gate_proj"
A = "model.language_model.layers.0.linear_attn.in_proj_a"
QKV = "model.visual.blocks.0.attn.qkv"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c.make_base(tmp_path_factory.mktemp("base") / "base")


def recipe_of(packing: str) -> Recipe | None:
    name = c.RECIPE_OF.get(packing)
    return load(name) if name else None


def run(folder: Path, base: Path | None, packing: str = "") -> AuditReport:
    recipe = recipe_of(packing)
    return audit(open_source(str(folder)), base=open_source(str(base)) if base else None, recipe=recipe)


def check(report: AuditReport, name: str) -> Any:
    return next(each for each in report.checks if each.id == name)


# ── right ones ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("packing", c.PACKINGS)
def test_a_right_checkpoint_passes_every_check(tmp_path: Path, base: Path, packing: str) -> None:
    report = run(c.make(tmp_path / "x", base, packing), base, packing)
    assert [each.id for each in report.checks] == IDS == list(CHECKS)
    assert {each.id: each.detail for each in report.checks if not each.passed} == {}
    assert report.passed
    assert report.packing == packing
    assert report.distance.num_measured == report.inventory.num_packed_modules == 25
    assert report.distance.share_compared == 1
    assert report.distance.relative_error is not None
    assert 0.05 < report.distance.relative_error < 0.2


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 128), (8, 32)])
@pytest.mark.parametrize("packing", ["gptq", "gptq_v2", "auto_round:auto_gptq", "auto_round"])
def test_other_sizes_pass(tmp_path: Path, base: Path, packing: str, bits: int, group: int) -> None:
    report = run(c.make(tmp_path / "x", base, packing, bits=bits, group=group), base)
    assert report.failed() == []
    assert report.passed


@pytest.mark.parametrize("packing", c.PACKINGS)
def test_asymmetric_zero_points_pass_where_the_label_is_right(
    tmp_path: Path, base: Path, packing: str
) -> None:
    if packing == "nvfp4":
        pytest.skip("has no zero points")
    made = c.draft(base, packing, asym=True)
    made.quantization["sym"] = False
    report = run(c.write(tmp_path / "x", made, base), base)
    assert report.failed() == []
    assert report.packing == packing


@pytest.mark.parametrize("packing", ["gptq", "nvfp4"])
def test_one_shard_needs_no_index(tmp_path: Path, base: Path, packing: str) -> None:
    made = c.draft(base, packing)
    assert run(c.write(tmp_path / "x", made, base, shards=1), base).passed


@pytest.mark.parametrize("part", ["mtp", "vision"])
def test_a_base_without_a_part_is_no_fault(tmp_path: Path, part: str) -> None:
    lean = c.make_base(tmp_path / "base", mtp=part != "mtp", vision=part != "vision")
    report = run(c.make(tmp_path / "x", lean, "gptq"), lean)
    assert report.passed
    ids = {
        "mtp": ["mtp.missing", "mtp.unindexed", "mtp.fc_packed", "mtp.bits"],
        "vision": ["visual.bits", "precision.visual"],
    }
    for name in ids[part]:
        assert check(report, name).status == "skipped"
        assert "not applicable" in check(report, name).detail
        assert not check(report, name).passed


def test_without_a_base_nothing_that_needs_one_passes(tmp_path: Path, base: Path) -> None:
    report = run(c.make(tmp_path / "x", base, "gptq"), None, "gptq")
    assert not report.passed
    assert report.failed() == []
    needing = {each.id for each in report.checks if each.status == "skipped"}
    assert needing == {
        "tensors.missing", "tensors.orphan", "tensors.kept_bits", "mtp.missing", "mtp.bits", "visual.bits",
        "weights.distance", "config.architecture", "sidefiles.missing", "sidefiles.differ",
    }  # fmt: skip


def test_headers_alone_never_pass(tmp_path: Path, base: Path) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    report = audit(open_source(str(folder)), base=open_source(str(base)), recipe=None, headers_only=True)
    assert not report.passed
    assert report.failed() == []
    skipped = {each.id for each in report.checks if each.status == "skipped"}
    assert skipped == {
        "tensors.kept_bits", "mtp.bits", "visual.bits", "scales.finite", "scales.zero", "weights.distance",
        "gidx.trivial",
    }  # fmt: skip


def test_the_report_is_one_json_object(tmp_path: Path, base: Path) -> None:
    content = json.loads(run(c.make(tmp_path / "x", base, "gptq"), base, "gptq").model_dump_json())
    assert content["schema_version"] == 1
    assert set(content["checks"][0]) == {"id", "status", "passed", "detail", "tensors"}
    parts = content["inventory"]["bytes_by_part"]
    assert sum(parts.values()) == content["inventory"]["total_bytes"]
    assert content["inventory"]["num_mtp_tensors"] == 15
    rows = content["inventory"]["components"]
    assert sum(row["bytes"] for row in rows) == content["inventory"]["total_bytes"]
    assert sum(row["parameters"] for row in rows) == content["inventory"]["parameters"]
    packed = next(row for row in rows if row["packed"])
    assert packed["precision"] == "INT4 g128 (gptq)"
    assert packed["bits_per_weight"] == pytest.approx(4 + 20 / 128 + 32 / 512, abs=0.1)


# ── rigged tensors ─────────────────────────────────────────────────────────────────────────

Rig = Callable[[c.Draft, Path], None]


def flip(tensor: c.Tensor, byte: int = -1) -> c.Tensor:
    data = bytearray(tensor.data)
    data[byte] ^= 1
    return c.Tensor(tensor.dtype, tensor.shape, bytes(data))


def rig_missing(made: c.Draft, base: Path) -> None:
    del made.tensors["model.language_model.norm.weight"]


def rig_missing_part(made: c.Draft, base: Path) -> None:
    del made.tensors[f"{Q}.weight_scale" if made.packing == "nvfp4" else f"{Q}.scales"]


def rig_missing_module(made: c.Draft, base: Path) -> None:
    for name in [name for name in made.tensors if name.startswith(f"{Q}.")]:
        del made.tensors[name]


def rig_orphan(made: c.Draft, base: Path) -> None:
    made.tensors["model.rotary.inv_freq"] = c.bf16(np.ones(4))


def rig_stray(made: c.Draft, base: Path) -> None:
    made.tensors[f"{Q}.weight"] = c.read_all(base)[f"{Q}.weight"]


def rig_kept_bit(made: c.Draft, base: Path) -> None:
    name = "model.language_model.layers.0.linear_attn.A_log"
    made.tensors[name] = flip(made.tensors[name])


def rig_kept_dtype(made: c.Draft, base: Path) -> None:
    name = "model.language_model.norm.weight"
    values = c.floats(made.tensors[name])
    made.tensors[name] = c.Tensor("F32", values.shape, values.astype("<f4").tobytes())


def rig_head_packed(made: c.Draft, base: Path) -> None:
    made.repack("lm_head", c.floats(made.tensors["lm_head.weight"]))
    made.quantization = c.quantization_config(made.packing, made.tensors)
    if made.packing.startswith("gptq"):
        made.quantization["lm_head"] = True
        del made.quantization["dynamic"]["-:.*lm_head$"]
    elif made.packing.startswith("auto_round"):
        made.quantization["extra_config"]["lm_head"] = {"bits": 4}
    else:
        made.quantization["ignore"].remove("lm_head")


def rig_no_mtp(made: c.Draft, base: Path) -> None:
    for name in [name for name in made.tensors if name.startswith("mtp.")]:
        del made.tensors[name]


def rig_one_mtp_gone(made: c.Draft, base: Path) -> None:
    del made.tensors["mtp.norm.weight"]


def rig_fc_packed(made: c.Draft, base: Path) -> None:
    made.repack("mtp.fc", c.floats(made.tensors["mtp.fc.weight"]))
    made.quantization = c.quantization_config(made.packing, made.tensors)


def rig_mtp_bit(made: c.Draft, base: Path) -> None:
    made.tensors["mtp.fc.weight"] = flip(made.tensors["mtp.fc.weight"])


def rig_mtp_layer_packed(made: c.Draft, base: Path) -> None:
    for name in ("q_proj", "k_proj", "v_proj"):
        full = f"mtp.layers.0.self_attn.{name}"
        made.repack(full, c.floats(made.tensors[f"{full}.weight"]))


def rig_visual_bit(made: c.Draft, base: Path) -> None:
    made.tensors["model.visual.pos_embed.weight"] = flip(made.tensors["model.visual.pos_embed.weight"], 0)


def rig_visual_packed(made: c.Draft, base: Path) -> None:
    name = "model.visual.merger.linear_fc1"
    made.repack(name, c.floats(made.tensors[f"{name}.weight"]))


def rig_gate_packed(made: c.Draft, base: Path) -> None:
    for each in (A, A[:-1] + "b"):
        made.repack(each, c.floats(made.tensors[f"{each}.weight"]))


def scale_name(made: c.Draft) -> str:
    return f"{Q}.weight_scale" if made.packing == "nvfp4" else f"{Q}.scales"


def poke(tensor: c.Tensor, at: int, value: bytes) -> c.Tensor:
    data = tensor.data[:at] + value + tensor.data[at + len(value) :]
    return c.Tensor(tensor.dtype, tensor.shape, data)


def rig_scale_nan(made: c.Draft, base: Path) -> None:
    value = b"\x7f" if made.packing == "nvfp4" else struct.pack("<e", float("nan"))
    made.tensors[scale_name(made)] = poke(made.tensors[scale_name(made)], 6, value)


def rig_scale_inf(made: c.Draft, base: Path) -> None:
    name = f"{Q}.weight_scale_2" if made.packing == "nvfp4" else scale_name(made)
    value = struct.pack("<f" if made.packing == "nvfp4" else "<e", float("-inf"))
    made.tensors[name] = poke(made.tensors[name], 0, value)


def rig_input_scale_nan(made: c.Draft, base: Path) -> None:
    if made.packing == "nvfp4":
        made.tensors[f"{Q}.input_scale"] = c.f32(float("nan"))
    else:
        rig_scale_nan(made, base)


def rig_scale_zero(made: c.Draft, base: Path) -> None:
    made.tensors[scale_name(made)] = poke(
        made.tensors[scale_name(made)], 4, bytes(1 if made.packing == "nvfp4" else 2)
    )


def rig_input_scale_zero(made: c.Draft, base: Path) -> None:
    if made.packing == "nvfp4":
        made.tensors[f"{Q}.input_scale"] = c.f32(0.0)
    else:
        rig_scale_zero(made, base)


def rig_shuffled(made: c.Draft, base: Path) -> None:
    weight = c.floats(c.read_all(base)[f"{Q}.weight"])
    made.repack(Q, np.random.default_rng(3).permutation(weight))


def rig_two_rows(made: c.Draft, base: Path) -> None:
    weight = c.floats(c.read_all(base)[f"{GATE}.weight"]).copy()
    weight[[10, 400]] = weight[[400, 10]]
    made.repack(GATE, weight)


def rig_other_weights(made: c.Draft, base: Path) -> None:
    made.repack(GATE, c.floats(c.read_all(base)[f"{GATE.replace('1', '2')}.weight"]))


def rig_scaled(made: c.Draft, base: Path) -> None:
    made.repack(GATE, 1.5 * c.floats(c.read_all(base)[f"{GATE}.weight"]))


def rig_one_row_scaled(made: c.Draft, base: Path) -> None:
    weight = c.floats(c.read_all(base)[f"{GATE}.weight"]).copy()
    weight[77] *= 3
    made.repack(GATE, weight)


def rig_column_halves(made: c.Draft, base: Path) -> None:
    weight = c.floats(c.read_all(base)[f"{GATE}.weight"])
    made.repack(GATE, np.roll(weight, 128, axis=1))


TENSOR_RIGS: list[tuple[Rig, set[str]]] = [
    (rig_missing, {"tensors.missing"}),
    (rig_missing_part, {"tensors.missing"}),
    (rig_missing_module, {"tensors.missing"}),
    (rig_orphan, {"tensors.orphan"}),
    (rig_kept_bit, {"tensors.kept_bits"}),
    (rig_kept_dtype, {"tensors.kept_bits"}),
    (rig_head_packed, {"tensors.kept_bits"}),
    (rig_no_mtp, {"mtp.missing"}),
    (rig_one_mtp_gone, {"mtp.missing"}),
    (rig_fc_packed, {"mtp.fc_packed"}),
    (rig_mtp_bit, {"mtp.bits"}),
    (rig_mtp_layer_packed, {"mtp.bits", "config.lists"}),
    (rig_visual_bit, {"visual.bits"}),
    (rig_visual_packed, {"precision.visual", "config.lists"}),
    (rig_gate_packed, {"precision.in_proj_ab", "config.lists"}),
    (rig_scale_nan, {"scales.finite", "weights.distance"}),
    (rig_scale_inf, {"scales.finite", "weights.distance"}),
    (rig_input_scale_nan, {"scales.finite"}),
    (rig_scale_zero, {"scales.zero"}),
    (rig_input_scale_zero, {"scales.zero"}),
    (rig_shuffled, {"weights.distance"}),
    (rig_two_rows, {"weights.distance"}),
    (rig_other_weights, {"weights.distance"}),
    (rig_scaled, {"weights.distance"}),
    (rig_one_row_scaled, {"weights.distance"}),
    (rig_column_halves, {"weights.distance"}),
]
# What a rig may trip beside, by its nature: a NaN spoils its row, a zero its group.
ALSO = {
    "rig_input_scale_nan": {"weights.distance"},
    "rig_scale_zero": {"weights.distance"},
    "rig_input_scale_zero": {"weights.distance"},
    "rig_missing_module": {"config.lists"},
    "rig_fc_packed": {"config.lists"},
}


@pytest.mark.parametrize("packing", c.PACKINGS)
@pytest.mark.parametrize(("rig", "expected"), TENSOR_RIGS, ids=lambda v: getattr(v, "__name__", ""))
def test_rigged_tensors_are_caught(
    tmp_path: Path, base: Path, packing: str, rig: Rig, expected: set[str]
) -> None:
    made = c.draft(base, packing)
    rig(made, base)
    report = run(c.write(tmp_path / "x", made, base), base, packing)
    failed = set(report.failed())
    assert expected <= failed <= expected | ALSO.get(rig.__name__, set()), report.failed()
    assert not report.passed


@pytest.mark.parametrize("packing", ["gptq", "gptq_v2", "auto_round:auto_gptq", "auto_round"])
def test_a_weight_beside_its_packed_form_is_an_orphan(tmp_path: Path, base: Path, packing: str) -> None:
    made = c.draft(base, packing)
    rig_stray(made, base)
    report = run(c.write(tmp_path / "x", made, base), base, packing)
    assert report.failed() == ["tensors.orphan"]
    assert check(report, "tensors.orphan").tensors == [f"{Q}.weight"]


@pytest.mark.parametrize("packing", ["gptq", "gptq_v2", "auto_round:auto_gptq", "auto_round"])
@pytest.mark.parametrize("scope", ["one", "all"])
def test_a_wrong_zero_point_is_caught(tmp_path: Path, base: Path, packing: str, scope: str) -> None:
    made = c.draft(base, packing)
    wrong = 0x88888888 if packing in ("gptq", "auto_round:auto_gptq") else 0x77777777
    for name, tensor in list(made.tensors.items()):
        if name.endswith(".qzeros") and (scope == "all" or name.startswith(Q)):
            made.tensors[name] = c.int32(np.full(tensor.shape, wrong))
    report = run(c.write(tmp_path / "x", made, base), base, packing)
    assert set(report.failed()) == {"weights.distance"} | ({"config.lists"} if scope == "all" else set())
    assert f"{Q}" in check(report, "weights.distance").tensors


@pytest.mark.parametrize("step", [1, -1])
def test_a_wrong_asymmetric_zero_point_is_caught_by_its_shift(tmp_path: Path, base: Path, step: int) -> None:
    made = c.draft(base, "gptq", asym=True)
    made.quantization["sym"] = False
    zeros = made.tensors[f"{Q}.qzeros"]
    words = np.frombuffer(zeros.data, "<u4").astype(np.int64) + step * 0x11111111
    made.tensors[f"{Q}.qzeros"] = c.int32((words % 2**32).reshape(zeros.shape))
    report = run(c.write(tmp_path / "x", made, base), base)
    assert report.failed() == ["weights.distance"]
    row = next(row for row in report.distance.modules if row.name == Q)
    assert row.shift == pytest.approx(-step, abs=0.1)


@pytest.mark.parametrize("packing", ["gptq", "gptq_v2", "auto_round:auto_gptq", "auto_round"])
def test_a_label_that_contradicts_the_bytes_fails(tmp_path: Path, base: Path, packing: str) -> None:
    made = c.draft(base, packing)
    swapped = {"gptq": "gptq_v2", "gptq_v2": "gptq"}
    if packing in swapped:
        made.quantization["checkpoint_format"] = swapped[packing]
    else:
        other = "auto_round:auto_gptq" if packing == "auto_round" else "auto_round:gptqmodel"
        made.quantization["packing_format"] = other
    report = run(c.write(tmp_path / "x", made, base), base)
    assert report.failed() == ["weights.distance", "config.lists"]
    assert report.packing == packing


@pytest.mark.parametrize("packing", ["gptq", "gptq_v2"])
def test_g_idx_must_be_trivial_where_desc_act_is_false(tmp_path: Path, base: Path, packing: str) -> None:
    made = c.draft(base, packing)
    index = np.arange(256) // 128
    index[[0, 200]] = index[[200, 0]]
    made.tensors[f"{Q}.g_idx"] = c.int32(index)
    report = run(c.write(tmp_path / "x", made, base), base)
    assert "gidx.trivial" in report.failed()
    assert set(report.failed()) <= {"gidx.trivial", "weights.distance"}
    assert check(report, "gidx.trivial").tensors == [Q]


def test_a_zero_block_scale_is_right_where_the_base_is_zero(tmp_path: Path) -> None:
    own = c.make_base(tmp_path / "base")
    tensors = c.read_all(own)
    name = f"{Q}.weight"
    tensors[name] = poke(tensors[name], 0, bytes(32 * 16))
    for path in own.glob("*.safetensors*"):
        path.unlink()
    c.write_shards(own, tensors, 2)
    report = run(c.make(tmp_path / "x", own, "nvfp4"), own, "nvfp4")
    assert report.passed


# ── rigged lists ───────────────────────────────────────────────────────────────────────────


def edit(made: c.Draft, change: str) -> None:
    q = made.quantization
    if made.packing.startswith("gptq"):
        drop = {"mtp": "-:.*mtp.*", "visual": "-:.*visual.*", "gates": "-:.*in_proj_(a|b|ba)$"}
        if change in drop:
            del q["dynamic"][drop[change]]
        elif change == "fused":
            q["dynamic"] = {**q["dynamic"], f"-:.*{Q.rpartition('.')[2]}$": {}}
        elif change == "all":
            q["dynamic"] = {}
        elif change == "packed":
            q["dynamic"]["-:.*mlp.gate_proj.*"] = {}
    elif made.packing.startswith("auto_round"):
        extra = q["extra_config"]
        if change == "all":
            q["extra_config"] = {}
        elif change == "visual":
            q["block_name_to_quantize"] = "model"
            q["extra_config"] = {k: v for k, v in extra.items() if "visual" not in k}
        elif change in ("mtp", "gates"):
            wanted = {"mtp": "mtp.", "gates": "in_proj_"}[change]
            q["extra_config"] = {k: v for k, v in extra.items() if wanted not in k}
        else:
            extra[Q if change == "fused" else GATE] = {"bits": 16, "data_type": "fp"}
    else:
        drop = {"mtp": "mtp*", "visual": "model.visual*", "gates": A}
        if change in drop:
            q["ignore"].remove(drop[change])
        elif change == "all":
            q["ignore"] = []
        else:
            q["ignore"].append(Q if change == "fused" else f"{GATE}*")


@pytest.mark.parametrize("packing", c.PACKINGS)
@pytest.mark.parametrize("change", ["mtp", "visual", "gates", "all", "fused", "packed"])
def test_lists_that_disagree_are_caught(tmp_path: Path, base: Path, packing: str, change: str) -> None:
    made = c.draft(base, packing)
    edit(made, change)
    report = run(c.write(tmp_path / "x", made, base), base, packing)
    assert report.failed() == ["config.lists"]
    assert check(report, "config.lists").tensors


@pytest.mark.parametrize("packing", c.PACKINGS)
def test_copies_that_differ_are_caught(tmp_path: Path, base: Path, packing: str) -> None:
    folder = c.make(tmp_path / "x", base, packing)
    name, _ = c.standalone(packing, c.draft(base, packing).quantization)
    content = json.loads((folder / name).read_text())
    if packing == "nvfp4":
        content["quantization"]["exclude_modules"].pop(0)
    else:
        content["group_size"] = 64
    c.write_json(folder / name, content)
    assert run(folder, base, packing).failed() == ["config.lists"]


def test_no_quantization_config_is_caught(tmp_path: Path, base: Path) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    shutil.copy(base / "config.json", folder / "config.json")
    assert "config.lists" in run(folder, base).failed()


def test_another_recipe_than_the_tensors_is_caught(tmp_path: Path, base: Path) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    report = audit(open_source(str(folder)), base=open_source(str(base)), recipe=load("gptq-foem-g32"))
    assert report.failed() == ["config.lists"]


def test_a_pattern_that_never_ends_is_refused(tmp_path: Path, base: Path) -> None:
    made = c.draft(base, "gptq")
    made.quantization["dynamic"]["-:(([a-z]+)*)+\\.never$"] = {}
    with pytest.raises(InputError, match="forever"):
        run(c.write(tmp_path / "x", made, base), base)


# ── rigged files ───────────────────────────────────────────────────────────────────────────


def index_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "model.safetensors.index.json").read_text()))


def put_index(folder: Path, index: dict[str, Any]) -> None:
    c.write_json(folder / "model.safetensors.index.json", index)


def rig_mtp_unindexed(folder: Path) -> None:
    index = index_of(folder)
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if not k.startswith("mtp.")}
    put_index(folder, index)


def rig_total_size(folder: Path) -> None:
    put_index(folder, index_of(folder) | {"metadata": {"total_size": 12}})


def rig_no_total_size(folder: Path) -> None:
    put_index(folder, index_of(folder) | {"metadata": {}})


def rig_index_outside(folder: Path) -> None:
    index = index_of(folder)
    index["weight_map"]["model.language_model.norm.weight"] = "../../etc/secret.safetensors"
    put_index(folder, index)


def rig_index_wrong_file(folder: Path) -> None:
    index = index_of(folder)
    names = sorted(set(index["weight_map"].values()))
    index["weight_map"]["mtp.norm.weight"] = names[0]
    put_index(folder, index)


def rig_no_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def rig_shard_gone(folder: Path) -> None:
    (folder / "model-00003-of-00003.safetensors").unlink()


def rig_truncated(folder: Path) -> None:
    path = folder / "model-00003-of-00003.safetensors"
    os.truncate(path, path.stat().st_size - 100)


def rig_longer(folder: Path) -> None:
    with (folder / "model-00003-of-00003.safetensors").open("ab") as file:
        file.write(b"more")


def rig_overlap(folder: Path) -> None:
    """Let one norm point at another's bytes: the same length, so that only the offsets are wrong."""
    path = folder / "model-00003-of-00003.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["mtp.pre_fc_norm_hidden.weight"] = dict(header["mtp.norm.weight"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def rig_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rope_parameters"]["rope_theta"] = 10000
    c.write_json(folder / "config.json", config)


def rig_architectures(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    c.write_json(folder / "config.json", config)


def rig_side_gone(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def rig_side_differs(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("other")


def rig_side_extra(folder: Path) -> None:
    (folder / "processor_config.json").write_text("{}")


def rig_path_in_config(folder: Path) -> None:
    for name in ("config.json", "quantize_config.json"):
        content = json.loads((folder / name).read_text())
        content.get("quantization_config", content)["meta"] = {"offload_to_disk_path": "/home/me/offload"}
        c.write_json(folder / name, content)


def rig_path_in_log(folder: Path) -> None:
    (folder / "quant.log").write_text("loading from /tmp/tmpabc123/model\n")


def rig_path_in_metadata(folder: Path) -> None:
    path = folder / "model-00003-of-00003.safetensors"
    c.write_safetensors(path, c.read_safetensors(path), {"format": "pt", "source": "/root/models/base"})


def rig_pickle_by_name(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"anything")


def rig_pickle_by_bytes(folder: Path) -> None:
    import pickle

    (folder / "notes.dat").write_bytes(pickle.dumps({"a": 1}))


def rig_zip(folder: Path) -> None:
    (folder / "notes").write_bytes(b"PK\x03\x04rest")


def rig_symlink(folder: Path) -> None:
    (folder / "notes.txt").symlink_to("/etc/hostname")


def rig_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


FILE_RIGS: list[tuple[Callable[[Path], None], set[str]]] = [
    (rig_mtp_unindexed, {"mtp.unindexed"}),
    (rig_total_size, {"index.total_size"}),
    (rig_no_total_size, {"index.total_size"}),
    (rig_index_outside, {"index.paths"}),
    (rig_index_wrong_file, {"index.paths"}),
    (rig_no_index, {"index.paths", "mtp.unindexed"}),
    (rig_shard_gone, {"shards.missing", "mtp.missing"}),
    (rig_truncated, {"shards.truncated", "mtp.bits"}),
    (rig_longer, {"shards.truncated"}),
    (rig_overlap, {"shards.overlap", "mtp.bits"}),
    (rig_config, {"config.architecture"}),
    (rig_architectures, {"config.architecture"}),
    (rig_side_gone, {"sidefiles.missing"}),
    (rig_side_differs, {"sidefiles.differ"}),
    (rig_side_extra, {"sidefiles.differ"}),
    (rig_path_in_config, {"files.local_path"}),
    (rig_path_in_log, {"files.local_path"}),
    (rig_path_in_metadata, {"files.local_path"}),
    (rig_pickle_by_name, {"files.pickle"}),
    (rig_pickle_by_bytes, {"files.pickle"}),
    (rig_zip, {"files.pickle"}),
    (rig_symlink, {"files.symlink"}),
    (rig_pipe, {"files.symlink"}),
]


@pytest.mark.parametrize(("rig", "expected"), FILE_RIGS, ids=lambda v: getattr(v, "__name__", ""))
def test_rigged_files_are_caught(
    tmp_path: Path, base: Path, rig: Callable[[Path], None], expected: set[str]
) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    rig(folder)
    report = run(folder, base, "gptq")
    assert set(report.failed()) == expected
    assert not report.passed


def test_every_check_has_a_rig() -> None:
    caught = set().union(*(ids for _, ids in [*TENSOR_RIGS, *FILE_RIGS])) | {"gidx.trivial"}
    assert caught == set(IDS)


def test_every_check_has_a_title() -> None:
    for each in CHECKS.values():
        assert each.__doc__
        assert len(each.__doc__.splitlines()[0]) < 100


def test_a_symlinked_shard_is_named_and_not_followed(tmp_path: Path, base: Path) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    shard = folder / "model-00003-of-00003.safetensors"
    shard.rename(tmp_path / "away.safetensors")
    shard.symlink_to(tmp_path / "away.safetensors")
    failed = run(folder, base, "gptq").failed()
    assert "files.symlink" in failed
    assert "mtp.missing" in failed


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_symlinked_config_is_named_and_not_followed(tmp_path: Path, base: Path, name: str) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    (folder / name).unlink()
    (folder / name).symlink_to(base / name)
    assert "files.symlink" in run(folder, base, "gptq").failed()


# ── not a checkpoint ───────────────────────────────────────────────────────────────────────


def spoil_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def spoil_config_bomb(folder: Path) -> None:
    (folder / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)


def spoil_wide_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": [' + "[]," * 3_000_000 + "[]]}")


def spoil_config_list(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def spoil_quant_file(folder: Path) -> None:
    (folder / "quantize_config.json").write_text("{")


def spoil_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')


def spoil_header(folder: Path) -> None:
    (folder / "model-00001-of-00003.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"x" * 64)


def spoil_header_json(folder: Path) -> None:
    (folder / "model-00001-of-00003.safetensors").write_bytes(struct.pack("<Q", 16) + b"not json at all!")


def spoil_no_shards(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()


def spoil_empty_shard(folder: Path) -> None:
    (folder / "model-00001-of-00003.safetensors").write_bytes(b"")


def spoil_pipe_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def spoil_directory_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


SPOILS = [value for name, value in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda v: v.__name__)
def test_what_cannot_be_read_is_an_input_error(
    tmp_path: Path, base: Path, spoil: Callable[[Path], None]
) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    spoil(folder)
    with pytest.raises(InputError) as caught:
        run(folder, base, "gptq")
    assert caught.value.exit_code == 3
    assert caught.value.where


def test_a_base_that_cannot_be_read_is_an_input_error(tmp_path: Path, base: Path) -> None:
    folder = c.make(tmp_path / "x", base, "gptq")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        run(folder, tmp_path / "empty")
