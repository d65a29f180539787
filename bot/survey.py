"""The world that planning and showing look at: our own repos on the Hub, cards on GitHub, the state.

As few requests as there can be: one listing of the organization tells every published key, by the tag that
each card carries; pull requests on the Hub are asked for only where a release that nothing else explains may
be staged already. GitHub's pull requests come in as values, or None where GitHub is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from bot import hubpulls, ledger, log, recipe_pins
from bot import recipe as recipes
from bot.edges import listing
from bot.edges.hub import Hub
from bot.errors import InputError, RecipeError
from bot.ledger import CardPull, HubPull, Pair, Target, World
from bot.plan import PlanEntry, Recipes
from bot.state import State

_TAG: Final = re.compile(r"release-([0-9a-f]{16})")


def world(
    hub: Hub,
    state: State,
    organization: str,
    *,
    cards: Iterable[CardPull] | None,
    figures: Mapping[str, dict[str, str]],
) -> World:
    """What is published, recorded and under review; nothing of what is staged yet (`with_staged`)."""
    return World(
        records=ledger.read(state),
        targets=targets(hub, organization),
        staged={},
        cards=None if cards is None else ledger.newest_cards(cards),
        figures=figures,
        hub_url=hub.endpoint,
    )


def targets(hub: Hub, organization: str) -> dict[str, Target]:
    """Our repos with the keys that are on their main. Raises InputError, InfrastructureError."""
    found = listing.models_of(hub, organization)
    return {
        name: Target(
            repo_id=name,
            private=each.private,
            keys=frozenset(m[1] for tag in each.tags if (m := _TAG.fullmatch(tag))),
        )
        for name, each in found.models.items()
    }


def with_staged(found: World, hub: Hub, candidates: Iterable[PlanEntry | Pair]) -> World:
    """The same with the pull requests that hold candidates' weights, whichever of us opened them.

    A request for each repo that exists, and two more where any pull request there says that it is a release.
    """
    repos = sorted({each.target_repo for each in candidates if each.target_repo in found.targets})
    pulls = [
        HubPull(key=each.key, repo_id=each.repo_id, number=each.pull.num, status=each.pull.status)
        for each in hubpulls.staged(hub, repos)
    ]
    return replace(found, staged={each.key: each for each in sorted(pulls, key=lambda each: each.number)})


def usable_recipes(hub: Hub, names: Iterable[str] | None = None) -> Recipes:
    """The shipped recipes as releases are made by them: pinned, or on an embedded Hub with its stand-ins."""
    usable, unusable = [], {}
    for name in recipes.names() if names is None else names:
        try:
            recipe = recipes.load(name)
            if hub.embedded:
                recipe, _ = recipe_pins.for_embedded_hub(recipe, hub)
        except (RecipeError, InputError) as e:
            log.warning(f"recipe {name}: {e.what}")
            unusable[name] = e.what
            continue
        if unpinned := recipe.unpinned():
            unusable[name] = f"{', '.join(unpinned)} is unpinned: `release-bot recipes pin {name}`"
        else:
            usable.append(recipe)
    return Recipes(usable=usable, unusable=unusable)
