"""The plan over stored facts: what starts and what does not, never twice, never where it cannot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bot import fleet as fleets
from bot import naming, needs, plan
from bot import recipe as recipes
from bot.attempts import BACKOFF
from bot.fleet import Fleet
from bot.ledger import CardPull, HubPull, Records, Target, World
from bot.models import Base
from bot.plan import Keys, Plan, Recipes
from bot.state import Attempt, Attempts, Decision, Decisions, Lease, Queued, Step, Tracked, Unchanged

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
RECIPES = [recipes.load(name) for name in recipes.names()]
ONE = next(each for each in RECIPES if each.name == "gptq-w4a16-g128")
ORG = "release-bot"
TARGET = f"{ORG}/Qwen3.6-27B-{ONE.repo_suffix}"
KEYS = Keys(1)
FLEET = fleets.load()


def step(n: int, kind: str = "weights", name: str = "Qwen/Qwen3.6-27B") -> Step:
    return Step(repo_id=name, revision=f"{n:040x}", kind=kind)


def base(*steps: Step, name: str = "Qwen/Qwen3.6-27B", **fields: object) -> Tracked:
    values = {
        "repo_id": name,
        "hub_id": name,
        "revision": (steps or (step(1),))[-1].revision,
        "modified_at": NOW,
        "model_type": "qwen3_5",
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "num_parameters": 27_000_000_000,
        "steps": list(steps or (step(1, name=name),)),
        "gone": None,
    }
    return Tracked.model_validate({**values, **fields})


def key(n: int, name: str = "Qwen/Qwen3.6-27B") -> str:
    return naming.release_key(Base(repo_id=name, revision=f"{n:040x}"), ONE, 1)


def world(**fields: object) -> World:
    records = {name: fields.pop(name) for name in list(fields) if name in Records.__dataclass_fields__}
    values = {"targets": {}, "staged": {}, "cards": {}, "figures": {}, "hub_url": "https://hub.test"}
    return World(records=Records(**records), **{**values, **fields})  # type: ignore[arg-type]


def made(
    *bases: Tracked, by: Recipes | None = None, on: Fleet = FLEET, now: datetime = NOW, **fields: object
) -> Plan:
    paused = fields.pop("paused", None)
    return plan.plan(
        bases, by or Recipes(usable=[ONE]), world(**fields), on,
        organization=ORG, keys=KEYS, now=now, paused=paused,  # type: ignore[arg-type]
    )  # fmt: skip


def attempt(kind: str, at: datetime = NOW, n: int = 1) -> Attempt:
    return Attempt(
        key=key(n), base="Qwen/Qwen3.6-27B", revision="a" * 40, recipe=ONE.name, stage="quantize",
        failure_class=kind, what="the disk is full", at=at, run_url="https://github.test/7", run_id="7",
    )  # fmt: skip


def attempts(*kinds: str) -> dict[str, Attempts]:
    return {key(1): Attempts(key=key(1), attempts=[attempt(each) for each in kinds])}


def decided(kind: str, at: datetime = NOW) -> dict[str, Decisions]:
    said = Decision(key=key(1), kind=kind, who="ada", why="because", at=at, gates=[])
    return {key(1): Decisions(key=key(1), decisions=[said])}


def code(found: Plan) -> str | None:
    assert len(found.entries) + len(found.skips) == 1
    return found.skips[0].code if found.skips else None


def public(*numbers: int, private: bool = False) -> dict[str, Target]:
    return {TARGET: Target(repo_id=TARGET, private=private, keys=frozenset(key(n) for n in numbers))}


def test_a_new_base_is_planned_by_every_recipe_that_applies():
    found = made(base(), by=Recipes(usable=RECIPES))
    assert [each.recipe for each in found.entries] == sorted(each.name for each in RECIPES)
    entry = next(each for each in found.entries if each.recipe == ONE.name)
    assert (entry.key, entry.kind, entry.target_repo, entry.predecessor) == (key(1), "release", TARGET, None)
    assert entry.runs_on == list(FLEET.pick(needs.of_release(ONE, 27_000_000_000)).labels)
    assert 0 < entry.timeout_minutes <= 7200
    assert found.skips == []


def test_keys_are_those_of_the_release_itself():
    assert Keys(3).of("Qwen/x", "b" * 40, ONE) == naming.release_key(
        Base(repo_id="Qwen/x", revision="b" * 40), ONE, 3
    )
    assert Keys(3).of("Qwen/x", "b" * 40, ONE) != Keys(4).of("Qwen/x", "b" * 40, ONE)


def card(state: str) -> dict[str, CardPull]:
    return {key(1): CardPull(key=key(1), number=3, state=state, url="u")}  # type: ignore[arg-type]


def weights(status: str) -> dict[str, HubPull]:
    return {key(1): HubPull(key=key(1), repo_id=TARGET, number=2, status=status)}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, None),
        ({"targets": public(1)}, "published"),
        ({"targets": public(1, private=True)}, "waiting_for_publisher"),
        ({"targets": public(2)}, None),
        ({"cards": card("open")}, "in_review"),
        ({"cards": card("closed")}, "refused"),
        ({"cards": card("merged")}, "waiting_for_publisher"),
        ({"staged": weights("closed")}, "refused"),
        ({"staged": weights("open")}, None),
        ({"staged": weights("open"), "cards": None}, "staged"),
        ({"decisions": decided("refuse")}, "refused"),
        ({"decisions": decided("skip")}, "skipped"),
        ({"decisions": decided("retry")}, None),
        ({"decisions": decided("override")}, None),
        ({"attempts": attempts("infrastructure")}, "failed"),
        ({"attempts": attempts("infrastructure", "infrastructure", "infrastructure")}, "quarantined"),
        ({"attempts": attempts("audit")}, "quarantined"),
        ({"unreadable": {key(1): "attempts/x.json is not valid"}}, "quarantined"),
    ],
)  # fmt: skip
def test_what_is_done_decided_or_failed_is_not_started_again(facts: dict[str, object], expected: str | None):
    assert code(made(base(), **facts)) == expected


def test_a_retry_takes_back_what_was_before_it():
    closed = card("closed")
    later = decided("retry", NOW + timedelta(minutes=1))
    assert code(made(base(), cards=closed, decisions=later)) is None
    assert code(made(base(), attempts=attempts("gate"), decisions=later)) is None
    assert code(made(base(), targets=public(1), decisions=later)) == "published"
    both = Decisions(key=key(1), decisions=[*later[key(1)].decisions,
                     *decided("refuse", NOW + timedelta(minutes=2))[key(1)].decisions])  # fmt: skip
    assert code(made(base(), decisions={key(1): both})) == "refused"


def test_a_failed_one_says_when_it_is_tried_again():
    (skip,) = made(base(), attempts=attempts("infrastructure")).skips
    assert skip.until == NOW + BACKOFF[0]
    assert code(made(base(), attempts=attempts("infrastructure"), now=NOW + BACKOFF[0])) is None


def lease(at: datetime = NOW) -> dict[str, Lease]:
    return {key(1): Lease(key=key(1), base="b", revision="a" * 40, recipe="r", holder="run-1", run_url="",
                          taken_at=at, expires_at=at + timedelta(hours=1))}  # fmt: skip


def queued(at: datetime = NOW) -> dict[str, Queued]:
    return {key(1): Queued(run_id="7", keys=[key(1)], at=at, expires_at=at + timedelta(days=1))}


def test_what_is_being_built_or_queued_is_not_queued_twice():
    assert code(made(base(), leases=lease())) == "building"
    assert code(made(base(), queued=queued())) == "queued"
    assert code(made(base(), leases=lease(), now=NOW + timedelta(hours=2))) is None
    assert code(made(base(), queued=queued(), now=NOW + timedelta(days=2))) is None


def test_a_queue_holds_a_key_until_its_job_failed_or_a_person_said_retry():
    later = NOW + timedelta(days=3)
    long = {key(1): queued()[key(1)].model_copy(update={"expires_at": later})}
    assert code(made(base(), queued=long, attempts=attempts("infrastructure"), now=NOW + BACKOFF[0])) is None
    assert code(made(base(), queued=long, decisions=decided("retry"))) is None
    early = {key(1): Attempts(key=key(1), attempts=[attempt("infrastructure", NOW - timedelta(days=1))])}
    assert code(made(base(), queued=long, attempts=early)) == "queued"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model_type": "qwen3_5_moe"}, "not_applicable"),
        ({"architectures": ["Other"]}, "not_applicable"),
        ({"num_parameters": 10**12}, "not_applicable"),
        ({"model_type": None}, "unknown_type"),
    ],
)
def test_a_recipe_that_is_not_for_the_base_is_skipped_with_its_reason(
    fields: dict[str, object], expected: str
):
    found = made(base(**fields))
    assert code(found) == expected
    assert found.skips[0].reason


def test_what_no_runner_can_do_is_said_class_by_class():
    small = Fleet(schema_version=1, classes=tuple(c for c in FLEET.classes if c.gpu_memory_gib < 30))
    found = made(base(), on=small)
    assert code(found) == "no_runner"
    assert "hosted" in found.skips[0].reason


def test_an_unusable_recipe_is_told_of_every_base():
    found = made(base(), by=Recipes(usable=[], unusable={"nvfp4": "its calibration is unpinned"}))
    assert code(found) == "unusable_recipe"


# ── updates ────────────────────────────────────────────────────────────────────────────────


def test_new_weights_make_a_new_release_that_knows_its_predecessor():
    (entry,) = made(base(step(2)), targets=public(1)).entries
    assert (entry.kind, entry.key, entry.predecessor) == ("release", key(2), key(1))


def test_side_files_alone_make_a_metadata_release_without_a_gpu():
    found = made(base(step(1), step(2, "side_files")), targets=public(1))
    (entry,) = found.entries
    assert (entry.kind, entry.key, entry.revision, entry.predecessor) == (
        "metadata",
        key(2),
        f"{2:040x}",
        key(1),
    )
    runner = next(each for each in FLEET.classes if each.name == entry.runner_class)
    assert runner.gpu_memory_gib == 0
    assert entry.timeout_minutes <= 60


def test_side_files_pile_up_to_one_metadata_release_from_the_newest_that_is_public():
    steps = step(1), step(2, "side_files"), step(3, "side_files")
    (entry,) = made(base(*steps), targets=public(2)).entries
    assert (entry.kind, entry.key, entry.predecessor) == ("metadata", key(3), key(2))
    (entry,) = made(base(*steps), targets=public(1)).entries
    assert entry.predecessor == key(1)
    assert code(made(base(*steps), targets=public(3))) == "published"


def test_side_files_that_are_public_already_are_looked_at_once():
    """And the next ones are a metadata release of what is public."""
    found = Unchanged(key=key(2), base="Qwen/Qwen3.6-27B", revision=f"{2:040x}", recipe=ONE.name,
                      predecessor=key(1), at=NOW, run_url="")  # fmt: skip
    known = {"targets": public(1), "unchanged": {key(2): found}}
    assert code(made(base(step(1), step(2, "side_files")), **known)) == "nothing_to_change"
    steps = step(1), step(2, "side_files"), step(3, "side_files")
    (entry,) = made(base(*steps), **known).entries
    assert (entry.kind, entry.key, entry.predecessor) == ("metadata", key(3), key(1))


def test_what_was_published_before_the_one_on_main_holds_nothing_up():
    """Only the newest key is told on the Hub's main; the merged card of the earlier says it was there."""
    cards = {key(n): CardPull(key=key(n), number=n, state="merged", url="u") for n in (1, 2)}
    steps = step(1), step(2, "side_files"), step(3, "side_files")
    (entry,) = made(base(*steps), targets=public(2), cards=cards).entries
    assert (entry.kind, entry.predecessor) == ("metadata", key(2))
    assert code(made(base(step(1)), targets=public(2), cards=cards)) == "published"
    assert code(made(base(step(2)), targets=public(1), cards=cards)) == "waiting_for_publisher"


def test_side_files_of_weights_that_were_never_published_make_a_whole_release():
    steps = step(1), step(2, "side_files")
    for facts in ({}, {"decisions": decided("refuse")}, {"attempts": attempts("gate")},
                  {"cards": card("open")}):  # fmt: skip
        (entry,) = made(base(*steps), **facts).entries
        assert (entry.kind, entry.key) == ("release", key(2))


def test_a_metadata_release_waits_while_its_predecessor_is_being_published():
    merged = card("merged")
    assert code(made(base(step(1), step(2, "side_files")), cards=merged)) == "waiting_for_publisher"


@pytest.mark.parametrize("facts", [
    {"targets": public(1)}, {"cards": card("open")}, {"cards": card("merged")}, {"leases": lease()},
    {"attempts": attempts("audit")}, {"queued": queued()},
])  # fmt: skip
def test_a_target_stays_the_one_base_s_whether_it_is_due_now_or_not(facts: dict[str, object]):
    """Else the other base of that name is built once the first is published, over its weights."""
    other = base(name="Other/Qwen3.6-27B")
    found = made(base(), other, **facts)
    assert found.entries == []
    taken = next(each for each in found.skips if each.base == "Other/Qwen3.6-27B")
    assert taken.code == "target_taken"
    assert "Qwen/Qwen3.6-27B" in taken.reason


def test_the_base_whose_release_is_there_owns_the_target_in_whatever_order_they_come():
    other = base(name="Another/Qwen3.6-27B")
    found = made(other, base(), targets=public(1))
    assert {each.base: each.code for each in found.skips} == {
        "Another/Qwen3.6-27B": "target_taken",
        "Qwen/Qwen3.6-27B": "published",
    }
    assert [e.base for e in made(other, base()).entries] == ["Another/Qwen3.6-27B"]
    assert [e.base for e in made(base(), other, decisions=decided("skip")).entries] == ["Another/Qwen3.6-27B"]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [((), "waits"), (("infrastructure",), "waits"), (("refused",), "release"), (("input",), "release")],
)
def test_a_base_is_not_held_up_by_a_publish_that_failed_for_good(kinds: tuple[str, ...], expected: str):
    found = made(base(step(1), step(2, "side_files")), cards=card("merged"), attempts=attempts(*kinds))
    if expected == "waits":
        assert code(found) == "waiting_for_publisher"
    else:
        assert [(each.kind, each.key) for each in found.entries] == [("release", key(2))]


def test_a_renamed_base_is_not_released_anew_until_it_changes():
    old, new = "Qwen/Qwen3.6-27B", "Qwen/Qwen3.6-27B-Instruct"
    renamed = base(step(1), name=new)
    assert code(made(renamed, targets=public(1))) == "published"
    (entry,) = made(renamed).entries
    assert (entry.base, entry.key) == (new, key(1, new))
    assert entry.target_repo == f"{ORG}/Qwen3.6-27B-Instruct-{ONE.repo_suffix}"
    (entry,) = made(base(step(1), step(2, "side_files", name=new), name=new), targets=public(1)).entries
    assert (entry.kind, entry.predecessor) == ("metadata", key(1, old))


# ── the matrix ─────────────────────────────────────────────────────────────────────────────


def test_a_tick_starts_what_the_token_s_requests_allow_and_the_rest_is_said():
    many = [
        base(step(n, name=f"Qwen/Q{n}"), name=f"Qwen/Q{n}", modified_at=NOW - timedelta(n))
        for n in range(300)
    ]
    found = made(*many)
    assert (len(found.entries), found.num_left) == (300, 260)
    include = plan.matrix(found)["include"]
    assert len(include) == plan.MAX_JOBS == 40
    assert [each["base"] for each in include[:2]] == ["Qwen/Q0", "Qwen/Q1"]  # the newest first
    assert set(include[0]) == {
        "key", "base", "revision", "recipe", "kind", "runs_on", "timeout_minutes", "predecessor"
    }  # fmt: skip


def test_metadata_releases_come_first():
    other = base(step(7, name="Qwen/New"), name="Qwen/New", modified_at=NOW + timedelta(1))
    found = made(other, base(step(1), step(2, "side_files")), targets=public(1))
    assert [each.kind for each in found.entries] == ["metadata", "release"]


def test_two_bases_of_one_name_do_not_share_a_repo():
    found = made(base(), base(step(1, name="other/Qwen3.6-27B"), name="other/Qwen3.6-27B"))
    assert [each.base for each in found.entries] == ["Qwen/Qwen3.6-27B"]
    assert [each.code for each in found.skips] == ["target_taken"]


def test_a_paused_bot_starts_nothing_and_says_so():
    found = made(base(), paused="by ada: moving house")
    assert (found.entries, found.paused) == ([], "by ada: moving house")
    assert [each.code for each in found.skips] == ["paused"]


def test_planning_again_over_the_same_facts_gives_the_same_plan():
    bases = [base(step(n, name=f"Qwen/Q{n}"), name=f"Qwen/Q{n}") for n in range(20)]
    one, other = (made(*order, by=Recipes(usable=RECIPES)) for order in (bases, bases[::-1]))
    assert one.entries == other.entries


def test_what_a_job_needs_grows_with_the_base():
    small, large = needs.of_release(ONE, 10**9), needs.of_release(ONE, 27 * 10**9)
    assert small.gpu_memory_gib < large.gpu_memory_gib
    assert 50 < large.gpu_memory_gib < 80
    assert needs.of_release(ONE, None) == needs.of_release(ONE, ONE.applies_to.max_parameters)
    nvfp4 = next(each for each in RECIPES if each.name == "nvfp4")
    assert needs.of_release(nvfp4, 10**9).compute_capability_min == "10.0"


def test_native_inputs_that_outgrow_the_gpu_are_asked_for_in_main_memory():
    """GPTAQ's term keeps a layer's inputs for all samples: 20 GB of them stay on the GPU, 100 GB do not."""
    wanted = {each.name: needs.of_release(each, 27 * 10**9).memory_gib for each in RECIPES}
    assert wanted["gptq-foem-g32"] == wanted["nvfp4"]
    house = needs.of_release(recipes.load("house-g128"), 27 * 10**9).memory_gib
    assert 90 < house - wanted["gptq-w4a16-g128"] < 105
