"""`release-bot demo`: the main job, end to end, on what is in the box.

An embedded Hub is started over one git-ignored folder and filled with the tiny trained base, its FP8 repo,
and stand-ins of the data sets under their real ids; then recipes run through the real pipeline: real
quantizers, repair, audit, upload, the real vLLM, gates, card, publish. Without `--recipe` these are the
faithful ones: a house recipe is its counterpart with other values, and costs as much time again. All are
measured before the first card is rendered, since each card shows its siblings. Recipes are scaled
down by `--set` values that evidence and cards name. The Hub is stopped at the end; a second run
finds everything done.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot import localhub, log
from bot import recipe as recipes
from bot.config import Config
from bot.demo import pages
from bot.errors import InputError

if TYPE_CHECKING:
    from bot.job import Job

FIXTURE = Path(__file__).resolve().parent.parent.parent / "tests" / "fixtures" / "qwen3.5-tiny"
BASE = "Qwen/Qwen3.5-tiny"

# Scaled down so that a release takes minutes on two cores; each is a normal `--set`.
_SHORT = {
    "calibration.sets.*.num_samples": "16",
    "calibration.sets.*.lengths.max_tokens": "512",
    "evaluation.max_tokens": "8192",
    "evaluation.divergence_tokens": "8192",
    "evaluation.drafting.output_tokens": "32",
    "evaluation.soak": "{context_tokens: 3072, window_tokens: 1024, output_tokens: 48}",
    "evaluation.speed": "{input_tokens: 128, output_tokens: 16, streams: [1, 16], num_runs: 3, "
    "prompts_per_stream: 1, prompts_per_kind: 1}",
}
SCALE: dict[str, dict[str, str]] = {
    "gptq-foem-g32": {**_SHORT, "calibration.sets.*.lengths.min_tokens": "64"},
    "gptq-w4a16-g128": {**_SHORT, "calibration.sets.*.num_samples": "32"},
    "autoround-w4a16-g128": {
        **_SHORT,
        "calibration.sets.*.lengths.min_tokens": "512",
        "method.iterations": "20",
        "method.batch_size": "4",
        "method.torch_compile": "false",
    },
    "nvfp4": dict(_SHORT),
}
COLUMNS = (
    "recipe",
    "bits/weight",
    "bits/quantized",
    "quantized",
    "kept layers",
    "embed + head",
    "vision",
    "MTP",
    "total",
    "rel. error",
    "seconds",
    "peak memory",
)


def run(config: Config, only: list[str] | None = None) -> dict[str, Any]:
    """Rehearse the releases named in `only` (default: the faithful ones); returns what `--json` prints."""
    names = only or recipes.faithful()
    for name in names:
        recipes.load(name)
    from bot import comparison, pipeline

    home = config.home / "demo"
    started = time.monotonic()
    with localhub.running(home / "hub") as hub_process:
        _point_at(hub_process)
        from bot.edges import hub as hubs

        hub = hubs.Hub(embedded=hubs.prepare_environment(config.home))
        with log.step("Seeding the embedded Hub"):
            seed(hub)
            seed_official_fp8(hub)
        for index, name in enumerate(names, 1):
            log.info(f"\nRelease {index} of {len(names)}: {name}")
            pipeline.run(_prepared(name, hub, config, home), until="gate")
        found = [_release(name, hub, config, home) for name in names]
    rows = [each["row"] for each in found]
    compared = comparison.rows([each["evidence_document"] for each in found])
    index_page = pages.write_index(
        home / "pages" / "index.html", COLUMNS, rows, [f"{name}.html" for name in names]
    )
    written = [index_page, *(Path(each["page"]) for each in found)]
    wall_s = time.monotonic() - started
    return {
        "schema_version": 1,
        "releases": [
            {key: each[key] for key in each if key not in ("row", "evidence_document")} for each in found
        ],
        "table": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        "comparison": [dict(zip(comparison.COLUMNS, row, strict=True)) for row in compared],
        "pages": [str(page) for page in written],
        "hub": str(home / "hub"),
        "serve": _serve_command(home),
        "wall_s": round(wall_s, 1),
    }


def _point_at(hub_process: localhub.Running) -> None:
    """Everything from here on, this process and its children, talks to the embedded Hub only."""
    os.environ["HF_ENDPOINT"] = hub_process.url
    os.environ["HF_TOKEN"] = hub_process.token


def seed(hub: Any) -> None:
    """Bring the tiny base and the stand-in data sets to the embedded Hub, unless they are there."""
    from bot.demo import standins
    from bot.lab import domains

    if not (FIXTURE / "config.json").is_file():
        raise InputError(
            "the tiny base is missing", where=str(FIXTURE), fix="run the demo from a checkout of the project"
        )
    bring(hub, BASE, FIXTURE)
    wanted = {each.dataset for name in recipes.names() for each in recipes.load(name).calibration.sets}
    wanted |= {recipes.load(name).evaluation.dataset for name in recipes.names()}
    wanted |= {each.dataset for each in domains.DOMAINS}
    missing = [each for each in sorted(wanted) if not _is_seeded(hub, each, "dataset")]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        written = standins.write_standins(Path(folder))
        for each in missing:
            _commit(hub, each, "dataset", written[each])


def bring(hub: Any, repo_id: str, folder: Path) -> None:
    """Bring the model in `folder` to the Hub as `repo_id`, unless there is one."""
    if not _is_seeded(hub, repo_id, "model"):
        _commit(hub, repo_id, "model", folder)


def seed_official_fp8(hub: Any) -> None:
    """Bring the tiny base's FP8 repo to the embedded Hub, unless it is there."""
    from bot.demo import fp8
    from bot.serving import baselines

    repo_id = BASE + baselines.SUFFIX
    if _is_seeded(hub, repo_id, "model"):
        return
    with tempfile.TemporaryDirectory() as folder:
        _commit(hub, repo_id, "model", fp8.write(FIXTURE, Path(folder) / "fp8", base_repo_id=BASE))


def _is_seeded(hub: Any, repo_id: str, repo_type: str) -> bool:
    """Whether the repo holds more than what creating it put there: the one commit came through."""
    if not hub.api.repo_exists(repo_id, repo_type=repo_type):
        return False
    return bool(set(hub.api.list_repo_files(repo_id, repo_type=repo_type)) - {".gitattributes"})


def _commit(hub: Any, repo_id: str, repo_type: str, folder: Path) -> None:
    from huggingface_hub import CommitOperationAdd

    log.info(f"  {repo_type} {repo_id}")
    hub.api.create_repo(repo_id, repo_type=repo_type, exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    additions = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in files]
    hub.api.create_commit(repo_id, additions, commit_message="Seed", repo_type=repo_type)


def scale(name: str) -> dict[str, str]:
    """The `--set` values by which a recipe is rehearsed; a house recipe's are its counterpart's."""
    return SCALE.get(recipes.load(name).counterpart or name, _SHORT)


def _prepared(name: str, hub: Any, config: Config, home: Path) -> Job:
    from bot import job

    overrides = scale(name)
    return job.prepare(BASE, job.load_recipe(name, overrides), overrides, hub, config, home / "work")


def _release(name: str, hub: Any, config: Config, home: Path) -> dict[str, Any]:
    from bot import pipeline
    from bot.evidence import Evidence
    from bot.models import read_json

    made = _prepared(name, hub, config, home)
    summary = pipeline.run(made)
    card = made.workspace.card
    if not (card / "README.md").is_file():  # the work folder was lost; the Hub has what was published
        _fetch_card(hub, made.release.target_repo, card)
    page = pages.write_card(card, home / "pages" / f"{name}.html", made.release.target_repo)
    evidence = read_json(card / "evidence.json", Evidence)
    return {**summary, "page": str(page), "row": _row(name, evidence), "evidence_document": evidence}


def _fetch_card(hub: Any, repo_id: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    wanted = ["README.md", "evidence.json", "plots/*"]
    snapshot_download(
        repo_id, endpoint=hub.endpoint, token=hub.api.token, allow_patterns=wanted, local_dir=folder
    )
    shutil.rmtree(folder / ".cache", ignore_errors=True)


def _row(name: str, found: Any) -> tuple[str, ...]:
    from bot import figures

    inventory = found.audit.report.inventory
    packed = sum(row.bytes for row in inventory.components if row.packed)
    parts = inventory.bytes_by_part
    sizes = (
        packed,
        parts["language"] - packed,
        parts["embeddings"] + parts["lm_head"],
        parts["visual"],
        parts["mtp"],
        inventory.total_bytes,
    )
    return (
        name,
        figures.fixed(inventory.bits_per_weight, 2),
        figures.fixed(inventory.quantized_bits_per_weight, 2),
        *(figures.gib(size) for size in sizes),
        figures.fixed(found.audit.report.distance.relative_error, 4),
        figures.fixed(found.quantize.wall_s, 1),
        figures.gib(found.quantize.result.peak_memory_bytes),
    )


def _serve_command(home: Path) -> str:
    return f".venv/bin/release-bot hub serve {_shown(home / 'hub')}"


def farewell(found: dict[str, Any]) -> str:
    """What the demo ends with: the table, the pages, and the command that serves the embedded Hub."""
    rows = [tuple(row.values()) for row in found["table"]]
    compared = [tuple(row.values()) for row in found["comparison"]]
    columns = tuple(found["comparison"][0]) if compared else ()
    pages_shown = "\n".join(f"  {_shown(Path(page))}" for page in found["pages"])
    return (
        f"\n{log.table(COLUMNS, rows, title='The releases')}\n"
        f"\n{log.table(columns, compared, title='Measured in vLLM, beside their base')}\n"
        f"\nin {log.duration(found['wall_s'])}. Rendered pages:\n{pages_shown}\n"
        f"\nTo look at the embedded Hub that they were published on:\n  {found['serve']}"
    )


def _shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
