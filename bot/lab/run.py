"""Quantize what is not quantized, score what is not scored, compare all.

Each variant is a release's folder below `OUT/work`, made by the same stages up to the audit, and never
uploaded. All texts of a checkpoint are scored in one start of the engine.

The base and the texts are resolved once, and every variant is made ready before the first is quantized: what
cannot work is refused then, and a base that cannot be scored ends the run before anything is quantized. A
variant that fails later (its audit, too few calibration samples, it does not load) is told with the reason,
the others go on, and the next run tries it again. A passing fault of the machine ends the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bot import examinations, job, log, naming, pipeline
from bot.checkpoint.documents import read_object
from bot.checkpoint.source import HubSource
from bot.config import Config
from bot.edges import environment
from bot.edges.device import device
from bot.edges.hub import Hub
from bot.errors import AuditFailed, BackendError, InputError, NotServable, RecipeError
from bot.evidence import AuditEvidence
from bot.job import Job
from bot.lab import compare, conditions, domains, folder, tables, variants
from bot.lab.conditions import Conditions
from bot.lab.domains import Split
from bot.lab.kept import KEPT, Records
from bot.lab.record import Arrays, Figures, LabEvidence, Measured, Text, facts_of
from bot.lab.variants import Asked
from bot.measurements import Divergence
from bot.models import Base, QuantizeEvidence, write_atomically, write_json
from bot.recipe import Recipe
from bot.recipe_evaluation import Evaluation
from bot.serving import engine as engines
from bot.serving import scoring, subject
from bot.serving.engine import Engine
from bot.serving.examination import Examination

FAILURES = (AuditFailed, BackendError, InputError, NotServable, RecipeError)  # of a variant, not of the run
TOOLS = ("auto-round", "gptqmodel", "nvidia-modelopt", "torch", "transformers")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all variants share; `plans` are the texts by domain, with their windows."""

    engine: Engine
    records: Records
    conditions: Conditions
    plans: dict[str, Evaluation]

    @property
    def texts(self) -> list[Text]:
        """What is scored."""
        return [_text(name, plan) for name, plan in self.plans.items()]


def run(
    base_text: str, asked: Sequence[Asked], *, split: Split, hub: Hub, config: Config, out: Path
) -> LabEvidence:
    """Measure every variant that has no record yet, and write evidence, table and plot below `out`.

    Raises UsageError for variants of other windows or an `out` that is a file, Refused for an `out` that
    holds another base's evidence, what a base or a recipe that cannot be used raises, and EngineError or
    InfrastructureError; what was measured until then is kept.
    """
    folder.require_folder(out)
    code = conditions.code_digest()
    recipes = [each.recipe() for each in asked]
    variants.require_same_windows(asked, recipes)
    base = resolved(base_text, hub)
    folder.require_same_base(out, base)
    plans = texts(split, recipes[0].evaluation, hub)
    jobs = prepared(base, asked, recipes, hub, config, conditions.work_folder(out, code))
    engine, tools = engines.ready(config.home), environment.ensure(f"quantize-{device()}", config.home)
    held = Conditions(backends=code, tools=tools.digest, scoring=conditions.scoring(engine))
    bench = Bench(engine=engine, records=Records(out), conditions=held, plans=plans)
    labelled = []
    for number, (each, made) in enumerate(zip(asked, jobs, strict=True), 1):
        log.info(f"\nVariant {number} of {len(asked)}: {each.label}")
        labelled.append((each.label, measured(bench, made, each)))
    evidence = LabEvidence(
        base=base,
        base_facts=facts_of(jobs[0].base, _config(jobs[0])),
        split=split,
        texts=bench.texts,
        engine=f"{engine.facts.package} {engine.facts.version}",
        engine_environment_digest=engine.facts.environment_digest,
        quantizer_environment_digest=tools.digest,
        quantizer_versions={name: v for name, v in tools.versions.items() if name in TOOLS},
        hardware=engine.facts.hardware,
        reference=asked[0].label,
        num_variants=len(asked),
        making_digests={a.label: r.making_digest() for a, r in zip(asked, recipes, strict=True)},
        variants=compare.variants(labelled, _arrays(bench.records, labelled)),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(evidence, out)
    return evidence


def texts(split: Split, plan: Evaluation, hub: Hub) -> dict[str, Evaluation]:
    """Each domain's text at its commit, with the windows of `plan`. Raises InputError."""
    return {each.name: domains.evaluation(each, split, plan, hub) for each in domains.DOMAINS}


def resolved(base_text: str, hub: Hub) -> Base:
    """The base at the commit that it is at now. Raises UsageError, InputError."""
    state = hub.state(*naming.parse_base(base_text))
    return Base(repo_id=state.repo_id, revision=state.revision)


def prepared(
    base: Base, asked: Sequence[Asked], recipes: Sequence[Recipe], hub: Hub, config: Config, work: Path
) -> list[Job]:
    """Every variant's release, all of one commit of the base. Raises as `job.prepare`."""
    pinned = f"{base.repo_id}@{base.revision}"
    made = []
    for each, recipe in zip(asked, recipes, strict=True):
        log.info(f"\n{each.label}")
        made.append(job.prepare(pinned, recipe, each.overrides, hub, config, work))
    return made


def _config(made: Job) -> dict[str, Any]:
    base = made.release.base
    found: dict[str, Any] = read_object(HubSource(base.repo_id, base.revision), "config.json")
    return found


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


def _arrays(records: Records, labelled: Sequence[tuple[str, Measured]]) -> dict[str, dict[str, Arrays]]:
    return {m.key: {f.domain: records.arrays(m.key, f.domain) for f in m.figures} for _, m in labelled}


def _write(evidence: LabEvidence, out: Path) -> None:
    from bot import plots

    stem = f"lab-{evidence.split}"
    write_json(out / f"{stem}.json", evidence)
    write_atomically(out / f"{stem}.md", f"```\n{tables.text(evidence)}\n```\n".encode())
    if points := tables.points(evidence):
        plots.draw_points(points, out, stem, full=tables.is_full(evidence))


# ── one variant ────────────────────────────────────────────────────────────────────────────


def measured(bench: Bench, made: Job, asked: Asked) -> Measured:
    """The variant's record: found, or made now; with the reason where it failed."""
    key = bench.conditions.key(made.release.key, made.recipe, bench.texts)
    blank = _blank(key, made, asked)
    if found := bench.records.read(blank, list(bench.plans)):
        log.info(f"  measured already ({key})")
        return found
    bases = _bases(bench, made)
    try:
        pipeline.run(made, until="audit")
        found, arrays = _scored(made, bases, _built(blank, made))
        bench.records.keep(found, arrays)
    except FAILURES as e:
        log.warning(str(e))
        return blank.model_copy(update={"failure": e.what})
    return found


def _bases(bench: Bench, made: Job) -> dict[str, Examination]:
    """The base over each text, scored. What it raises is no finding about the variant, and ends the run."""
    found = {}
    for name, plan in bench.plans.items():
        over = replace(made, recipe=made.recipe.model_copy(update={"evaluation": plan}))
        found[name] = examinations.of_base(over, bench.engine)
    with log.step("Scoring the base"):
        scoring.diverge(list(found.values()))
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
            "resumed_layers": quantized.result.resumed_layers,
        }
    )


def _scored(made: Job, bases: dict[str, Examination], built: Measured) -> tuple[Measured, dict[str, Arrays]]:
    """With its divergence from the base, one start of the engine for all texts."""
    variant = subject.of_folder(
        made.workspace.checkpoint,
        next(iter(bases.values())).engine.facts,
        role="release",
        name=made.release.target_repo,
        revision=None,
        serve=made.recipe.serve,
    )
    logs = made.workspace.logs / "lab"
    ours = {name: replace(x, subject=variant, reference=x, logs=logs) for name, x in bases.items()}
    with log.step("Scoring"):
        cost = scoring.diverge(list(ours.values()))
    arrays = {name: _kept(scoring.divergence_arrays(x)) for name, x in ours.items()}
    figures = [_figures(name, x, arrays[name]) for name, x in ours.items()]
    costs = {"score_wall_s": cost.wall_s, "score_peak_memory_bytes": cost.peak_memory_bytes} if cost else {}
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
