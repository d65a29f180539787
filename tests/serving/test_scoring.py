"""Perplexity and divergence through the real engine: against transformers, and with everything that is wrong.

Four engine starts for what is scored; what is refused is refused before the engine starts. The evaluation set
is prose of the Python documentation that the fixture's training held out.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bot import recipe as recipes
from bot.demo.rehearsal import FIXTURE
from bot.demo.standins import held_out, library_prose
from bot.errors import InputError, NotServable, Refused
from bot.measurements import Role
from bot.recipe import Serve
from bot.recipe_evaluation import Evaluation
from bot.serving import divergence, scoring, store, subject
from bot.serving.engine import Engine, variables
from bot.serving.examination import Examination
from bot.serving.scoring import Scores

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
WINDOW, STRIDE, TOKENS, COMPARED = 512, 256, 4096, 2048
NORM = "model.language_model.layers.1.post_attention_layernorm.weight"
REFERENCE = Path(__file__).with_name("sliding_reference.py")
CARD = """---
configs:
- config_name: prose
  data_files:
  - {split: test, path: prose/test-*}
  - {split: short, path: prose/short-*}
---
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scoring")


@pytest.fixture(scope="module")
def dataset(place: Path) -> Path:
    folder = place / "dataset"
    (folder / "prose").mkdir(parents=True)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    rows = [row for name, text in library_prose() if held_out(name) for row in text.split("\n\n")]
    pq.write_table(pa.table({"text": rows}), folder / "prose" / "test-0.parquet")
    pq.write_table(pa.table({"text": rows[:3]}), folder / "prose" / "short-0.parquet")
    return folder


@pytest.fixture(scope="module")
def plan() -> Evaluation:
    shipped = recipes.load("gptq-w4a16-g128").evaluation
    return shipped.model_copy(
        update={
            "revision": "0" * 40,
            "config": "prose",
            "window_tokens": WINDOW,
            "stride_tokens": STRIDE,
            "max_tokens": TOKENS,
            "divergence_tokens": COMPARED,
        }
    )


def examination(
    folder: Path, role: Role, place: Path, dataset: Path, engine: Engine, serve: Serve, plan: Evaluation,
    reference: Examination | None = None,
) -> Examination:  # fmt: skip
    name = f"test/{role}-{folder.name}"
    found = subject.of_folder(folder, engine.facts, role=role, name=name, revision=None, serve=serve)
    return Examination(
        subject=found,
        engine=engine,
        evaluation=plan,
        home=place / "home",
        logs=place / "logs" / name.replace("/", "-"),
        dataset=dataset,
        reference=reference,
    )


@pytest.fixture(scope="module")
def base(place: Path, dataset: Path, engine: Engine, serve: Serve, plan: Evaluation) -> Examination:
    """The trained fixture, not scored yet."""
    return examination(FIXTURE, "base", place, dataset, engine, serve, plan)


@pytest.fixture(scope="module")
def base_scores(base: Examination) -> Scores:
    assert not scoring.has_store(base)
    return scoring.score(base)


def changed(folder: Path, change: Any) -> Path:
    """A copy of the fixture with the tensors of each shard passed through `change`."""
    shutil.copytree(FIXTURE, folder)
    for path in folder.glob("*.safetensors"):
        tensors = checkpoints.read_safetensors(path)
        path.unlink()
        checkpoints.write_safetensors(path, {n: change(n, t) for n, t in tensors.items()}, {"format": "pt"})
    return folder


def noise(name: str, tensor: checkpoints.Tensor) -> checkpoints.Tensor:
    """Language weights with 8% of noise: about what a coarse quantization does."""
    if not name.endswith("_proj.weight") or "language_model" not in name:
        return tensor
    rng = np.random.default_rng(len(name))
    values = checkpoints.floats(tensor)
    return checkpoints.bf16(values * (1 + 0.08 * rng.normal(size=values.shape)))


@pytest.fixture(scope="module")
def noisy(place: Path, base: Examination, base_scores: Scores) -> Examination:
    """The fixture with noise on its weights, compared with the fixture."""
    folder = changed(place / "noisy", noise)
    return examination(
        folder, "release", place, base.dataset, base.engine, base.subject.serve, base.evaluation, base
    )  # fmt: skip


@pytest.fixture(scope="module")
def noisy_scores(noisy: Examination) -> Scores:
    return scoring.score(noisy)


@pytest.fixture(scope="module")
def references(place: Path, base: Examination, noisy: Examination) -> dict[str, Any]:
    """Both checkpoints through transformers in bfloat16."""
    text = place / "text.txt"
    text.write_text("\n\n".join(_rows(base.dataset)), encoding="utf-8", newline="")
    jobs = {}
    for x in (base, noisy):
        job = {"folder": str(x.subject.folder), "text_file": str(text), "dtype": "bfloat16", "window": WINDOW}
        job |= {"stride": STRIDE, "max_tokens": TOKENS, "full_windows": COMPARED // WINDOW}
        job["out"] = str(place / f"{x.subject.folder.name}.npz")
        jobs[x.subject.folder.name] = place / f"reference-{x.subject.folder.name}.json"
        jobs[x.subject.folder.name].write_text(json.dumps(job), encoding="utf-8")
    subprocess.run(
        [str(base.engine.environment.python), str(REFERENCE), *map(str, jobs.values())],
        env=variables(base.engine),
        check=True,
    )
    return {name: dict(np.load(place / f"{name}.npz")) for name in jobs}


def _rows(dataset: Path) -> list[str]:
    return pq.read_table(dataset / "prose" / "test-0.parquet").column("text").to_pylist()


def arrays(x: Examination, part: str) -> dict[str, np.ndarray]:
    return dict(np.load(x.path(part).with_suffix(".npz")))


# ── perplexity ─────────────────────────────────────────────────────────────────────────────


def test_perplexity_is_that_of_transformers_in_the_same_dtype(
    base: Examination, base_scores: Scores, references: dict[str, Any]
) -> None:
    expected = references[FIXTURE.name]["nll"]
    found = base_scores.perplexity
    nll = arrays(base, "perplexity")["nll"]
    assert len(nll) == len(expected) == found.num_tokens_scored == TOKENS - 1
    print(f"mean NLL {found.mean_nll:.6f}, transformers {expected.mean():.6f}")
    assert found.mean_nll == pytest.approx(expected.mean(), abs=1e-3)
    assert found.mean_nll == pytest.approx(nll.mean(), abs=1e-6)
    assert found.ppl == pytest.approx(np.exp(nll.mean()), rel=1e-6)
    # Token by token too: a shift by one position would keep a mean and break this.
    assert np.corrcoef(nll, expected)[0, 1] > 0.999


def test_what_is_said_of_a_perplexity(base: Examination, base_scores: Scores) -> None:
    found = base_scores.perplexity
    assert (found.num_tokens, found.shortened) == (TOKENS, True)
    assert found.num_windows == 1 + (TOKENS - WINDOW) // STRIDE
    assert 0 < found.standard_error < 0.3
    assert found.joined_by == "\n\n"
    assert (base.path("perplexity").parent / found.nll_file).is_file()
    assert base_scores.divergence is None
    assert base_scores.peak_memory_bytes > 2**29


def test_scores_are_kept_and_asked_for_once(base: Examination, base_scores: Scores) -> None:
    assert base.read("perplexity") == base_scores.perplexity
    assert scoring.has_store(base)
    assert not list(base.parts.folder.glob("*.partial*"))


# ── divergence ─────────────────────────────────────────────────────────────────────────────


def test_divergence_is_that_of_full_logits(
    noisy: Examination, noisy_scores: Scores, references: dict[str, Any]
) -> None:
    theirs = divergence.full(references[FIXTURE.name]["logprobs"], references["noisy"]["logprobs"])
    found = noisy_scores.divergence
    assert found is not None
    ours = arrays(noisy, "divergence")["kld"]
    print(f"mean KLD {found.mean:.6f}, transformers {theirs.mean():.6f}")
    assert (found.kind, found.k, found.tail_mass) == ("full", 2048, 0.0)
    assert len(ours) == len(theirs) == found.num_tokens == COMPARED // WINDOW * (WINDOW - 1)
    assert found.mean == pytest.approx(theirs.mean(), rel=0.02)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98
    assert found.mean == pytest.approx(ours.mean(), abs=1e-12)
    assert found.mean_interval.low < found.mean < found.mean_interval.high


def test_divergence_from_the_store_by_hand(
    base: Examination, noisy: Examination, noisy_scores: Scores
) -> None:
    """The stored base is the engine's own: its losses over the same windows are those of its perplexity."""
    kept = store.read(scoring._store_path(base), scoring._identity(base))
    found = arrays(noisy, "divergence")
    np.testing.assert_array_equal(found["base_nll"], kept.arrays["nll"])
    np.testing.assert_allclose(np.exp(kept.arrays["logprobs"].astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    first = arrays(base, "perplexity")["nll"][: WINDOW - 1]
    np.testing.assert_allclose(kept.arrays["nll"][: WINDOW - 1], first, atol=0.1)
    assert noisy_scores.divergence is not None
    difference = (found["nll"] - found["base_nll"]).mean()
    assert noisy_scores.divergence.mean_nll_difference == pytest.approx(difference, abs=1e-12)
    assert 0.5 < noisy_scores.divergence.top1_agreement < 1


def test_lower_bound_at_the_base_s_ids_and_only_what_is_missing(
    place: Path, base: Examination, noisy: Examination, noisy_scores: Scores
) -> None:
    """The base's top 128 in a store of their own; perplexity is there already, so it is not scored again."""
    full = store.read(scoring._store_path(base), scoring._identity(base))
    other = dataclasses.replace(base, home=place / "home-of-128")
    top = np.argsort(-full.arrays["logprobs"], axis=1, kind="stable")[:, :128]
    contents = full.contents.model_copy(update={"kind": "lower_bound", "k": 128})
    with store.writing(scoring._store_path(other), scoring._identity(other), contents) as kept:
        kept["nll"][:], kept["ids"][:] = full.arrays["nll"], top
        kept["logprobs"][:] = np.take_along_axis(full.arrays["logprobs"], top, axis=1)
    x = dataclasses.replace(noisy, home=other.home, reference=other)
    marked = noisy_scores.perplexity.model_copy(update={"wall_s": -1.0})
    x.keep("perplexity", marked)
    found = scoring.score(x)
    assert found.perplexity == marked
    assert not x.path("perplexity").with_suffix(".npz").exists()
    assert found.divergence is not None
    assert noisy_scores.divergence is not None
    assert (found.divergence.kind, found.divergence.k) == ("lower_bound", 128)
    assert 0 < found.divergence.tail_mass < 0.5
    bound, whole = arrays(x, "divergence"), arrays(noisy, "divergence")
    print(f"lower bound {found.divergence.mean:.6f} of {noisy_scores.divergence.mean:.6f}")
    assert 0.7 * noisy_scores.divergence.mean < found.divergence.mean <= noisy_scores.divergence.mean + 1e-5
    assert np.mean(bound["kld"] <= whole["kld"] + 1e-3) > 0.999  # two runs of one engine differ a little
    assert found.divergence.top1_agreement == pytest.approx(noisy_scores.divergence.top1_agreement, abs=5e-3)


def test_scores_at_given_ids_are_asked_for_as_this_engine_takes_them(engine: Engine, place: Path) -> None:
    """That path needs a GPU's model runner: here its arguments are held against vLLM's own checks."""
    program = """
import dataclasses, numpy as np
from bot.serving.score_engine import parameters
from vllm import RequestOutput, SamplingParams
import inspect
found = SamplingParams(**parameters(1, np.arange(12).reshape(4, 3)))
assert found.prompt_logprob_token_ids.shape == (4, 3) and found.prompt_logprob_token_ids.dtype == np.int32
assert found.skip_reading_prefix_cache and found.prompt_logprobs == 1 and found.flat_logprobs
assert "prompt_token_id_logprobs" in inspect.signature(RequestOutput).parameters
print("as it takes them")
"""
    env = variables(engine)
    env["PYTHONPATH"] = f"{Path(__file__).resolve().parents[2]}:{env.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [str(engine.environment.python), "-c", program], env=env, check=True, capture_output=True, text=True
    )
    assert "as it takes them" in done.stdout


# ── what is refused ────────────────────────────────────────────────────────────────────────


def test_a_store_of_something_else_is_refused(
    noisy: Examination, base: Examination, base_scores: Scores
) -> None:
    path = scoring._store_path(base)
    other = dataclasses.replace(base, home=base.home.with_name("home-of-another"))
    moved = scoring._store_path(other)
    moved.parent.mkdir(parents=True)
    shutil.copyfile(path, moved)
    assert scoring.has_store(other)  # the same base, set and engine: reused wherever it lies
    renamed = dataclasses.replace(
        other, evaluation=base.evaluation.model_copy(update={"divergence_tokens": 1024})
    )
    shutil.copyfile(path, scoring._store_path(renamed))
    with pytest.raises(Refused, match="cannot be used") as caught:
        scoring.score(dataclasses.replace(noisy, home=other.home, reference=renamed))
    assert "divergence_tokens is 2048, not 1024" in caught.value.why


def test_a_set_shorter_than_a_window(base: Examination) -> None:
    short = base.evaluation.model_copy(update={"split": "short"})
    with pytest.raises(InputError, match=r"has \d+ tokens, and one window has 512"):
        scoring.score(dataclasses.replace(base, evaluation=short))


def test_a_window_without_room_for_an_answer(base: Examination) -> None:
    wide = base.evaluation.model_copy(update={"window_tokens": 8192, "stride_tokens": 8192})
    with pytest.raises(InputError, match="leaves no room in a context of 8,192"):
        scoring.score(dataclasses.replace(base, evaluation=wide))


def test_a_tokenizer_that_is_not_the_base_s(place: Path, base: Examination, noisy: Examination) -> None:
    folder = place / "other-tokenizer"
    shutil.copytree(noisy.subject.folder, folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    vocab["a"], vocab["e"] = vocab["e"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    x = examination(
        folder, "release", place, base.dataset, base.engine, base.subject.serve, base.evaluation, base
    )  # fmt: skip
    with pytest.raises(InputError, match="gives other tokens than that of") as caught:
        scoring.score(x)
    assert "test/release-other-tokenizer" in caught.value.what
    assert "test/base-qwen3.5-tiny" in caught.value.what
    assert x.read("perplexity") is None


def test_a_checkpoint_whose_scores_are_no_numbers(
    place: Path, base: Examination, base_scores: Scores
) -> None:
    def broken(name: str, tensor: checkpoints.Tensor) -> checkpoints.Tensor:
        if name != NORM:
            return tensor
        return dataclasses.replace(tensor, data=b"\xc0\x7f" * (len(tensor.data) // 2))

    folder = changed(place / "nan", broken)
    x = examination(
        folder, "release", place, base.dataset, base.engine, base.subject.serve, base.evaluation, base
    )  # fmt: skip
    with pytest.raises(NotServable, match="no finite number") as caught:
        scoring.score(x)
    assert caught.value.kind == "garbage"
    assert x.read("perplexity") is None


def test_a_checkpoint_that_lacks_a_weight(place: Path, base: Examination) -> None:
    folder = place / "lacking"
    shutil.copytree(FIXTURE, folder)
    for path in folder.glob("*.safetensors"):
        tensors = checkpoints.read_safetensors(path)
        if tensors.pop(NORM, None):
            path.unlink()
            checkpoints.write_safetensors(path, tensors, {"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    del index["weight_map"][NORM]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    x = examination(
        folder, "base", place, base.dataset, base.engine, base.subject.serve, base.evaluation
    )  # fmt: skip
    with pytest.raises(NotServable) as caught:
        scoring.score(x)
    assert caught.value.kind == "weights_missing"
    assert any("not initialized" in line for line in caught.value.log_tail)


def test_passages_are_the_set_s_text(base: Examination) -> None:
    found = scoring.passages(base)
    assert "\n\n".join(found).strip() == "\n\n".join(_rows(base.dataset)).strip()
