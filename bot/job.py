"""A release with everything that its stages need: made from a base and a recipe, or found again.

The base is resolved once and everything downstream uses that commit. What cannot work is refused
here, from the base's config and headers, before any weight is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from bot import base as bases
from bot import log, naming, recipe_pins
from bot import recipe as recipes
from bot.checkpoint.source import HubSource
from bot.config import Config
from bot.edges.hub import Hub
from bot.errors import InputError, RecipeError, Refused
from bot.evidence import Evidence
from bot.models import Base, BaseEvidence, Release, read_json, write_json
from bot.recipe import Recipe
from bot.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Job:
    """A release with everything that its stages need."""

    workspace: Workspace
    release: Release
    recipe: Recipe
    base: BaseEvidence
    hub: Hub
    config: Config
    card: Path
    restage: bool = False
    collects: bool = True


def load_recipe(name: str, overrides: dict[str, str]) -> Recipe:
    """The recipe called `name` with `--set` values applied. Raises RecipeError."""
    found = recipes.load(name)
    if not overrides:
        return found
    path = Path(name) if name.endswith((".yaml", ".yml")) else recipes.RECIPES_DIR / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    return recipes.parse(text, where=str(path), name=path.stem, overrides=overrides)


def prepare(
    base_text: str, recipe: Recipe, overrides: dict[str, str], hub: Hub, config: Config, work: Path
) -> Job:
    """Resolve the base once, check that the recipe is for it, and claim the release's folder.

    Raises InputError, RecipeError, Refused.
    """
    repo_id, revision = naming.parse_base(base_text)
    with log.step(f"Looking at {base_text}"):
        state = hub.state(repo_id, revision)
        base = Base(repo_id=state.repo_id, revision=state.revision)
        head = state.revision if revision is None else hub.head(repo_id)
        checkpoint = bases.read(HubSource(base.repo_id, base.revision))
        found = bases.describe(checkpoint, state, base=base, head=head)
        bases.refuse_unfit(checkpoint, found, recipe)
        resolved, repinned = _pinned(recipe, hub)
    release = Release(
        key=naming.release_key(base, resolved, config.toolchain_epoch),
        base=base,
        recipe_name=recipe.name,
        recipe_digest=resolved.digest(),
        recipe=resolved.model_dump(mode="json"),
        toolchain_epoch=config.toolchain_epoch,
        overrides=overrides,
        rehearsal=bool(overrides or repinned),
        repinned=repinned,
        target_repo=naming.target_repo(config.organization, base, recipe),
        endpoint_kind=hub.kind,
    )
    workspace = Workspace(work / release.key)
    workspace.claim(release)
    if workspace.existing("base", BaseEvidence) is None:
        write_json(workspace.evidence("base"), found)
    log.info(
        f"  release {release.key}: {base.repo_id}@{base.revision[:8]} by {recipe.name} "
        f"→ {release.target_repo}"
    )
    return _job(workspace, hub, config)


def _pinned(recipe: Recipe, hub: Hub) -> tuple[Recipe, dict[str, str]]:
    """The recipe with revisions that this Hub has, and which of them are stand-ins'."""
    if hub.embedded:
        return recipe_pins.for_embedded_hub(recipe, hub)
    if recipe.unpinned():
        raise RecipeError(
            f"{', '.join(recipe.unpinned())} is unpinned",
            where=f"recipe {recipe.name}",
            why="a release names the exact revision of what it was calibrated on",
            fix=f"`release-bot recipes pin {recipe.name}`, or rehearse on an embedded Hub",
        )
    for each in recipe.sets():
        hub.head(each.dataset, each.revision, repo_type="dataset")
    return recipe, {}


def reopen(
    key: str,
    hub: Hub,
    config: Config,
    work: Path,
    *,
    card: Path | None = None,
    restage: bool = False,
    collects: bool = True,
) -> Job:
    """The job whose folder exists already, or, with the folder of its reviewed card, made from that.

    `collects`: whether publishing also adds to the collection, for which a publisher's token has no right.

    Raises InputError when there is neither.
    """
    workspace = Workspace(work / naming.parse_key(key))
    if card is not None and not workspace.job.is_file():
        _adopt(workspace, key, read_json(card / "evidence.json", Evidence))
    made = _job(workspace, hub, config)
    return replace(made, card=card or workspace.card, restage=restage, collects=collects)


def _adopt(workspace: Workspace, key: str, found: Evidence) -> None:
    """Take a release over from its reviewed evidence, on a host that did not make it."""
    require_key(found.release, key)
    workspace.claim(found.release)
    for stage in ("base", "quantize", "repair", "audit", "upload"):
        write_json(workspace.evidence(stage), getattr(found, stage))
    write_json(workspace.evidence("measure"), found.measurement)
    write_json(workspace.evidence("gate"), found.gates)


def require_key(release: Release, key: str) -> None:
    """Raises Refused unless `release` is the one called `key`, its key recomputed from its content."""
    content = naming.release_key(release.base, recipe_of(release), release.toolchain_epoch)
    if not release.key == key == content:
        raise Refused(
            f"the evidence is of release {release.key}, its content of {content}, wanted was {key}",
            why="the card belongs to another release, or its evidence was edited",
            fix="name the folder of this release's card, as it was rendered",
        )


def recipe_of(release: Release) -> Recipe:
    """The recipe as the release was made by it. Raises InputError for one of another version of the bot."""
    try:
        return Recipe.model_validate(release.recipe)
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(
            f"the release's recipe is not one of this version: {field}: {first['msg']}",
            where=f"release {release.key}",
            why="another version of the bot made it",
            fix=f"`release-bot run {release.base.repo_id} --recipe {release.recipe_name}` takes it over",
        ) from e


def _job(workspace: Workspace, hub: Hub, config: Config) -> Job:
    release = workspace.release()
    return Job(
        workspace=workspace,
        release=release,
        recipe=recipe_of(release),
        base=workspace.read("base", BaseEvidence),
        hub=hub,
        config=config,
        card=workspace.card,
    )
