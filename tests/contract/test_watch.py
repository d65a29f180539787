"""Watching, against the embedded Hub through the real client: every way in which a base can change."""

from __future__ import annotations

import json
import secrets
import struct
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from bot import localhub
from bot.config import Watch
from bot.edges import listing
from bot.edges.hub import Hub
from bot.edges.state_folder import FolderState
from bot.errors import Refused
from bot.state import PAUSED, TICKED, Paused, Roster, Seen, Shrunk, load, save, seen_path, watched_path
from bot.watch import Watched, watch
from bot.watching import shrunk

pytestmark = pytest.mark.contract
OTHER_CARD = b"---\nlicense: mit\n---\n# Other\n"
CONFIG = {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForConditionalGeneration"]}
ACCOUNTS = """
users:
  root: {admin: true}
  bot: {}
tokens:
  - {token: hf_root_token, user: root}
  - {token: hf_bot_token, user: bot, scopes: [read]}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[localhub.Running]:
    root = tmp_path_factory.mktemp("hub")
    (root / "accounts.yaml").write_text(ACCOUNTS)
    with localhub.running(root / "data", accounts=root / "accounts.yaml", token="hf_root_token") as running:
        yield running


class Author:
    """An author of one test's own, who writes; and the bot, who may only read."""

    def __init__(self, server: localhub.Running, folder: Path) -> None:
        self.name = f"author{secrets.token_hex(4)}"
        self.api = Hub(embedded=True, endpoint=server.url, token="hf_root_token").api
        self.bot = Hub(embedded=True, endpoint=server.url, token="hf_bot_token")
        self.state = FolderState(folder)

    def make(self, name: str, *, config: dict[str, object] = CONFIG, card: str = "", seed: int = 1) -> str:
        repo_id = f"{self.name}/{name}"
        self.api.create_repo(repo_id)
        self.put(repo_id, {
            "README.md": f"---\nlicense: apache-2.0\n{card}---\n# {name}\n".encode(),
            "config.json": json.dumps(config).encode(),
            "tokenizer.json": b"{}",
            "model.safetensors": weights(seed),
        })  # fmt: skip
        return repo_id

    def put(self, repo_id: str, files: dict[str, bytes | None]) -> str:
        operations = [
            CommitOperationDelete(path) if data is None else CommitOperationAdd(path, data)
            for path, data in files.items()
        ]
        return self.api.create_commit(repo_id, operations, commit_message="change").oid

    def tick(self, *, hours: float = 2, dry_run: bool = False, **settings: object) -> Watched:
        chosen = Watch(**{"authors": [self.name], **settings})  # type: ignore[arg-type]
        return watch(
            chosen, self.bot, self.state, now=datetime.now(UTC) + timedelta(hours=hours), dry_run=dry_run
        )

    def seen(self, repo_id: str) -> Seen:
        found, _ = load(self.state, seen_path(repo_id), Seen)
        assert found is not None
        return found


def weights(seed: int) -> bytes:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [seed, 4], "data_offsets": [0, 8 * seed]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8 * seed)


@pytest.fixture
def author(server: localhub.Running, tmp_path: Path) -> Author:
    return Author(server, tmp_path)


def kinds(found: Watched) -> dict[str, str]:
    return {each.repo_id.partition("/")[2]: each.kind for each in found.changes}


def codes(found: Watched) -> dict[str, str]:
    return {each.repo_id.partition("/")[2]: each.code for each in found.skipped}


def test_a_new_model_is_told_once_with_what_planning_needs(author: Author):
    repo = author.make("Qwen3.5-1B", seed=3)
    found = author.tick()
    assert kinds(found) == {"Qwen3.5-1B": "new_model"}
    (base,) = found.bases
    assert (base.model_type, base.architectures, base.num_parameters) == (
        "qwen3_5",
        CONFIG["architectures"],
        12,
    )
    assert [(each.kind, each.revision) for each in base.steps] == [
        ("weights", author.api.model_info(repo).sha)
    ]
    again = author.tick()
    assert (again.changes, again.skipped, again.failed, again.num_calls) == ([], [], [], 1)
    assert again.bases == found.bases


@pytest.mark.parametrize(
    ("files", "kind", "num_steps"),
    [
        ({"model.safetensors": weights(2)}, "new_weights", 1),
        ({"model-2.safetensors": weights(2)}, "new_weights", 1),
        ({"model.safetensors": weights(2), "tokenizer.json": b"[]"}, "new_weights", 1),
        ({"chat_template.jinja": b"{{ messages }}"}, "side_files", 2),
        ({"tokenizer.json": None}, "side_files", 2),
        ({"generation_config.json": b"{}", "README.md": OTHER_CARD}, "side_files", 2),
        ({"config.json": json.dumps({**CONFIG, "max_position_embeddings": 1}).encode()}, "side_files", 2),
        ({"config.json": json.dumps({**CONFIG, "model_type": "qwen3_5_moe"}).encode()}, "new_weights", 1),
        ({"README.md": OTHER_CARD}, "readme", 1),
        ({"assets/logo.png": b"\x89PNG", "model.gguf": b"GGUF"}, "readme", 1),
    ],
)
def test_a_change_is_classed_by_its_blobs(author: Author, files, kind: str, num_steps: int):
    repo = author.make("Qwen3.5-1B")
    before = author.tick().bases[0]
    head = author.put(repo, files)
    found = author.tick()
    assert kinds(found) == {"Qwen3.5-1B": kind}
    (change,) = found.changes
    assert (change.revision, change.since_revision) == (head, before.revision)
    assert set(files) <= set(change.files)
    assert found.num_calls == 2
    (base,) = found.bases
    assert (base.revision, len(base.steps)) == (head, num_steps)
    assert base.steps[-1].revision == (before.revision if kind == "readme" else head)
    assert author.tick().num_calls == 1


def test_after_a_month_away_one_look_tells_all_that_happened(author: Author):
    one, other = author.make("Qwen3.5-1B"), author.make("Qwen3.5-2B")
    author.tick()
    author.put(one, {"README.md": OTHER_CARD})
    author.put(one, {"tokenizer.json": b"[1]"})
    author.put(one, {"tokenizer.json": b"[2]"})
    author.put(other, {"model.safetensors": weights(7)})
    author.put(other, {"README.md": OTHER_CARD})
    author.make("Qwen3.5-4B")
    found = author.tick(hours=24 * 30)
    assert kinds(found) == {
        "Qwen3.5-1B": "side_files",
        "Qwen3.5-2B": "new_weights",
        "Qwen3.5-4B": "new_model",
    }
    assert found.num_calls == 4


def test_a_change_that_was_taken_back_is_none(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.tick()
    author.put(repo, {"tokenizer.json": b"[1]"})
    author.put(repo, {"tokenizer.json": b"{}"})
    found = author.tick()
    assert kinds(found) == {"Qwen3.5-1B": "none"}
    assert len(found.bases[0].steps) == 1


def test_side_files_pile_up_on_the_weights_they_go_with(author: Author):
    repo = author.make("Qwen3.5-1B")
    first = author.tick().bases[0].revision
    heads = []
    for n in range(25):
        heads.append(author.put(repo, {"tokenizer.json": f"[{n}]".encode()}))
        author.tick()
    steps = author.tick().bases[0].steps
    assert [steps[0].revision, steps[-1].revision] == [first, heads[-1]]
    assert len(steps) == 20
    author.put(repo, {"model.safetensors": weights(9)})
    assert [each.kind for each in author.tick().bases[0].steps] == ["weights"]


def test_an_upload_is_left_to_finish(author: Author):
    repo = author.make("Qwen3.5-1B")
    found = author.tick(hours=0.5)
    assert (kinds(found), codes(found), found.bases) == ({}, {"Qwen3.5-1B": "settling"}, [])
    assert author.state.list("") == [TICKED]
    author.tick()
    author.put(repo, {"model.safetensors": weights(2)})
    found = author.tick(hours=0)
    assert codes(found) == {"Qwen3.5-1B": "settling"}
    assert found.bases == []
    assert kinds(author.tick(hours=0, settle_minutes=0)) == {"Qwen3.5-1B": "new_weights"}


def test_a_forced_history_is_no_change_of_its_own(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.put(repo, {"README.md": OTHER_CARD})
    before = author.tick().bases[0]
    author.api.super_squash_history(repo)
    found = author.tick()
    assert kinds(found) == {"Qwen3.5-1B": "none"}
    assert found.bases[0].steps == before.steps
    assert found.bases[0].revision != before.revision


def test_without_a_manifest_a_change_is_unknown_and_treated_as_new_weights(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.tick()
    path = seen_path(repo)
    author.state.delete(path, author.state.read(path).version)
    head = author.put(repo, {"README.md": OTHER_CARD})
    author.api.super_squash_history(repo)
    found = author.tick()
    assert kinds(found) == {"Qwen3.5-1B": "unknown"}
    assert [each.kind for each in found.bases[0].steps] == ["weights"]
    assert found.bases[0].revision != head


def test_a_renamed_base_keeps_its_steps(author: Author):
    repo = author.make("Qwen3.5-1B")
    before = author.tick().bases[0]
    author.api.move_repo(repo, f"{author.name}/Qwen3.5-1B-Instruct")
    found = author.tick()
    (change,) = found.changes
    assert (change.kind, change.renamed_from) == ("none", repo)
    (base,) = found.bases
    assert base.repo_id == f"{author.name}/Qwen3.5-1B-Instruct"
    assert base.steps == before.steps
    assert base.steps[0].repo_id == repo
    assert author.seen(base.repo_id).renamed_from == repo
    assert author.state.list("seen/") == [seen_path(base.repo_id)]
    assert author.tick().num_calls == 1


def test_a_name_that_another_base_took_over(author: Author):
    old = author.make("Qwen3.5-1B", seed=1)
    author.tick()
    author.api.move_repo(old, f"{author.name}/Qwen3.5-1B-old")
    author.make("Qwen3.5-1B", seed=2)
    found = author.tick()
    assert kinds(found) == {"Qwen3.5-1B-old": "none", "Qwen3.5-1B": "new_model"}
    assert {len(each.steps) for each in found.bases} == {1}
    assert author.tick().changes == []
    assert len(author.state.list("seen/")) == 2


def test_a_renamed_base_with_new_weights(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.tick()
    author.api.move_repo(repo, f"{author.name}/Qwen3.5-2B")
    author.put(f"{author.name}/Qwen3.5-2B", {"model.safetensors": weights(5)})
    assert kinds(author.tick()) == {"Qwen3.5-2B": "new_weights"}


def test_a_deleted_base_is_asked_for_once_and_may_come_back(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.tick()
    author.api.delete_repo(repo)
    found = author.tick()
    assert (codes(found), found.num_calls, found.bases) == ({"Qwen3.5-1B": "gone"}, 2, [])
    assert author.tick().num_calls == 1
    author.make("Qwen3.5-1B", seed=8)
    assert kinds(author.tick()) == {"Qwen3.5-1B": "new_weights"}
    assert codes(author.tick()) == {}


# ── a listing that shrank ──────────────────────────────────────────────────────────────────


def many(author: Author, num: int = 8) -> list[str]:
    repos = [author.make(f"Qwen3.5-{n}B") for n in range(num)]
    author.tick()
    return repos


def cut_short(monkeypatch: pytest.MonkeyPatch, keep: int) -> None:
    """The Hub's index tells of so many models only."""
    real = listing.models_of

    def short(hub: Hub, author: str) -> listing.Listing:
        found = real(hub, author)
        return replace(found, models=dict(sorted(found.models.items())[:keep]))

    monkeypatch.setattr(listing, "models_of", short)


def held(author: Author) -> Shrunk | None:
    roster, _ = load(author.state, watched_path(author.name), Roster)
    assert roster is not None
    return roster.shrunk


def gone(author: Author) -> int:
    roster, _ = load(author.state, watched_path(author.name), Roster)
    return sum(each.gone is not None for each in roster.bases)


def test_a_mass_deletion_is_believed_once_it_stays_so(author: Author):
    for repo in many(author)[2:]:
        author.api.delete_repo(repo)
    first = author.tick(hours=3)
    assert (codes(first), first.bases, first.num_calls) == ({"": "shrunk"}, [], 1)
    assert "waiting for confirmation" in first.skipped[0].reason
    assert (gone(author), held(author).num_seen) == (0, 1)
    assert author.tick(hours=4).bases == []
    assert author.tick(hours=5).bases == []  # three times, and not for long enough
    assert author.tick(hours=9, dry_run=True).changes == []
    assert held(author).num_seen == 3
    last = author.tick(hours=9)
    assert (len(last.bases), gone(author)) == (2, 6)
    assert len(author.tick(hours=10).bases) == 2
    assert held(author) is None


def test_a_person_s_word_is_enough(author: Author):
    for repo in many(author)[2:]:
        author.api.delete_repo(repo)
    assert not shrunk.confirm(author.state, author.name, who="ann")
    author.tick(hours=3)
    assert shrunk.confirm(author.state, author.name, who="ann")
    assert not shrunk.confirm(author.state, author.name, who="bob")
    assert held(author).confirmed_by == "ann"
    assert (len(author.tick(hours=3).bases), gone(author)) == (2, 6)


def test_more_than_a_tick_asks_for_are_asked_for_in_the_next_ones(author: Author):
    for repo in many(author, 9)[2:]:
        author.api.delete_repo(repo)
    author.tick(hours=3)
    shrunk.confirm(author.state, author.name, who="ann")
    found = [(author.tick(hours=4, max_changes=3), gone(author))[1] for _ in range(3)]
    assert found == [3, 6, 7]


def test_a_flaky_listing_takes_nothing_away(author: Author, monkeypatch: pytest.MonkeyPatch):
    """Held while it lasts, forgotten once the bases are back; and even one that lasts takes none away."""
    many(author)
    with monkeypatch.context() as patch:
        cut_short(patch, 1)
        author.tick(hours=3)
        author.tick(hours=4)
    assert len(author.tick(hours=5).bases) == 8
    assert held(author) is None
    cut_short(monkeypatch, 1)
    for hour in range(12, 24, 4):
        author.tick(hours=hour)
    found = author.tick(hours=30)
    assert set(codes(found).values()) == {"shrunk", "unlisted"}
    assert gone(author) == 0
    monkeypatch.undo()
    assert len(author.tick(hours=31).bases) == 8


def test_a_base_that_moved_to_another_author_is_gone(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.tick()
    author.api.move_repo(repo, f"{author.name}x/Qwen3.5-1B")
    (skipped,) = author.tick().skipped
    assert (skipped.code, skipped.reason) == ("gone", f"it was moved to {author.name}x/Qwen3.5-1B")


def test_a_gated_base_waits_until_the_bot_is_let_in(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.api.update_repo_settings(repo, gated="manual")
    found = author.tick()
    assert (codes(found), found.num_calls) == ({"Qwen3.5-1B": "gated"}, 2)
    author.api.grant_access(repo, "bot")
    assert kinds(author.tick()) == {"Qwen3.5-1B": "new_model"}


def test_a_base_that_was_made_private_is_gone(author: Author):
    repo = author.make("Qwen3.5-1B")
    author.tick()
    author.api.update_repo_settings(repo, visibility="private")
    assert codes(author.tick()) == {"Qwen3.5-1B": "gone"}
    author.api.update_repo_settings(repo, visibility="public")
    found = author.tick()
    assert (codes(found), len(found.bases)) == ({}, 1)


def test_offshoots_are_passed_over_and_cost_no_request(author: Author):
    own = f"base_model: {author.name}/Qwen3.5-1B-Base\n"
    author.make("Qwen3.5-1B", card=own)
    author.make("Qwen3.5-1B-a", card=own + "base_model_relation: quantized\n")
    author.make("Qwen3.5-1B-b", card="base_model: somebody/else\n")
    author.make("Qwen3.5-1B-c", card=own + "base_model_relation: adapter\n")
    author.make("Qwen3.5-1B-d", config={**CONFIG, "quantization_config": {"quant_method": "fp8"}})
    author.make("Qwen3.5-1B-e", card="tags: [gguf]\n")
    author.make("Qwen3.5-1B-GPTQ-Int4")
    author.make("Qwen3.5-1B-MoE", config={**CONFIG, "model_type": "qwen3_moe"})
    author.make("Qwen3.5-1B-Guard")
    found = author.tick(model_types=["qwen3_5"], exclude=["*guard"])
    assert codes(found) == {
        "Qwen3.5-1B-a": "quantized", "Qwen3.5-1B-b": "derived", "Qwen3.5-1B-c": "derived",
        "Qwen3.5-1B-d": "quantized", "Qwen3.5-1B-e": "quantized", "Qwen3.5-1B-GPTQ-Int4": "quantized",
        "Qwen3.5-1B-MoE": "model_type", "Qwen3.5-1B-Guard": "name",
    }  # fmt: skip
    assert kinds(found) == {"Qwen3.5-1B": "new_model"}
    assert found.num_calls == 2


def test_a_repo_without_weights_is_no_base_yet(author: Author):
    repo = f"{author.name}/Qwen3.5-1B"
    author.api.create_repo(repo)
    assert codes(author.tick()) == {"Qwen3.5-1B": "no_weights"}
    author.put(repo, {"model.safetensors": weights(1), "config.json": json.dumps(CONFIG).encode()})
    assert kinds(author.tick()) == {"Qwen3.5-1B": "new_model"}


def test_a_tick_looks_at_so_many_and_the_next_goes_on(author: Author):
    for n in range(5):
        author.make(f"Qwen3.5-{n}B")
    found = author.tick(max_changes=2)
    assert sorted(kinds(found)) == ["Qwen3.5-3B", "Qwen3.5-4B"]
    assert set(codes(found).values()) == {"deferred"}
    assert (len(found.bases), found.num_calls) == (2, 3)
    assert sorted(kinds(author.tick(max_changes=2))) == ["Qwen3.5-1B", "Qwen3.5-2B"]
    assert sorted(kinds(author.tick(max_changes=2))) == ["Qwen3.5-0B"]
    assert author.tick(max_changes=2).num_calls == 1


def test_a_dry_run_and_a_paused_bot_write_nothing(author: Author):
    author.make("Qwen3.5-1B")
    found = author.tick(dry_run=True)
    assert (len(found.bases), found.recorded) == (1, False)
    assert author.state.list("") == []
    save(author.state, PAUSED, Paused(who="ada", why="x", at=datetime.now(UTC)), version=None)
    assert not author.tick().recorded
    assert author.state.list("") == []


def test_a_run_that_dies_before_its_last_write_loses_nothing(author: Author, monkeypatch: pytest.MonkeyPatch):
    repo = author.make("Qwen3.5-1B")
    author.tick()
    head = author.put(repo, {"tokenizer.json": b"[1]"})

    class Dying(FolderState):
        def write(self, path, text, *, version):
            if path.startswith("watched/"):
                raise KeyboardInterrupt
            super().write(path, text, version=version)

    living, author.state = author.state, Dying(author.state.root)
    with pytest.raises(KeyboardInterrupt):
        author.tick()
    author.state = living
    found = author.tick()
    assert kinds(found) == {"Qwen3.5-1B": "none"}
    assert [each.kind for each in found.bases[0].steps] == ["weights", "side_files"]
    assert found.bases[0].steps[-1].revision == head
    assert author.tick().num_calls == 1


def test_of_two_watchers_at_once_one_is_told(author: Author):
    author.make("Qwen3.5-1B")

    class Racing(FolderState):
        raced = False

        def write(self, path, text, *, version):
            if path.startswith("watched/") and not self.raced:
                self.raced = True
                author.tick()
            super().write(path, text, version=version)

    plain, author.state = author.state, Racing(author.state.root)
    other, author.state = author.state, plain
    found = watch(Watch(authors=[author.name]), author.bot, other, now=datetime.now(UTC) + timedelta(hours=2))
    assert [each.code for each in found.failed] == [Refused.title]
    roster, _ = load(author.state, watched_path(author.name), Roster)
    assert len(roster.bases) == 1
    assert author.tick().num_calls == 1


def test_a_misspelt_author_is_told(author: Author):
    (skipped,) = author.tick().skipped
    assert (skipped.repo_id, skipped.code) == (author.name, "no_models")


def test_more_than_a_page_of_models(author: Author, monkeypatch: pytest.MonkeyPatch):
    from bot.edges import listing

    for n in range(5):
        author.make(f"Qwen3.5-{n}B")
    author.tick()
    monkeypatch.setattr(listing, "PAGE", 2)
    found = author.tick()
    assert (found.num_listed, found.num_calls, found.changes) == (5, 3, [])
