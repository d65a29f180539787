"""Quantize what is not quantized, score what is not scored, compare all.

Each variant is a release's folder below `OUT/work`, made by the same stages up to the audit, and never
uploaded. The base is scored once for each text. A variant that fails (its audit, or it does not load) is told
with the reason, the others go on, and the next run tries it again. All texts of a checkpoint are scored in
one start of the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bot import examinations, job, log, pipeline
from bot.checkpoint.documents import read_object
from bot.checkpoint.source import HubSource
from bot.config import Config
from bot.edges import environment
from bot.edges.device import device
from bot.edges.environment import Environment
from bot.edges.hub import Hub
from bot.errors import AuditFailed, BackendError, NotServable
from bot.evidence import AuditEvidence
from bot.job import Job
from bot.lab import compare, domains, tables
from bot.lab.domains import Split
from bot.lab.record import Arrays, Figures, LabEvidence, Measured, Records, Text, facts_of, key_of
from bot.lab.variants import Asked
from bot.measurements import Divergence
from bot.models import QuantizeEvidence, write_atomically, write_json
from bot.recipe_evaluation import Evaluation
from bot.serving import engine as engines
from bot.serving import scoring, subject
from bot.serving.engine import Engine
from bot.serving.examination import Examination

KEPT = ("kld", "nll", "base_nll", "agree", "window")
TOOLS = ("auto-round", "gptqmodel", "nvidia-modelopt", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all variants share."""

    hub: Hub
    config: Config
    engine: Engine
    tools: Environment
    out: Path
    split: Split
    records: Records


def run(
    base_text: str, asked: Sequence[Asked], *, split: Split, hub: Hub, config: Config, out: Path
) -> LabEvidence:
    """Measure every variant that has no record yet, and write evidence, table and plot below `out`.

    Raises what a base or a recipe that cannot be used raises, and EngineError or InfrastructureError; what
    was measured until then is kept.
    """
    from bot import plots

    bench = Bench(
        hub=hub,
        config=config,
        engine=engines.ready(config.home),
        tools=environment.ensure(f"quantize-{device()}", config.home),
        out=out,
        split=split,
        records=Records(out),
    )
    recipes = [each.recipe() for each in asked]
    labelled, texts, made = [], [], None
    for number, (each, recipe) in enumerate(zip(asked, recipes, strict=True), 1):
        log.info(f"\nVariant {number} of {len(asked)}: {each.label}")
        made = job.prepare(base_text, recipe, each.overrides, hub, config, out / "work")
        texts = [_text(name, plan) for name, plan in _plans(bench, made).items()]
        labelled.append((each.label, _measured(bench, made, each, texts)))
    assert made is not None
    arrays = {
        m.key: {f.domain: bench.records.arrays(m.key, f.domain) for f in m.figures} for _, m in labelled
    }
    evidence = LabEvidence(
        base=made.release.base,
        base_facts=facts_of(made.base, _config(made)),
        split=split,
        texts=texts,
        engine=f"{bench.engine.facts.package} {bench.engine.facts.version}",
        engine_environment_digest=bench.engine.facts.environment_digest,
        quantizer_environment_digest=bench.tools.digest,
        quantizer_versions={name: v for name, v in bench.tools.versions.items() if name in TOOLS},
        hardware=bench.engine.facts.hardware,
        reference=asked[0].label,
        num_variants=len(asked),
        making_digests={a.label: r.making_digest() for a, r in zip(asked, recipes, strict=True)},
        variants=compare.variants(labelled, arrays),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    stem = f"lab-{split}"
    write_json(out / f"{stem}.json", evidence)
    write_atomically(out / f"{stem}.md", f"```\n{tables.text(evidence)}\n```\n".encode())
    if points := tables.points(evidence):
        plots.draw_points(points, out, stem, full=tables.is_full(evidence))
    return evidence


def _config(made: Job) -> dict[str, Any]:
    base = made.release.base
    found: dict[str, Any] = read_object(HubSource(base.repo_id, base.revision), "config.json")
    return found


def _plans(bench: Bench, made: Job) -> dict[str, Evaluation]:
    """Each domain's text with the recipe's windows."""
    plan = made.recipe.evaluation
    return {each.name: domains.evaluation(each, bench.split, plan, bench.hub) for each in domains.DOMAINS}


def _text(domain: str, plan: Evaluation) -> Text:
    return Text(
        domain=domain,
        dataset=plan.dataset,
        revision=plan.revision,
        config=plan.config,
        split=plan.split,
        column=plan.column,
        window_tokens=plan.window_tokens,
        max_tokens=plan.divergence_tokens,
    )


def _measured(bench: Bench, made: Job, asked: Asked, texts: list[Text]) -> Measured:
    """The variant's record: found, or made now."""
    facts = bench.engine.facts
    limits = made.recipe.thresholds  # an audit that failed by them is no finding about another's
    held_to = [
        made.recipe.serve.model_dump_json(),
        str(limits.max_relative_error),
        str(limits.min_row_cosine),
    ]
    machine = [facts.environment_digest, bench.tools.digest, facts.hardware.model_dump_json()]
    key = key_of(made.release.key, [*machine, *held_to], texts)
    if found := bench.records.read(key):
        log.info(f"  measured already ({key})")
        return found
    blank = _blank(key, made, asked)
    try:
        pipeline.run(made, until="audit")
        found, arrays = _scored(bench, made, _built(blank, made))
    except (AuditFailed, BackendError, NotServable) as e:
        log.warning(str(e))
        return blank.model_copy(update={"failure": e.what})
    bench.records.keep(found, arrays)
    return found


def _blank(key: str, made: Job, asked: Asked) -> Measured:
    return Measured(
        key=key,
        release_key=made.release.key,
        recipe_name=made.recipe.name,
        recipe_digest=made.release.recipe_digest,
        overrides=asked.overrides,
        failure=None,
        bits_per_weight=None,
        quantized_bits_per_weight=None,
        tensor_bytes=None,
        relative_error=None,
        parameters=[],
        patches=[],
        quantize_wall_s=None,
        quantize_peak_memory_bytes=None,
        quantize_peak_gpu_memory_bytes=None,
        score_wall_s=None,
        score_peak_memory_bytes=None,
        figures=[],
    )


def _built(blank: Measured, made: Job) -> Measured:
    """With what quantizing and the audit found."""
    space = made.workspace
    quantized, audited = space.read("quantize", QuantizeEvidence), space.read("audit", AuditEvidence).report
    return blank.model_copy(
        update={
            "bits_per_weight": audited.inventory.bits_per_weight,
            "quantized_bits_per_weight": audited.inventory.quantized_bits_per_weight,
            "tensor_bytes": audited.inventory.total_bytes,
            "relative_error": audited.distance.relative_error if audited.distance else None,
            "parameters": quantized.result.parameters,
            "patches": quantized.result.patches,
            "quantize_wall_s": quantized.wall_s,
            "quantize_peak_memory_bytes": quantized.result.peak_memory_bytes,
            "quantize_peak_gpu_memory_bytes": quantized.result.peak_gpu_memory_bytes,
        }
    )


def _scored(bench: Bench, made: Job, built: Measured) -> tuple[Measured, dict[str, Arrays]]:
    """With its divergence from the base, one start of the engine for all texts."""
    bases, ours = {}, {}
    variant = subject.of_folder(
        made.workspace.checkpoint,
        bench.engine.facts,
        role="release",
        name=made.release.target_repo,
        revision=None,
        serve=made.recipe.serve,
    )
    for name, plan in _plans(bench, made).items():
        over = replace(made, recipe=made.recipe.model_copy(update={"evaluation": plan}))
        bases[name] = examinations.of_base(over, bench.engine)
        ours[name] = replace(
            bases[name], subject=variant, reference=bases[name], logs=made.workspace.logs / "lab"
        )
    with log.step("Scoring the base"):
        scoring.diverge(list(bases.values()))
    with log.step("Scoring"):
        cost = scoring.diverge(list(ours.values()))
    arrays = {name: _kept(scoring.divergence_arrays(x)) for name, x in ours.items()}
    figures = [_figures(name, x, arrays[name]) for name, x in ours.items()]
    costs = {"score_wall_s": cost.wall_s, "score_peak_memory_bytes": cost.peak_memory_bytes}
    return built.model_copy(update={"figures": figures, **costs}), arrays


def _kept(found: Arrays) -> Arrays:
    return {name: found[name] for name in KEPT}


def _figures(name: str, x: Examination, arrays: Arrays) -> Figures:
    found: Divergence = x.read("divergence")
    return Figures(
        domain=name,
        kind=found.kind,
        tokens_sha256=found.tokens_sha256,
        num_tokens=found.num_tokens,
        num_windows=found.num_windows,
        kld=found.mean,
        kld_interval=found.mean_interval,
        kld_p99=found.p99,
        top1_agreement=found.top1_agreement,
        ppl=compare.perplexity(arrays["nll"]),
        base_ppl=compare.perplexity(arrays["base_nll"]),
    )
