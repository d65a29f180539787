"""Random damage to configs and tensors: typed errors or a report, no traceback; repair settles at once."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import checkpoints as c
import pytest

from bot.checkpoint.source import open_source
from bot.errors import ReleaseBotError
from bot.recipe import load
from bot.stages.audit import AuditReport, audit
from bot.stages.repair import RepairReport, repair

VALUES: list[Any] = [
    None, True, -1, 0, 4, 1e300, "x", "", [], {}, [[]], [1], {"a": 1}, {"a": {"bits": "x"}},
    "gptq", "auto-round", [None], {"": {}}, {"-:x": None}, ["*"],
    {"quantization": []}, {"quantization": {"exclude_modules": 3}},
]  # fmt: skip
SUFFIXES = [
    "weight",
    "qweight",
    "scales",
    "qzeros",
    "g_idx",
    "weight_scale",
    "input_scale",
    "bias",
    "k_scale",
]
ODD_NAMES = [".", "", "x", "mtp.", "model.visual.qweight", ".qweight", "mtp.fc.qweight", "lm_head.scales"]
WIDTH = {"F32": 4, "I32": 4, "BF16": 2, "F16": 2, "U8": 1, "F8_E4M3": 1}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return c.make_base(tmp_path_factory.mktemp("base") / "base")


def look(folder: Path, base: Path, packing: str, **options: bool) -> AuditReport:
    return audit(
        open_source(str(folder)), base=open_source(str(base)), recipe=load(c.RECIPE_OF[packing]), **options
    )


def mend(folder: Path, base: Path, packing: str) -> RepairReport:
    return repair(folder, base=open_source(str(base)), recipe=load(c.RECIPE_OF[packing]))


def mutated(value: Any, rng: random.Random) -> Any:
    """`value` with one entry, at some depth, dropped or of another kind."""
    if not isinstance(value, dict) or not value or rng.random() < 0.2:
        return copy.deepcopy(rng.choice(VALUES))
    key = rng.choice(list(value))
    if rng.random() < 0.2:
        return {k: v for k, v in value.items() if k != key}
    return value | {key: mutated(value[key], rng)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("packing", list(c.RECIPE_OF))
def test_damaged_configs(tmp_path: Path, base: Path, packing: str, seed: int) -> None:
    rng = random.Random(f"{packing} {seed}")
    good = c.make(tmp_path / "good", base, packing)
    name, _ = c.standalone(packing, {"ignore": []})
    for i in range(12):
        folder = tmp_path / f"x{i}"
        shutil.copytree(good, folder)
        path = folder / rng.choice(["config.json", "config.json", name, "model.safetensors.index.json"])
        content = json.loads(path.read_text())
        if path.name == "config.json":
            content["quantization_config"] = mutated(content["quantization_config"], rng)
        else:
            content = mutated(content, rng)
        c.write_json(path, content)
        try:
            look(folder, base, packing, headers_only=True)
            mend(folder, base, packing)
            assert not mend(folder, base, packing).changed
        except ReleaseBotError as e:
            assert e.exit_code == 3, path.name  # noqa: PT017
        shutil.rmtree(folder)


def damage(made: c.Draft, rng: random.Random) -> None:
    """Drop, double, rename, overwrite or reshape one tensor."""
    name = rng.choice(list(made.tensors))
    was = made.tensors[name]
    way = rng.randrange(5)
    if way == 0:
        del made.tensors[name]
    elif way == 1:
        made.tensors[f"{name.rpartition('.')[0]}.{rng.choice(SUFFIXES)}"] = was
    elif way == 2:
        made.tensors[rng.choice(ODD_NAMES)] = was
    elif way == 3:
        made.tensors[name] = c.Tensor(was.dtype, was.shape, rng.randbytes(len(was.data)))
    else:
        dtype = rng.choice(list(WIDTH))
        shape = tuple(rng.choice([0, 1, 2, 8, 16, 64, 256]) for _ in range(rng.randint(0, 3)))
        made.tensors[name] = c.Tensor(dtype, shape, rng.randbytes(math.prod(shape) * WIDTH[dtype]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("packing", list(c.RECIPE_OF))
def test_damaged_tensors(tmp_path: Path, base: Path, packing: str, seed: int) -> None:
    """What repair calls whole has nothing left to find but the quantized weights' own values."""
    rng = random.Random(f"{packing} {seed}")
    whole = c.draft(base, packing)
    for i in range(8):
        made = c.Draft(packing, dict(whole.tensors), whole.quantization)
        for _ in range(rng.randint(1, 4)):
            damage(made, rng)
        folder = c.write(tmp_path / f"x{i}", made, base, shards=rng.choice([1, 3]))
        assert json.loads(look(folder, base, packing).model_dump_json())["checks"]
        report = mend(folder, base, packing)
        assert not mend(folder, base, packing).changed
        if not report.unrepaired:
            left = set(look(folder, base, packing).failed())
            assert left <= {"weights.distance", "scales.finite", "scales.zero", "gidx.trivial"}
        shutil.rmtree(folder)
