"""The other recipes of the same base, as far as their figures may stand beside this release's.

They are read where they lie: in the work folders beside this one, and in the `evidence.json` of a published
repo. What comes from the Hub is text from outside: it is validated by the model, its key is made again from
its content, and a document that does not hold is left out with a line in the log.

Which of them count is decided by `comparable_with` alone: same base at the same commit, another recipe,
measured by the same engine build on the same machine over the same tokens, rehearsal beside rehearsal and
release beside release. A release that failed a gate is kept and marked, since a reader should know of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from bot import log, naming
from bot import recipe as recipes
from bot.comparable import comparable
from bot.edges.hub import Hub, translated
from bot.errors import InputError, Refused, ReleaseBotError
from bot.evidence import AuditEvidence, Evidence, GatesEvidence, MeasureEvidence, Sibling
from bot.gates.gate import unsound
from bot.gates.structure import text_differences
from bot.measurements import Examined
from bot.models import Model, Release, read_json
from bot.recipe import Recipe
from bot.stages import gate
from bot.stages.audit import AuditReport
from bot.workspace import Workspace

MAX_EVIDENCE_BYTES = 64 * 2**20


class Candidate(Model):
    """A release that may become a sibling: what it is, and its figures."""

    release: Release
    sibling: Sibling


def of(release: Release, measured: MeasureEvidence, *, work: Path, hub: Hub) -> list[Sibling]:
    """The siblings of `release`, by recipe name: those in `work` first, then those on the Hub."""
    local = of_folders(work, release, measured.release)
    known = {each.recipe_name for each in local}
    remote = [each for each in of_hub(hub, release, measured.release) if each.recipe_name not in known]
    return sorted([*local, *remote], key=lambda each: each.recipe_name)


def of_folders(work: Path, release: Release, measured: Examined) -> list[Sibling]:
    """The siblings whose folders lie in `work`; of two of one recipe the one that was measured last."""
    folders = sorted(each for each in work.iterdir() if naming.is_key(each.name) and each.name != release.key)
    return chosen(filter(None, map(_of_folder, folders)), release, measured)


def of_hub(hub: Hub, release: Release, measured: Examined) -> list[Sibling]:
    """The siblings that are published under the names which the shipped recipes give."""
    organization = release.target_repo.split("/")[0]
    others = [recipes.load(name) for name in recipes.names() if name != release.recipe_name]
    repos = [naming.target_repo(organization, release.base, each) for each in others]
    return chosen(filter(None, (_of_repo(hub, each) for each in repos)), release, measured)


# ── which count ────────────────────────────────────────────────────────────────────────────


def chosen(found: Iterable[Candidate], release: Release, measured: Examined) -> list[Sibling]:
    """One sibling a recipe among `found`; each that is left out is logged with why."""
    best: dict[str, Sibling] = {}
    for each in found:
        if reason := comparable_with(each, release, measured):
            log.info(f"  {each.release.recipe_name} ({each.release.key}) is not set beside it: {reason}")
            continue
        before = best.get(each.sibling.recipe_name)
        if before is None or _moment(each.sibling) > _moment(before):
            best[each.sibling.recipe_name] = each.sibling
    return sorted(best.values(), key=lambda each: each.recipe_name)


def comparable_with(other: Candidate, release: Release, measured: Examined) -> str | None:
    """Why `other` is no sibling of `release`; None when it is one."""
    theirs = other.sibling.measured
    if other.release.base != release.base:
        return "it has another base"
    if other.release.recipe_name == release.recipe_name:
        return "it is of the same recipe"
    if (other.release.rehearsal, other.release.endpoint_kind) != (release.rehearsal, release.endpoint_kind):
        return "one of the two is a rehearsal"
    if theirs.failure is None and (names := unsound(other.sibling)):
        return f"not a finite number: {', '.join(names[:3])}"
    return comparable(theirs.engine, measured.engine) or _another_text(theirs, measured)


def _another_text(theirs: Examined, ours: Examined) -> str | None:
    """Why losses or divergences are of other tokens; what one of the two lacks is not compared."""
    if (
        theirs.perplexity
        and ours.perplexity
        and (names := text_differences(theirs.perplexity, ours.perplexity))
    ):
        return f"its perplexity has another {', '.join(names)}"
    if theirs.divergence and ours.divergence:
        fields = ("reference_fingerprint", "tokens_sha256", "kind", "k")
        differs = [f for f in fields if getattr(theirs.divergence, f) != getattr(ours.divergence, f)]
        if differs:
            return f"its divergence has another {', '.join(differs)}"
    return None


def _moment(sibling: Sibling) -> str:
    return sibling.measured.load.started_at if sibling.measured.load else ""


# ── where they lie ─────────────────────────────────────────────────────────────────────────


def _of_folder(folder: Path) -> Candidate | None:
    """The release in `folder`; None while it is not measured and judged."""
    space = Workspace(folder)
    wanted = [space.job, *(space.evidence(stage) for stage in ("audit", "measure", "gate"))]
    if not all(path.is_file() for path in wanted):
        return None
    try:
        return _candidate(
            read_json(space.job, Release),
            space.read("audit", AuditEvidence).report,
            space.read("measure", MeasureEvidence),
            space.read("gate", GatesEvidence),
        )
    except (ReleaseBotError, ValueError) as e:
        log.warning(f"the release in {folder.name} is not compared with: {e}")
        return None


def _of_repo(hub: Hub, repo_id: str) -> Candidate | None:
    """The release that `repo_id` publishes; None when there is none, or its evidence does not hold.

    Raises InfrastructureError when the Hub does not answer.
    """
    try:
        found = _published(hub, repo_id)
        if found is None:
            return None
        _require_own(found, repo_id)
        return _candidate(found.release, found.audit.report, found.measurement, found.gates)
    except (InputError, Refused, ValueError) as e:
        log.info(f"  {repo_id} is not compared with: {str(e).splitlines()[0]}")
        return None


def _published(hub: Hub, repo_id: str) -> Evidence | None:
    """The evidence on the repo's main branch; None when the repo or the file is not there."""
    if not hub.exists(repo_id):
        return None
    state = hub.state(repo_id)
    file = state.files.get("evidence.json")
    if file is None:
        return None
    if file.size_bytes > MAX_EVIDENCE_BYTES:
        raise InputError(f"evidence.json has {file.size_bytes:,} bytes, more than {MAX_EVIDENCE_BYTES:,}")
    with TemporaryDirectory() as folder, translated(f"{repo_id}@{state.revision}"):
        path = hub.api.hf_hub_download(
            repo_id, "evidence.json", revision=state.revision, local_dir=folder
        )  # never from a cache that jobs share
        return read_json(Path(path), Evidence)


def _require_own(found: Evidence, repo_id: str) -> None:
    """Raises InputError unless the document is of this repo, and its key is that of its content."""
    release = found.release
    key = naming.release_key(release.base, Recipe.model_validate(release.recipe), release.toolchain_epoch)
    if release.target_repo != repo_id or release.key != key or found.audit.report.passed is not True:
        raise InputError("its evidence is of another release, or was edited")


def _candidate(
    release: Release, audit: AuditReport, measured: MeasureEvidence, gates: GatesEvidence
) -> Candidate:
    inventory, recipe = audit.inventory, Recipe.model_validate(release.recipe)
    bits, error = inventory.quantized_bits_per_weight, audit.distance.relative_error
    if bits is None or error is None:
        raise InputError("nothing in it is quantized")
    sibling = Sibling(
        recipe_name=release.recipe_name,
        headline=recipe.card.headline,
        repo_id=release.target_repo,
        key=release.key,
        total_bytes=inventory.total_bytes,
        bits_per_weight=inventory.bits_per_weight,
        quantized_bits_per_weight=bits,
        relative_error=error,
        passed=not gate.blocking(gates),
        measured=measured.release,
    )
    return Candidate(release=release, sibling=sibling)
