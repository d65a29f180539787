"""One author reconciled with the Hub: list, tell apart, look at what moved, ask for what is missing, record.

Order of writing: a base's manifest with its steps first, the author's roster last. A run that dies in between
leaves a roster that is behind; the next tick looks again, finds the manifest as it is, and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from bot import log
from bot.changes import is_weight
from bot.config import Watch
from bot.edges import listing
from bot.edges.hub import Hub, RepoState
from bot.edges.listing import Listed, Listing
from bot.errors import InfrastructureError, InputError, ReleaseBotError
from bot.offshoots import passed_over
from bot.state import Roster, Seen, State, Step, Tracked, load, save, seen_path, watched_path
from bot.watching import rules, shrunk
from bot.watching.found import Change, Skipped

MAX_FILES_TOLD: Final = 50


@dataclass
class Tick:
    """One author in one tick: what is found out about it, in the order of the methods."""

    author: str
    settings: Watch
    hub: Hub
    state: State
    now: datetime
    recorded: bool
    changes: list[Change] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failed: list[Skipped] = field(default_factory=list)
    bases: list[Tracked] = field(default_factory=list)
    kept: dict[str, Tracked] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    num_listed: int = 0
    num_calls: int = 0

    def run(self) -> None:
        roster, version = load(self.state, watched_path(self.author), Roster)
        known = {each.repo_id: each for each in roster.bases} if roster else {}
        self.num_calls += 1
        found = listing.models_of(self.hub, self.author)
        self.num_calls += found.num_calls - 1
        self.num_listed = len(found.models)
        self.ids = {each.hub_id for each in found.models.values()}
        held = shrunk.noted(roster.shrunk if roster else None, known, found, self.now)
        if roster and held:
            self.skip(self.author, "shrunk", shrunk.told(self.author, held))
            if not shrunk.is_believed(held):
                self._save(roster, roster.model_copy(update={"shrunk": held}), version)
                return
        for name, why in found.unreadable:
            self.skip(name, "unreadable", why)
        if not found.models and not known:
            self.skip(self.author, "no_models", "no model is listed under this name: check its spelling")
        moved = rules.moved(known, found)
        self._reconcile(known, moved, found)
        self._missing(known, {each.repo_id for each in moved.values()}, found)
        bases = sorted(self.kept.values(), key=lambda each: each.repo_id)
        self._save(roster, Roster(author=self.author, bases=bases, shrunk=held), version)

    def _save(self, before: Roster | None, after: Roster, version: str | None) -> None:
        if self.recorded and after != before and (after.bases or before):
            save(self.state, watched_path(self.author), after, version=version)

    def skip(self, repo_id: str, code: str, reason: str) -> None:
        self.skipped.append(Skipped(repo_id=repo_id, code=code, reason=reason))

    def fail(self, repo_id: str, error: ReleaseBotError) -> None:
        log.warning(f"{repo_id}: {error.what}")
        code = "infrastructure" if isinstance(error, InfrastructureError) else error.title
        reason = ": ".join(filter(None, (error.what, error.why)))[:500]
        self.failed.append(Skipped(repo_id=repo_id, code=code, reason=reason))

    # ── each listed model ──────────────────────────────────────────────────────────────────

    def _reconcile(self, known: dict[str, Tracked], moved: dict[str, Tracked], found: Listing) -> None:
        """What stands as it was is taken over; the others are looked at: the renamed, then the newest."""
        moving: list[tuple[Listed, Tracked | None]] = []
        for listed in found.models.values():
            before = moved.get(listed.repo_id) or rules.same_name(known.get(listed.repo_id), listed, moved)
            if before:
                self.kept[listed.repo_id] = before  # and stays so unless something below says otherwise
            if passed := passed_over(listed, self.settings):
                self.skip(passed.repo_id, passed.code, passed.reason)
            elif before and before.repo_id == listed.repo_id and before.revision == listed.revision:
                self._keep(rules.tracked(listed, listed.revision, before.steps))
            elif wait := rules.settling(listed, self.settings, self.now):
                self.skip(listed.repo_id, "settling", wait)
            else:
                moving.append((listed, before))
        moving.sort(
            key=lambda each: (not rules.is_renamed(*each), each[0].gated, *rules.newest_first(each[0]))
        )
        for listed, _ in moving[self.settings.max_changes :]:
            self.skip(listed.repo_id, "deferred", "enough was looked at in this tick: the next one goes on")
        for listed, before in moving[: self.settings.max_changes]:
            try:
                self._look(listed, before)
            except ReleaseBotError as e:
                self.fail(listed.repo_id, e)

    def _keep(self, tracked: Tracked) -> None:
        self.kept[tracked.repo_id] = tracked
        self.bases.append(tracked)

    def _look(self, listed: Listed, before: Tracked | None) -> None:
        """Ask for one base's files, class what changed, and record it."""
        if listed.gated and self._closed(listed.repo_id):
            return
        self.num_calls += 1
        found = listing.look(self.hub, listed.repo_id)
        files = rules.manifest(found)
        if not any(map(is_weight, files)):
            self.skip(listed.repo_id, "no_weights", "it holds no safetensors (yet)")
            return
        old_path = seen_path(before.repo_id if before else listed.repo_id)
        seen, version = load(self.state, old_path, Seen)
        if before is None and seen and seen.hub_id != listed.hub_id and seen.hub_id in self.ids:
            self.skip(
                listed.repo_id, "deferred", "its name was another base's, which has to be told apart first"
            )
            return
        kind, paths = rules.kind_of(seen, before, listed, files)
        steps = rules.steps_after(seen, kind, listed.repo_id, found.revision)
        renamed = before.repo_id if before and rules.is_renamed(listed, before) else None
        if self.recorded:
            self._record(listed, found, files, steps, renamed=renamed, version=version)
        self._keep(rules.tracked(listed, found.revision, steps))
        self.changes.append(
            Change(
                repo_id=listed.repo_id,
                revision=found.revision,
                kind=kind,
                files=paths[:MAX_FILES_TOLD],
                num_files=len(paths),
                since_revision=seen.revision if seen else before.revision if before else None,
                renamed_from=renamed,
            )
        )

    def _closed(self, repo_id: str) -> bool:
        self.num_calls += 1
        closed = listing.may_read(self.hub, repo_id)
        if closed:
            self.skip(repo_id, "gated", closed)
        return closed is not None

    def _record(
        self,
        listed: Listed,
        found: RepoState,
        files: dict[str, str],
        steps: list[Step],
        *,
        renamed: str | None,
        version: str | None,
    ) -> None:
        """The new manifest, under the new name first: a break in between leaves one too many, never none."""
        path = seen_path(listed.repo_id)
        document = Seen(
            repo_id=listed.repo_id,
            hub_id=listed.hub_id,
            revision=found.revision,
            files=files,
            steps=steps,
            seen_at=self.now,
            renamed_from=renamed,
        )
        there = self.state.read(path) if renamed else None
        save(self.state, path, document, version=(there.version if there else None) if renamed else version)
        if renamed and version:
            self.state.delete(seen_path(renamed), version)

    # ── those that are not listed any more ─────────────────────────────────────────────────

    def _missing(self, known: dict[str, Tracked], renamed: set[str], found: Listing) -> None:
        """Those known as gone stay so; of the others so many are asked for in a tick."""
        absent = [each for name, each in known.items() if name not in found.models and name not in renamed]
        self.kept |= {each.repo_id: each for each in absent}
        for base in [each for each in absent if each.gone is None][: self.settings.max_changes]:
            try:
                self.kept[base.repo_id] = base.model_copy(update={"gone": self._ask_for(base)})
            except ReleaseBotError as e:
                self.fail(base.repo_id, e)
        for each in absent:
            if gone := self.kept[each.repo_id].gone:
                self.skip(each.repo_id, "gone", gone)

    def _ask_for(self, base: Tracked) -> str | None:
        """Why it is not listed; None when it is there, and the listing was stale. One request."""
        self.num_calls += 1
        try:
            there = listing.look(self.hub, base.repo_id)
        except InputError as e:
            return f"it was deleted or closed: {e.what}"
        if there.repo_id.lower() != base.repo_id.lower():
            return f"it was moved to {there.repo_id}"
        self.skip(base.repo_id, "unlisted", "the listing lacks it, but it is there: the listing is stale")
        return None
