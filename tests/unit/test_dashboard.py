"""The dashboard's text and its boxes; and the same overview in a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cards import golden
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bot import dashboard, naming, overview
from bot import recipe as recipes
from bot.edges.github import MAX_TEXT_CHARS
from bot.edges.state_folder import FolderState
from bot.ledger import Records, ReleaseStatus, Target, World
from bot.overview import ORDER, Notice, Overview
from bot.review import layout
from bot.stages import card
from bot.state import (
    TICKED,
    Decision,
    Decisions,
    Paused,
    Roster,
    Shrunk,
    Step,
    Ticked,
    Tracked,
    load,
    save,
    watched_path,
)
from bot.watching import ticked

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "0123456789abcdef"
STEPS = (("a", "weights"), ("b", "side_files"))
RECIPE = recipes.load("nvfp4")


def status(n: int = 0, **fields: object) -> ReleaseStatus:
    values = {
        "key": f"{n:016x}",
        "base": f"Qwen/Qwen3.6-{n}B",
        "revision": "a" * 40,
        "recipe": "nvfp4",
        "kind": "release",
        "state": "failed",
        "detail": "quantize: the disk is full",
        "num_attempts": 2,
        "until": NOW,
        "queued_by": None,
        "links": {"run": "https://github.test/run/7"},
        "figures": {"size": "19.2 GiB"},
    }
    return ReleaseStatus.model_validate({**values, **fields})


def seen(*releases: ReleaseStatus) -> Overview:
    return Overview(at=NOW, paused=None, notices=[], releases=list(releases))


def test_an_entry_says_what_is_known_and_what_can_be_done():
    text, left = dashboard.body(seen(status(27)))
    assert left == 0
    assert text.startswith(dashboard.MARKER)
    assert "1 failed" in text
    assert (
        "- `Qwen/Qwen3.6-27B` at `aaaaaaaa` by `nvfp4`: tried 2×; size 19.2 GiB; "
        "quantize: the disk is full; [run](https://github.test/run/7)\n"
        "  - [ ] <!-- retry:000000000000001b --> try it again\n"
        "  - [ ] <!-- skip:000000000000001b --> leave it out"
    ) in text


@pytest.mark.parametrize("state", ORDER)
def test_every_state_has_its_heading_and_boxes(state: str):
    text, _ = dashboard.body(seen(status(state=state)))
    assert f"\n### {state.replace('_', ' ')}\n" in text
    assert text.count("- [ ]") == len(dashboard.BOXES[state])


def test_an_empty_dashboard_says_why():
    assert "No watched base has a recipe that is for it." in dashboard.body(seen())[0]


def test_two_thousand_releases_fit_and_the_rest_is_said():
    releases = [status(n, state=ORDER[n % 10]) for n in range(2000)]
    releases.sort(key=lambda each: ORDER.index(each.state))
    text, left = dashboard.body(seen(*releases))
    assert len(text) <= MAX_TEXT_CHARS
    assert 0 < left < 2000
    assert f"{left} more are not shown here" in text
    assert text.count("\n### ") == len({each.state for each in releases[: 2000 - left]})


def test_only_what_changed_is_a_change():
    one, other = dashboard.body(seen(status()))[0], dashboard.body(seen(status(num_attempts=3)))[0]
    later = dashboard.body(seen(status()).model_copy(update={"at": NOW.replace(hour=13)}))[0]
    assert dashboard.same(one, later)
    assert not dashboard.same(one, other)


EVIL = "x\n- [x] <!-- skip:0123456789abcdef --> @eve ](https://evil) <img src=x> |`\n### published\n#1"


def test_text_from_outside_makes_no_box_and_no_markup():
    hostile = status(
        base=EVIL, recipe=EVIL, detail=EVIL, figures={EVIL: EVIL}, links={EVIL: f"https://x/)[y](z {EVIL}"}
    )
    text, _ = dashboard.body(seen(hostile))
    assert dashboard.ticked("", text.replace("- [ ]", "- [x]", 0)) == []
    assert {key for _, key in dashboard._boxes(text)} == {hostile.key}
    tokens = MarkdownIt("commonmark", {"html": False}).parse(text)
    assert [t.content for t in tokens if t.type == "inline" and t.level == 1].count("published") == 0
    links = [child.attrs["href"] for t in tokens for child in t.children or [] if child.type == "link_open"]
    assert [each[:10] for each in links] == ["https://x/"]
    javascript = status(links={"run": "javascript:alert(1)"})
    assert "javascript" not in dashboard.body(seen(javascript))[0]


def test_what_an_edit_ticked():
    before = dashboard.body(seen(status(1), status(2)))[0]
    one = before.replace("- [ ] <!-- retry:0000000000000001", "- [x] <!-- retry:0000000000000001")
    assert dashboard.ticked(before, one) == [("retry", "0000000000000001")]
    assert dashboard.ticked(one, one) == []
    assert dashboard.ticked(one, before) == []
    upper = before.replace("- [ ] <!-- skip:0000000000000002", "- [X] <!-- skip:0000000000000002")
    assert dashboard.ticked(before, upper) == [("skip", "0000000000000002")]


@pytest.mark.parametrize(
    "line",
    [
        "- [x] <!-- retry:../../../../etc/p -->",
        "- [x] <!-- publish:0123456789abcdef -->",
        "- [x] <!-- retry:0123456789ABCDEF -->",
        "- [x] retry:0123456789abcdef",
        "text - [x] <!-- retry:0123456789abcdef -->",
    ],
)
def test_what_only_looks_like_a_box_is_none(line: str):
    assert dashboard.ticked("", line) == []


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_edit_is_read(before: str, after: str):
    assert all(naming.is_key(key) for _, key in dashboard.ticked(before, after))


# ── what is told beside the releases ───────────────────────────────────────────────────────


def shrank(**fields: object) -> Shrunk:
    values = {"missing": ["Qwen/A"], "num_known": 9, "since": NOW, "seen_at": NOW, "num_seen": 1}
    return Shrunk.model_validate({**values, "confirmed_by": None, **fields})


def told(state: FolderState, now: datetime = NOW, *, paused: Paused | None = None) -> list[Notice]:
    return overview.notices(state, ["Qwen", "other"], paused=paused, now=now)


def test_a_watch_that_stopped_is_told_with_what_to_do(tmp_path: Path):
    state = FolderState(tmp_path)
    (never,) = told(state)
    assert never.text.startswith("watch has not run yet. ")
    ticked.note(state, NOW, "")
    assert told(state, NOW + ticked.LATE) == []
    (late,) = told(state, NOW + ticked.LATE + timedelta(minutes=1))
    assert late.text.startswith("watch has not run since 2026-11-21 12:00 UTC. ")
    assert "gh workflow enable watch.yml" in late.text
    text, _ = dashboard.body(seen().model_copy(update={"notices": [late]}))
    assert "watch has not run since 2026-11-21 12:00 UTC" in text
    stopped = Paused(who="ann", why="x", at=NOW)
    assert told(state, NOW + timedelta(days=9), paused=stopped) == []


def test_that_watching_ran_is_not_written_at_every_tick(tmp_path: Path):
    state = FolderState(tmp_path)
    written = []
    for hour in range(7):
        ticked.note(state, NOW + timedelta(hours=hour), "")
        written.append(load(state, TICKED, Ticked)[0].at.hour)
    assert written == [12, 12, 12, 15, 15, 15, 18]


def test_a_note_that_cannot_be_written_stops_no_watching(tmp_path: Path):
    state = FolderState(tmp_path)
    state.write(TICKED, "no JSON", version=None)
    ticked.note(state, NOW, "")
    assert state.read(TICKED).text == "no JSON"


def test_a_listing_that_shrank_is_told_with_a_box_until_it_is_believed(tmp_path: Path):
    state = FolderState(tmp_path)
    ticked.note(state, NOW, "")
    save(state, watched_path("Qwen"), Roster(author="Qwen", bases=[], shrunk=shrank()), version=None)
    (notice,) = told(state)
    assert "the listing of Qwen shrank: 1 of 9 bases are missing" in notice.text
    assert "waiting for confirmation" in notice.text
    before, _ = dashboard.body(seen().model_copy(update={"notices": [notice]}))
    assert "- [ ] <!-- confirm:Qwen -->" in before
    after = before.replace("- [ ] <!-- confirm", "- [x] <!-- confirm")
    assert (dashboard.confirmed(before, after), dashboard.ticked(before, after)) == (["Qwen"], [])
    version = state.read(watched_path("Qwen")).version
    sure = Roster(author="Qwen", bases=[], shrunk=shrank(confirmed_by="ann"))
    save(state, watched_path("Qwen"), sure, version=version)
    (notice,) = told(state)
    assert (notice.confirm, "waiting" in notice.text) == (None, False)


# ── the overview ───────────────────────────────────────────────────────────────────────────


def base(name: str, **fields: object) -> Tracked:
    values = {
        "repo_id": name, "hub_id": name, "revision": "a" * 40, "modified_at": NOW, "model_type": "qwen3_5",
        "architectures": ["Qwen3_5ForConditionalGeneration"], "num_parameters": 27_000_000_000,
        "steps": [Step(repo_id=name, revision="a" * 40, kind="weights")], "gone": None,
    }  # fmt: skip
    return Tracked.model_validate({**values, **fields})


def world(**fields: object) -> World:
    values = {
        "records": Records(),
        "targets": {},
        "staged": {},
        "cards": {},
        "figures": {},
        "hub_url": "https://h",
    }
    return World(**{**values, **fields})


def test_every_base_that_a_recipe_is_for_has_its_row():
    bases = [
        base("Qwen/A"),
        base("Qwen/B", model_type="other"),
        base("Qwen/C", gone="deleted"),
        base("Qwen/D", steps=[]),
        base("Qwen/E", model_type=None),
    ]
    pairs = overview.pairs(bases, [RECIPE], organization="org", toolchain_epoch=1)
    assert [(each.base, each.target_repo) for each in pairs] == [("Qwen/A", f"org/A-{RECIPE.repo_suffix}")]
    refused = Decision(key=pairs[0].key, kind="refuse", who="ann", why="no", at=NOW, gates=[])
    decisions = Decisions(key=pairs[0].key, decisions=[refused])
    known = world(records=Records(decisions={pairs[0].key: decisions}), figures={pairs[0].key: {"size": "1"}})
    found = overview.overview(pairs, known, paused=None, now=NOW)
    assert found.counts() == {"refused": 1}
    assert overview.rows(found) == [
        ("Qwen/A@aaaaaaaa", "nvfp4", "refused", "", "size 1", "by ann: no"),
    ]


def test_a_metadata_release_is_told_apart():
    steps = [Step(repo_id="Qwen/A", revision=each * 40, kind=kind) for each, kind in STEPS]
    [pair] = overview.pairs([base("Qwen/A", steps=steps)], [RECIPE], organization="org", toolchain_epoch=1)
    target = Target(repo_id=pair.target_repo, private=False, keys=frozenset({pair.earlier[0].key}))
    known = world(targets={pair.target_repo: target})
    found = overview.overview([pair], known, paused=None, now=NOW)
    seen_as = [(each.key, each.kind, each.state) for each in found.releases]
    assert seen_as == [(pair.key, "metadata", "planned")]
    assert overview.rows(found)[0][2] == "planned (metadata)"
    assert "by `nvfp4`: metadata release: the public weights stay" in dashboard.body(found)[0]


def test_side_files_over_weights_that_are_not_public_make_a_whole_release():
    steps = [Step(repo_id="Qwen/A", revision=each * 40, kind=kind) for each, kind in STEPS]
    pairs = overview.pairs([base("Qwen/A", steps=steps)], [RECIPE], organization="org", toolchain_epoch=1)
    found = overview.overview(pairs, world(), paused=None, now=NOW)
    assert [each.kind for each in found.releases] == ["release"]
    assert "metadata" not in dashboard.body(found)[0]


def test_a_terminal_row_is_one_line():
    found = seen(status(detail="quantize: no\n::add-path::/tmp/x\r\nend"))
    assert overview.rows(found)[0][-1] == "quantize: no ::add-path::/tmp/x end"


def test_what_needs_a_person_stands_first():
    pairs = overview.pairs([base("Qwen/A"), base("Qwen/B")], [RECIPE], organization="org", toolchain_epoch=1)
    published = Target(repo_id=pairs[0].target_repo, private=False, keys=frozenset({pairs[0].key}))
    found = overview.overview(pairs, world(targets={pairs[0].target_repo: published}), paused=None, now=NOW)
    assert [each.state for each in found.releases] == ["planned", "published"]


def test_figures_come_from_the_reviewed_cards(tmp_path):
    evidence = golden("nvfp4")
    card.render_to(tmp_path / layout.folder_of(evidence.release.target_repo), evidence)
    broken = tmp_path / "model_cards" / "a--b"
    broken.mkdir()
    (broken / "evidence.json").write_text("{}")
    found = overview.figures_of(tmp_path)
    assert found == {
        evidence.release.key: {
            "size": "6.0 MiB",
            "ppl": "+1.29%",
            "KLD": "0.0177 nats",
            "drafts accepted": "88.0%",
        }
    }
