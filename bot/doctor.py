"""What this machine can and cannot do, and why: rules over facts that `bot.edges.checkup` collects.

A finding is `ok`, `limited` (it works, with less than one would want) or `missing` (what needs it cannot be
done here), and says what to do next. For each recipe the findings come down to four answers: can it be
quantized here, can it be served here and natively or not, is its speed worth measuring, how large a base.

Sizes are arithmetic and labelled so: the base is served too, for every ratio is against it, at 2 bytes a
parameter; disk holds the base and the release. Whether pip finds its packages is not asked: that would need
the registry, and no more is asked of the network than the Hub that is configured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from bot.backends import environment_name
from bot.edges.checkup import Facts, HubFacts
from bot.edges.machine import Gpu
from bot.models import SCHEMA_VERSION, Hardware, Model
from bot.recipe import Recipe
from bot.serving import quirks

Status = Literal["ok", "limited", "missing"]

GIB: Final = 2**30
MIN_PYTHON: Final = (3, 11)
MIN_DRIVER: Final = 580  # of the CUDA 13.0 libraries that the pinned torch brings
MIN_CAPABILITY: Final = (7, 5)  # what vLLM is built for and its 4-bit kernels ask
BYTES_A_PARAMETER: Final = 2  # the base, as published
RELEASE_SHARE: Final = 0.45  # a release's bytes over its base's, the largest recipe rounded up
USABLE_MEMORY: Final = 0.85  # the rest is cache, activations and the system
MIN_FREE_BYTES: Final = 5 * GIB


class Finding(Model):
    id: str
    status: Status
    what: str
    why: str
    next: str


class Ability(Model):
    """What can be done with one recipe here; `why` holds a reason for each thing that cannot."""

    recipe: str
    quantizes: bool
    serves: Literal["natively", "emulated", "no"]
    measures_speed: bool
    largest_base_parameters: int
    limited_by: Literal["recipe", "memory", "disk"]
    why: list[str]


class Report(Model):
    """`release-bot doctor --json`. `usable`: at least one recipe can be quantized or served here."""

    schema_version: Literal[1] = SCHEMA_VERSION
    usable: bool
    device: Literal["cpu", "cuda"]
    hardware: Hardware
    driver: str | None
    compute_capability: str | None
    free_bytes: int
    findings: list[Finding]
    recipes: list[Ability]


def examine(facts: Facts, recipes: Iterable[Recipe]) -> Report:
    """Every finding of this machine, and what each recipe may expect of it."""
    findings = [
        _system(facts),
        _python(facts),
        _gpu(facts),
        *([_processor(facts), *_baselines(facts)] if facts.device == "cpu" else []),
        _memory(facts),
        _disk(facts),
        *(_environment(facts, name) for name in facts.environments),
        _hub(facts.hub),
        _token(facts),
    ]
    abilities = [_ability(facts, findings, each) for each in recipes]
    return Report(
        usable=any(each.quantizes or each.serves != "no" for each in abilities),
        device=facts.device,
        hardware=facts.hardware,
        driver=facts.gpu.driver if facts.gpu else None,
        compute_capability=facts.gpu.compute_capability if facts.gpu else None,
        free_bytes=facts.free_bytes,
        findings=findings,
        recipes=abilities,
    )


# ── findings ───────────────────────────────────────────────────────────────────────────────


def _finding(id: str, status: Status, what: str, why: str = "", fix: str = "") -> Finding:
    return Finding(id=id, status=status, what=what, why=why, next=fix)


def _system(facts: Facts) -> Finding:
    what = facts.hardware.platform
    if what == "Linux x86_64":
        return _finding("system", "ok", what)
    return _finding("system", "missing", what, "the pins are for Linux x86_64", "use such a machine")


def _python(facts: Facts) -> Finding:
    what = f"Python {facts.hardware.python}"
    version = _numbers(facts.hardware.python)[:2]
    if version < MIN_PYTHON:
        return _finding("python", "missing", what, "the bot needs 3.11", "install a newer Python")
    if version > MIN_PYTHON:
        return _finding("python", "limited", what, "the pins were resolved and run with 3.11", "")
    return _finding("python", "ok", what)


def _gpu(facts: Facts) -> Finding:
    if facts.gpu is None:
        why = "nvidia-smi lists none: quantizing and serving run on the CPU, which is for rehearsals"
        fix = "large bases need a machine with an NVIDIA GPU"
        return _finding("gpu", "limited", "no GPU", why, fix)
    what = gpu_text(facts.gpu)
    if facts.device == "cpu":
        return _finding("gpu", "limited", what, "RELEASE_BOT_DEVICE is cpu", "unset it to use the GPU")
    if _numbers(facts.gpu.driver)[:1] < (MIN_DRIVER,):
        why = f"the pinned torch brings CUDA 13.0, which wants driver {MIN_DRIVER} or newer"
        return _finding("gpu", "missing", what, why, "upgrade the driver")
    if facts.gpu.compute_capability is None:
        return _finding("gpu", "limited", what, "the driver does not tell the compute capability", "")
    if _numbers(facts.gpu.compute_capability) < MIN_CAPABILITY:
        why = "vLLM's 4-bit kernels want compute capability 7.5 or higher"
        return _finding("gpu", "missing", what, why, "use a newer GPU")
    if lacks := quirks.lacking("nvfp4", device="cuda", compute_capability=facts.gpu.compute_capability):
        return _finding("gpu", "limited", what, f"NVFP4 is not native: {lacks}", "use a Blackwell GPU for it")
    return _finding("gpu", "ok", what)


def _processor(facts: Facts) -> Finding:
    what = f"{facts.hardware.cpu}, {facts.hardware.num_cores} cores"
    if "avx512f" not in facts.cpu_flags:
        why = "it has no AVX512: vLLM's 4-bit and FP8 KV kernels for CPUs need it"
        return _finding("processor", "missing", what, why, "use a processor with AVX512, or a GPU")
    if "avx512_bf16" not in facts.cpu_flags:
        why = "it has no AVX512_BF16: linear attention runs in a slower kernel"
        return _finding("processor", "limited", what, why, "")
    return _finding("processor", "ok", what)


def _baselines(facts: Facts) -> list[Finding]:
    """Packings that only a baseline has (the official FP8 repo) and this processor cannot serve."""
    return [
        _finding(
            f"baseline.{packing}",
            "limited",
            f"an official {packing.upper()} repo is not measured beside a release",
            f"the engine needs {each.needs}",
            "use a processor that has it, or a GPU",
        )
        for each in quirks.unserved_by(facts.cpu_flags)
        for packing in each.applies.packings
    ]


def _memory(facts: Facts) -> Finding:
    what = f"{facts.hardware.memory_bytes / GIB:.0f} GiB of main memory"
    if facts.hardware.memory_bytes < 8 * GIB:
        why = "quantizing and serving the smallest base take about 6 GiB"
        return _finding("memory", "missing", what, why, "use a machine with 8 GiB or more")
    return _finding("memory", "ok", what)


def _disk(facts: Facts) -> Finding:
    what = f"{facts.free_bytes / GIB:.0f} GiB free"
    needed = _unbuilt_bytes(facts) + MIN_FREE_BYTES
    if facts.free_bytes >= needed:
        return _finding("disk", "ok", what)
    why = f"environments that are not built and a small release need {needed / GIB:.0f} GiB"
    fix = "free some space, or set RELEASE_BOT_HOME to a larger disk"
    return _finding("disk", "missing" if facts.free_bytes < MIN_FREE_BYTES else "limited", what, why, fix)


def _environment(facts: Facts, name: str) -> Finding:
    id = f"environment.{name}"
    size = facts.environments[name]
    if size is not None:
        return _finding(id, "ok", f"{name} is built, {size / GIB:.1f} GiB")
    needed = facts.needed_bytes[name]
    if facts.free_bytes < needed:
        why = f"it needs {needed / GIB:.0f} GiB, and {facts.free_bytes / GIB:.1f} GiB are free"
        return _finding(id, "missing", f"{name} cannot be built", why, "free some space")
    why = "it is built when first needed, from the registry that pip is configured for (not asked here)"
    return _finding(id, "limited", f"{name} is not built, and needs {needed / GIB:.0f} GiB", why, "")


def _hub(hub: HubFacts) -> Finding:
    if hub.error is None:
        return _finding("hub", "ok", f"{hub.endpoint} answers")
    fix = "check the network and HF_ENDPOINT, or rehearse against `release-bot hub serve`"
    return _finding("hub", "limited", f"{hub.endpoint} does not answer", hub.error, fix)


def _token(facts: Facts) -> Finding:
    hub = facts.hub
    if hub.error is not None:
        return _finding("token", "limited", "rights unknown", "the Hub did not answer", "")
    if hub.account is None:
        why = "public bases can be read, nothing can be uploaded"
        return _finding("token", "limited", "no token that the Hub knows", why, "set HF_TOKEN")
    what = f"a token of {hub.account} ({hub.role or 'role not told'})"
    if hub.role == "read":
        return _finding("token", "limited", what, "it may not upload", "use a token that may write")
    if facts.organization not in (hub.account, *hub.organizations):
        why = f"{hub.account} is no member of {facts.organization}, where releases go"
        return _finding("token", "limited", what, why, "join it, or set RELEASE_BOT_ORGANIZATION")
    if hub.role == "fineGrained":
        why = f"what it may do in {facts.organization} shows only when it is done"
        return _finding("token", "limited", what, why, "")
    return _finding("token", "ok", what)


# ── what a recipe may expect ───────────────────────────────────────────────────────────────


def _ability(facts: Facts, findings: list[Finding], recipe: Recipe) -> Ability:
    missing = {each.id: each for each in findings if each.status == "missing"}
    quantizer = f"environment.{environment_name(recipe.method.backend, facts.device)}"
    common = {"system", "python", "gpu", "memory", "disk"}
    against = [missing[id] for id in missing if id in common | {quantizer}]
    against_serving = [missing[id] for id in missing if id in common | {"processor", _engine_id(facts)}]
    capability = facts.gpu.compute_capability if facts.gpu else None
    emulated = quirks.lacking(recipe.method.packing, device=facts.device, compute_capability=capability)
    serves: Literal["natively", "emulated", "no"] = "emulated" if emulated else "natively"
    largest, limited_by = _largest(facts, recipe)
    unserved = [f"not served: {_reason(each)}" for each in against_serving]
    return Ability(
        recipe=recipe.name,
        quantizes=not against,
        serves="no" if against_serving else serves,
        measures_speed=not against_serving and emulated is None,
        largest_base_parameters=largest,
        limited_by=limited_by,
        why=[f"not quantized: {_reason(each)}" for each in against]
        + (unserved or ([f"emulated, so no speed: {emulated}"] if emulated else [])),
    )


def _engine_id(facts: Facts) -> str:
    return f"environment.vllm-{facts.device}"


def _reason(finding: Finding) -> str:
    return f"{finding.what}: {finding.why}" if finding.why else finding.what


def _largest(facts: Facts, recipe: Recipe) -> tuple[int, Literal["recipe", "memory", "disk"]]:
    """The largest base by arithmetic, and what sets the limit."""
    gpu_memory = facts.gpu.memory_bytes if facts.gpu and facts.device == "cuda" else None
    memory = (gpu_memory or facts.hardware.memory_bytes) * USABLE_MEMORY
    disk = max(0, facts.free_bytes - _unbuilt_bytes(facts)) / (1 + RELEASE_SHARE)
    limits: dict[Literal["recipe", "memory", "disk"], int] = {
        "recipe": recipe.applies_to.max_parameters,
        "memory": int(memory / BYTES_A_PARAMETER),
        "disk": int(disk / BYTES_A_PARAMETER),
    }
    least = min(limits, key=lambda each: limits[each])
    return limits[least], least


def _unbuilt_bytes(facts: Facts) -> int:
    return sum(facts.needed_bytes[name] for name, size in facts.environments.items() if size is None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


# ── as text ────────────────────────────────────────────────────────────────────────────────


def gpu_text(gpu: Gpu) -> str:
    """The GPU in one line."""
    memory = f"{gpu.memory_bytes / GIB:.0f} GiB" if gpu.memory_bytes else "shares the CPU's memory"
    capability = gpu.compute_capability or "unknown"
    return f"{gpu.name}, {memory}, driver {gpu.driver}, compute capability {capability}"


def finding_rows(report: Report) -> list[tuple[str, str, str]]:
    """Status, what, and why with what to do next."""
    return [
        (each.status, each.what, "; ".join(text for text in (each.why, each.next) if text))
        for each in report.findings
    ]


def recipe_rows(report: Report) -> list[tuple[str, ...]]:
    """Recipe, quantize, serve, speed, largest base, why."""
    return [
        (
            each.recipe,
            "yes" if each.quantizes else "no",
            each.serves,
            "measured" if each.measures_speed else "not measured",
            f"{each.largest_base_parameters / 1e9:.0f} B ({each.limited_by})",
            "; ".join(each.why),
        )
        for each in report.recipes
    ]
