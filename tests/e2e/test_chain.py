"""The whole chain by the real workflow files: act, an emulated GitHub, the embedded Hub, four identities.

A base appears → watch → matrix → build → evaluate → card → review → merge → public; its template changes → a
metadata release, without an engine; a newer base appears → its release, of which the older one's card speaks.
Between them the same again, which changes nothing. The engine runs for the two bases only.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chain as chains
import pytest
from acting import Ran
from chain import ORG, Chain
from huggingface_hub import CommitOperationAdd

from bot.demo import rehearsal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

BASE, FIXTURE = rehearsal.BASE, rehearsal.FIXTURE
NEXT_BASE = "Qwen/Qwen3.6-tiny"
REPO = f"{ORG}/Qwen3.5-tiny-GPTQ-FOEM-4bit-g32"
NEXT_REPO = f"{ORG}/Qwen3.6-tiny-GPTQ-FOEM-4bit-g32"
GPU_JOBS = {"build", "evaluate"}
EVERY_JOB = {"plan", "refuse", "prepare", *GPU_JOBS, "card", "finish", "dashboard"}
PUBLISHING = {"select", "publish", "curate", "record"}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    with chains.running(folder, home, publishers=[REPO, NEXT_REPO]) as found:
        yield found


@dataclass(frozen=True, kw_only=True)
class Released:
    """The runs that made a release, and its pull request."""

    built: Ran
    checked: Ran
    commented: Ran
    published: Ran
    pull: Any


def succeeded(ran: Ran, jobs: set[str]) -> None:
    """Exactly these jobs ran, each to its end, and no secret stands in the log."""
    assert ran.jobs == dict.fromkeys(jobs, "success"), ran.log[-6000:]
    assert ran.status == 0
    assert {each.result for each in ran.steps} == {"success"}
    assert chains.leaks(ran) == []


def reviewed_and_merged(chain: Chain, built: Ran) -> Released:
    (pull,) = chain.pulls()
    checked, commented = chain.review(pull)
    published = chain.merge(pull.number)
    return Released(built=built, checked=checked, commented=commented, published=published, pull=pull)


# ── nothing costs an engine ────────────────────────────────────────────────────────────────


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(chain: Chain):
    before = chain.documents()
    ran = chain.by_hand(BASE, dry_run=True)
    succeeded(ran, {"prepare", "finish"})
    assert "dry_run" in ran.log
    assert REPO in ran.log
    assert chain.documents() == before
    assert not chain.hub.exists(REPO)


# ── the first release ──────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def raced(chain: Chain) -> tuple[Ran, Ran]:
    """The schedule and a person start the same release at the same moment."""
    with ThreadPoolExecutor(2) as pool:
        watched, asked = pool.submit(chain.tick), pool.submit(chain.by_hand, BASE)
        return watched.result(), asked.result()


@pytest.fixture(scope="module")
def first(chain: Chain, raced: tuple[Ran, Ran]) -> Released:
    (built,) = [each for each in raced if "build" in each.jobs]
    return reviewed_and_merged(chain, built)


def test_of_two_runners_one_wins_and_the_other_leaves_no_trace(chain: Chain, raced: tuple[Ran, Ran]):
    winner, loser = sorted(raced, key=lambda each: "build" not in each.jobs)
    assert {"prepare", *GPU_JOBS, "card", "finish"} <= winner.jobs.keys(), winner.log[-6000:]
    assert not (GPU_JOBS | {"card"}) & loser.jobs.keys()
    assert (winner.status, loser.status) == (0, 0)
    assert [path for path in chain.documents() if path.startswith(("attempts/", "leases/"))] == []
    assert len(list(chain.hub.pull_requests(REPO))) == 1


def test_a_base_that_appears_is_released(chain: Chain, first: Released):
    assert first.built.results("build")["Build"] == "success"
    assert first.built.results("evaluate")["Evaluate"] == "success"
    succeeded(first.checked, {"check"})
    succeeded(first.commented, {"comment", "closed"})
    succeeded(first.published, PUBLISHING)
    assert not [path for path in chain.documents() if path.startswith("attempts/")]  # `record` saw it succeed
    state = chain.hub.state(REPO)
    assert not state.private
    assert {"README.md", "evidence.json", "model.safetensors.index.json"} & state.files.keys()
    key = first.pull.head.ref.removeprefix("release/")
    assert [tag.name for tag in chain.hub.api.list_repo_refs(REPO).tags] == [f"release-{key}"]
    (collection,) = chain.hub.api.list_collections(owner=ORG)
    assert REPO in [item.item_id for item in chain.hub.api.get_collection(collection.slug).items]


def test_its_pull_request_says_what_a_reviewer_needs(chain: Chain, first: Released):
    body = first.pull.body
    for wanted in ("## Gates", "## TL;DR", "## Change", "Plots", "/override"):
        assert wanted in body
    comments = [each.body for each in chain.github.client().comments(first.pull.number)]
    assert sum("### The card holds" in each for each in comments) == 1
    assert not {each for name in chains.TOKENS if (each := chains.token_of(name)) in body}


def test_the_same_again_changes_nothing(chain: Chain, first: Released):
    hub, state = chain.hub.state(REPO), chain.documents()
    succeeded(chain.tick(), {"plan", "refuse", "dashboard"})
    succeeded(chain.by_hand(BASE), {"prepare", "finish"})
    checkout = chain.checkout.folder
    before = chains.acting.git(checkout, "rev-parse", "HEAD^1")
    succeeded(chain.push(before, chains.acting.git(checkout, "rev-parse", "HEAD")), PUBLISHING)
    assert chain.hub.state(REPO) == hub
    assert chain.documents() == state
    (after,) = (issue.body for issue in chain.github.client().issues(label="release-bot-dashboard"))
    assert "1 published" in after
    assert len(chain.pulls("all")) == 1


# ── only the template changes ──────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def updated(chain: Chain, first: Released) -> Released:
    template = Path(chain.hub.api.hf_hub_download(BASE, "chat_template.jinja")).read_bytes()
    change = CommitOperationAdd("chat_template.jinja", template + b"{# mended #}\n")
    chain.hub.api.create_commit(BASE, [change], commit_message="Mend the template")
    return reviewed_and_merged(chain, chain.tick("repository_dispatch"))


def test_a_changed_template_is_a_metadata_release(chain: Chain, first: Released, updated: Released):
    succeeded(updated.built, EVERY_JOB - {"evaluate"})
    succeeded(updated.published, PUBLISHING)
    ours, theirs = (chain.hub.state(each).files["chat_template.jinja"] for each in (REPO, BASE))
    assert ours == theirs
    tags = {tag.name: tag.target_commit for tag in chain.hub.api.list_repo_refs(REPO).tags}
    old, new = (chain.hub.state(REPO, tags[f"release-{each.pull.head.ref[8:]}"]) for each in (first, updated))
    weights = [path for path in new.files if path.endswith(".safetensors")]
    assert weights
    assert [new.files[path] for path in weights] == [old.files[path] for path in weights]
    assert "**A metadata release.**" in Path(chain.hub.api.hf_hub_download(REPO, "README.md")).read_text()


# ── a newer base ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def renewed(chain: Chain, updated: Released) -> Released:
    # The very files that the older one first had: what was measured of them is found, less what has a name.
    chain.hub.api.create_repo(NEXT_BASE)
    files = [path for path in sorted(FIXTURE.rglob("*")) if path.is_file()]
    additions = [CommitOperationAdd(path.relative_to(FIXTURE).as_posix(), str(path)) for path in files]
    chain.hub.api.create_commit(NEXT_BASE, additions, commit_message="Release")
    return reviewed_and_merged(chain, chain.tick())


def test_a_newer_base_is_released_and_the_older_one_s_card_says_so(chain: Chain, renewed: Released):
    succeeded(renewed.built, EVERY_JOB)
    succeeded(renewed.published, PUBLISHING)
    assert not chain.hub.state(NEXT_REPO).private
    (said,) = [each for each in chain.hub.pull_requests(REPO) if "new version" in each.title]
    assert said.title.endswith(NEXT_REPO)
    chain.hub.merge(REPO, said.num, comment="By a person: the curator's token may only propose.")
    assert chain.hub.state(REPO).card["new_version"] == NEXT_REPO
