"""Checkpoints with a known answer: the right one drafts without a miss, each silent failure is loud.

Three go through the server as the product starts it; the others one after the other through the engine in a
process of its own, with the same arguments, which takes seconds and reads the same counters and log lines.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rigged
from checkpoints import bf16, floats, read_all

from bot.demo.rehearsal import FIXTURE
from bot.errors import NotServable, ReleaseBotError
from bot.measurements import Drafts
from bot.recipe_evaluation import SoakPlan
from bot.serving import canaries, command, drafting, server, soak, symptoms
from bot.serving.engine import Engine, variables
from bot.serving.server import Server

# One engine after the other, each asked the same eight prompts; for each a line of JSON: its draft counters,
# or null after the traceback of a start that failed.
PROBE = """
import gc, json, sys, traceback
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_accepted_tokens_per_pos")

def counters(arguments):
    llm = LLM(**arguments)
    prompts = [{"prompt_token_ids": [37 * i + 5]} for i in range(8)]
    llm.generate(prompts, SamplingParams(temperature=0, max_tokens=64, ignore_eos=True), use_tqdm=False)
    found = {m.name: getattr(m, "values", getattr(m, "value", None)) for m in llm.get_metrics()}
    llm.llm_engine.engine_core.shutdown()
    return [found["vllm:spec_decode_" + name] for name in names]

for arguments in json.loads(sys.argv[1]):
    found = None
    try:
        found = counters(arguments)
    except Exception:
        traceback.print_exc()
    sys.stderr.flush()
    print("PROBED", json.dumps(found), flush=True)
    gc.collect()
    cleanup_dist_env_and_memory()
"""
Probed = dict[str, Drafts | ReleaseBotError]


def probe(engine: Engine, subject_of, folders: Sequence[Path]) -> Probed:
    """Each folder's draft counters, by its name; or what the product raises for an engine that ends so."""
    jobs = []
    for folder in folders:
        arguments = command.engine_arguments(subject_of(folder), engine)
        drafts = {"method": "mtp", "num_speculative_tokens": 2}
        jobs.append(arguments | {"model": str(folder), "speculative_config": drafts, "max_model_len": 512})
        jobs[-1] |= {"disable_log_stats": False, "kv_cache_memory_bytes": 64 * 2**20}
    done = subprocess.run(
        [str(engine.environment.python), "-c", PROBE, json.dumps(jobs)],
        env=variables(engine) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    found: Probed = {}
    lines: list[str] = []
    for line in done.stdout.splitlines():
        if line.startswith("PROBED "):
            found[folders[len(found)].name] = _outcome(json.loads(line.removeprefix("PROBED ")), lines)
            lines = []
        else:
            lines.append(line)
    return found


def _outcome(counted: list | None, lines: list[str]) -> Drafts | ReleaseBotError:
    if counted is None:
        return symptoms.of_end(lines, status=1, serving=False, killed_for_memory=None, where="probe")
    n, tokens, accepted, each = counted
    return Drafts(
        num_drafts=n, num_draft_tokens=tokens, num_accepted_tokens=accepted, accepted_by_position=each
    )


@pytest.fixture(scope="module")
def probed(right: Path, subject_of, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Probed:
    """The right checkpoint in every packing, and broken ones, in one process."""
    place = tmp_path_factory.mktemp("probed")
    names = ("bf16", "auto_round", "nvfp4", "noise", "zeros", "unindexed", "packed", "packed-claimed")
    folders = {name: place / name for name in names}
    rigged.make(folders["bf16"], FIXTURE, packing=None)
    rigged.make(folders["auto_round"], FIXTURE, packing="auto_round:auto_gptq")
    rigged.make(folders["nvfp4"], FIXTURE, packing="nvfp4")
    rigged.break_mtp_noise(rigged.copy(right, folders["noise"]), std=0.15)
    rigged.break_mtp_zeros(rigged.copy(right, folders["zeros"]))
    rigged.break_mtp_unindexed(rigged.copy(right, folders["unindexed"]))
    rigged.break_mtp_fc_packed(rigged.copy(right, folders["packed"]), claimed=False)
    rigged.break_mtp_fc_packed(rigged.copy(right, folders["packed-claimed"]), claimed=True)
    return probe(engine, subject_of, list(folders.values()))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rigged checkpoint in GPTQ's packing."""
    return rigged.make(tmp_path_factory.mktemp("rigged") / "right", FIXTURE)


@pytest.fixture(scope="module")
def right_server(right: Path, subject_of, engine: Engine, tmp_path_factory: pytest.TempPathFactory):
    logs = tmp_path_factory.mktemp("logs")
    with server.serving(subject_of(right), engine, drafting=True, logs=logs) as running:
        yield running


# ── the right one, through the server ──────────────────────────────────────────────────────


def test_after_each_token_comes_the_one_that_it_was_rigged_to(right_server: Server) -> None:
    before = rigged.before(2048, seed=0)
    after = np.empty_like(before)
    after[before] = np.arange(len(before))
    tokens = right_server.client.complete([5], max_tokens=40, ignore_eos=True).token_ids
    assert [before[token] for token in tokens] == [5, *tokens[:-1]]
    assert tokens[0] == after[5]


def test_every_draft_of_every_kind_is_accepted(right_server: Server) -> None:
    found = drafting.acceptance(right_server.client, num_speculative_tokens=2, output_tokens=24)
    assert found.total.by_position == [1.0, 1.0]
    assert (found.total.rate, found.total.length) == (1.0, 3.0)
    assert [row.drafts.by_position for row in found.kinds] == [[1.0, 1.0]] * 4


def test_every_draft_of_the_soak_is_accepted(right_server: Server) -> None:
    plan = SoakPlan(context_tokens=3000, window_tokens=1000, output_tokens=48)
    texts = [f"Line {i} of a long and even text.\n" for i in range(600)]
    found = soak.run(right_server.client, texts, plan, max_model_len=right_server.load.max_model_len)
    assert [window.drafts.by_position for window in found.windows] == [[1.0, 1.0]] * 3
    assert found.opening.by_position == found.fresh.by_position == [1.0, 1.0]


# ── what breaks it ─────────────────────────────────────────────────────────────────────────


def test_a_missing_head_is_refused_by_the_server(
    right: Path, subject_of, engine: Engine, tmp_path: Path
) -> None:
    broken = rigged.copy(right, tmp_path / "missing")
    rigged.break_mtp_missing(broken)
    with (
        pytest.raises(NotServable) as caught,
        server.serving(subject_of(broken), engine, drafting=True, logs=tmp_path / "logs"),
    ):
        pytest.fail("a checkpoint without its MTP head was served")
    assert caught.value.kind == "weights_missing"
    assert "mtp" in caught.value.what or "pre_fc_norm" in caught.value.what
    assert caught.value.log_tail


def test_a_head_that_the_index_does_not_name_is_refused(probed: Probed) -> None:
    found = probed["unindexed"]
    assert isinstance(found, NotServable)
    assert found.kind == "weights_missing"


@pytest.mark.parametrize("name", ["packed", "packed-claimed"])
def test_a_packed_fc_is_refused(probed: Probed, name: str) -> None:
    """vLLM 0.32 builds the head's `fc` unpacked in both cases and has no place for `fc.qweight`."""
    found = probed[name]
    assert isinstance(found, NotServable)
    assert found.kind == "did_not_load"
    assert "fc.qweight" in found.what


def test_what_loads_shows_in_the_counters(probed: Probed) -> None:
    """Every packing drafts without a miss; noise costs drafts, and a head of zeros has none that holds."""
    found = {name: probed[name] for name in ("bf16", "auto_round", "nvfp4", "noise", "zeros")}
    shares = {name: drafts.by_position for name, drafts in found.items() if isinstance(drafts, Drafts)}
    assert shares.keys() == found.keys(), found
    assert [shares[name] for name in ("bf16", "auto_round", "nvfp4")] == [[1.0, 1.0]] * 3
    assert shares["zeros"] == [0.0, 0.0]
    first, second = shares["noise"]
    assert 0.3 < second <= first < 0.98


def test_a_blind_and_damaged_copy_loads_and_its_canaries_show_it(
    subject_of, engine: Engine, tmp_path: Path, tiny_server: Server, tiny
) -> None:
    """The trained base with a vision tower of zeros and noise on its Linears: nothing at load says so."""
    broken = rigged.copy(FIXTURE, tmp_path / "broken")
    rigged.break_vision(broken)
    rigged.break_body(broken, noise=2.0)
    with server.serving(subject_of(broken), engine, drafting=True, logs=tmp_path / "logs") as running:
        spared = command.spared(subject_of(broken), engine, drafting=True)
        found = canaries.run(running.client, subject_of(broken), prefix_caching=False, spared=spared)
    seen = {row.id: row for row in found.rows}
    assert all(row.served for row in found.rows if row.applicable)
    assert not seen["image"].held  # the whole tower gives four pictures one answer
    right = canaries.CANARIES["text.agreement"](canaries.Asked(client=tiny_server.client, subject=tiny))
    pairs = zip(seen["text.agreement"].tokens, right.tokens, strict=True)
    shares = [drafting.leading_share(one, other) for one, other in pairs]
    assert sum(shares) / len(shares) < 0.2


# ── the rig itself ─────────────────────────────────────────────────────────────────────────


def test_the_rig_keeps_names_shapes_and_the_vision_tower() -> None:
    base = read_all(FIXTURE)
    made = rigged.rigged(base, seed=0)
    assert {k: (t.dtype, t.shape) for k, t in made.items()} == {
        k: (t.dtype, t.shape) for k, t in base.items()
    }
    assert all(made[k] == base[k] for k in base if k.startswith("model.visual."))


def test_the_order_of_tokens_is_one_cycle_over_the_vocabulary() -> None:
    before = rigged.before(100, seed=3)
    token, seen = 0, set()
    while token not in seen:
        seen.add(token)
        token = int(before[token])
    assert len(seen) == 100


def test_damage_leaves_kept_tensors_alone(tmp_path: Path) -> None:
    folder = rigged.copy(FIXTURE, tmp_path / "damaged")
    rigged.break_body(folder, noise=0.5)
    base, damaged = read_all(FIXTURE), read_all(folder)
    changed = {name for name in base if damaged[name] != base[name]}
    assert changed == {name for name in base if rigged.is_quantized(name)}
    assert all(np.isfinite(floats(damaged[name])).all() for name in changed)
    assert bf16(floats(base["lm_head.weight"])) == base["lm_head.weight"]
