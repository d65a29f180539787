"""Upload and publish on the embedded Hub: private until the end, no-ops when done, stopped by a change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot import localhub, naming, repo
from bot import recipe as recipes
from bot.edges.hub import Hub
from bot.errors import AuditFailed, InfrastructureError, InputError, Refused, ReleaseBotError
from bot.models import Base, BaseEvidence, Release, UploadEvidence
from bot.stages import publish, upload

pytestmark = pytest.mark.contract


ACCOUNTS = {
    "users": {"release-bot": {"admin": True}, "stranger": {}},
    "orgs": {"release-bot-org": {"members": {"release-bot": "admin"}}},
    "tokens": [
        {"token": "hf_bot_all", "user": "release-bot"},
        {"token": "hf_bot_gpu", "user": "release-bot", "name": "gpu job", "scopes": ["contribute"]},
        {"token": "hf_stranger", "user": "stranger"},
    ],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[localhub.Running]:
    folder = tmp_path_factory.mktemp("hub")
    accounts = folder / "accounts.json"
    accounts.write_text(json.dumps(ACCOUNTS))
    with localhub.running(folder / "data", accounts=accounts, token="hf_bot_all") as running:
        yield running


@pytest.fixture(scope="module")
def hub(server: localhub.Running) -> Hub:
    return Hub(embedded=True, endpoint=server.url, token=server.token)


@pytest.fixture(scope="module")
def others(server: localhub.Running) -> dict[str, Hub]:
    tokens = {"gpu job": "hf_bot_gpu", "stranger": "hf_stranger"}
    return {name: Hub(embedded=True, endpoint=server.url, token=token) for name, token in tokens.items()}


class Case:
    """A base and a small made-up checkpoint of its own, so that tests do not share repos."""

    def __init__(self, hub: Hub, folder: Path, name: str) -> None:
        self.hub, self.folder = hub, folder
        self.base_repo = f"Qwen/{name}"
        self.api = hub.api
        self.api.create_repo(self.base_repo)
        self.put(self.base_repo, "config.json", b"{}")
        self.base = self.base_evidence()
        self.release = self._release(name)
        self.checkpoint = folder / "checkpoint"
        self.checkpoint.mkdir()
        (self.checkpoint / "config.json").write_text("{}")
        (self.checkpoint / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
        self.card = folder / "card"
        self.card.mkdir()
        (self.card / "README.md").write_text("---\nlicense: apache-2.0\n---\n# card\n")
        (self.card / "evidence.json").write_text("{}")

    def put(self, repo: str, path: str, data: bytes, **where: str) -> None:
        self.api.upload_file(repo_id=repo, path_in_repo=path, path_or_fileobj=data, **where)

    def base_evidence(self) -> BaseEvidence:
        revision = self.hub.head(self.base_repo)
        base = Base(repo_id=self.base_repo, revision=revision)
        return BaseEvidence(
            base=base, head=revision, model_type="qwen3_5", architectures=[], num_parameters=1, num_tensors=1,
            tensor_bytes=2, bytes_by_part={}, num_mtp_tensors=0, num_visual_tensors=0, license="apache-2.0",
            license_name=None, license_link=None, pipeline_tag="text-generation", languages=[], files=[],
        )  # fmt: skip

    def _release(self, name: str) -> Release:
        recipe = recipes.load("gptq-w4a16-g128")
        return Release(
            key=naming.release_key(self.base.base, recipe, 1), base=self.base.base, recipe_name=recipe.name,
            recipe_digest=recipe.digest(), recipe={}, toolchain_epoch=1, overrides={}, rehearsal=False,
            repinned={},             target_repo=f"release-bot/{name}-4bit", endpoint_kind="embedded",
        )  # fmt: skip

    @property
    def repo(self) -> str:
        return self.release.target_repo

    def files(self) -> dict[str, repo.LocalFile]:
        found = repo.digests(self.checkpoint, {})
        sums = self.folder / repo.SUMS
        sums.write_text(repo.sums(each.digest for each in found.values()))
        return found | repo.digests(self.folder / "none", {repo.SUMS: sums})

    def close(self, uploaded: UploadEvidence) -> None:
        self.api.change_discussion_status(self.repo, uploaded.pr_num, "closed", comment="no")

    def restage(self) -> UploadEvidence:
        upload.withdraw(self.release, self.hub)
        return self.upload()

    def upload(self) -> UploadEvidence:
        return upload.upload(self.release, self.files(), inputs_digest="0" * 64, hub=self.hub)

    def publish(self, uploaded: UploadEvidence, **change):
        steps: list[str] = []
        arguments = {
            "audit_passed": True,
            "hub": self.hub,
            "collection": "Quantized",
            "after_step": steps.append,
        }
        found = publish.publish(
            self.release, self.base, uploaded, publish.card_files(self.card), **{**arguments, **change}
        )
        return found, steps


@pytest.fixture
def case(hub: Hub, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
    return Case(
        hub, tmp_path, request.node.name.removeprefix("test_")[:60].strip("_").replace("[", "-").rstrip("]")
    )


def test_upload_opens_one_private_pull_request_and_leaves_main_alone(case: Case):
    found = case.upload()
    state = case.hub.state(case.repo)
    assert state.private
    assert set(state.files) <= {".gitattributes"}
    pulls = list(case.hub.pull_requests(case.repo))
    assert [(p.num, p.status) for p in pulls] == [(found.pr_num, "open")]
    assert case.release.key in pulls[0].title
    staged = case.hub.state(case.repo, f"refs/pr/{found.pr_num}")
    assert set(staged.files) - {".gitattributes"} == {"config.json", "model.safetensors", "SHA256SUMS"}
    sent = {each.path: each.sha256 for each in found.files}
    assert staged.files["model.safetensors"].sha256 == sent["model.safetensors"]


def test_uploading_again_is_a_no_op(case: Case):
    first, second = case.upload(), case.upload()
    assert (first.pr_num, first.pr_head, first.parent) == (second.pr_num, second.pr_head, second.parent)
    assert len(list(case.hub.pull_requests(case.repo))) == 1


def test_another_build_under_the_same_key_is_refused(case: Case):
    case.upload()
    (case.checkpoint / "model.safetensors").write_bytes(b"other")
    with pytest.raises(Refused, match="another build"):
        case.upload()


def test_a_closed_pull_request_refuses_the_release(case: Case):
    found = case.upload()
    case.close(found)
    with pytest.raises(Refused, match="was refused"):
        case.upload()
    with pytest.raises(Refused, match="was refused"):
        case.publish(found)
    assert case.hub.state(case.repo).private


def test_a_strangers_pull_request_with_our_title_is_not_adopted(case: Case, others: dict[str, Hub]):
    case.hub.create_private(case.repo)
    case.hub.make_public(case.repo)
    (case.folder / "evil").write_bytes(b"evil")
    title = naming.commit_title(case.release.key, case.release.base, case.release.recipe_name)
    _, theirs = others["stranger"].commit(
        case.repo,
        title=title,
        add={"model.safetensors": case.folder / "evil"},
        parent=case.hub.head(case.repo),
        create_pr=True,
    )
    assert case.upload().pr_num != theirs


def test_the_gpu_jobs_token_uploads_and_cannot_publish(case: Case, others: dict[str, Hub]):
    gpu = others["gpu job"]
    with pytest.raises(ReleaseBotError):
        upload.upload(case.release, case.files(), inputs_digest="0" * 64, hub=gpu)
    case.hub.create_private(case.repo)
    uploaded = upload.upload(case.release, case.files(), inputs_digest="0" * 64, hub=gpu)
    with pytest.raises(InputError, match="refused"):
        case.publish(uploaded, hub=gpu)
    assert case.hub.state(case.repo).private


def test_publishing_makes_it_public_with_card_tag_and_collection(case: Case):
    uploaded = case.upload()
    found, steps = case.publish(uploaded)
    assert steps == ["card", "merge", "tag", "public", "collection"]
    state = case.hub.state(case.repo)
    assert not state.private
    assert {"README.md", "evidence.json", "model.safetensors", "SHA256SUMS"} <= set(state.files)
    assert found.public
    assert found.revision == state.revision
    tags = {tag.name: tag.target_commit for tag in case.api.list_repo_refs(case.repo).tags}
    assert tags == {f"release-{case.release.key}": found.revision}
    assert case.repo in [item.item_id for item in case.api.get_collection(found.collection).items]
    sums = case.api.hf_hub_download(case.repo, "SHA256SUMS")
    assert "README.md" not in Path(sums).read_text()


def test_publishing_again_changes_nothing(case: Case):
    uploaded = case.upload()
    first, _ = case.publish(uploaded)
    again, steps = case.publish(uploaded, before=first)
    assert steps == []
    assert again.revision == first.revision
    assert case.upload().pr_num == uploaded.pr_num


@pytest.mark.parametrize("stop", ["card", "merge", "tag", "public"])
def test_a_break_after_any_step_is_finished_by_the_next_run(case: Case, stop: str):
    uploaded = case.upload()

    def die(step: str) -> None:
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.publish(uploaded, after_step=die)
    assert case.hub.state(case.repo).private == (stop != "public")
    found, _ = case.publish(uploaded)
    assert found.public
    assert not case.hub.state(case.repo).private
    assert len(list(case.hub.pull_requests(case.repo))) == 1


def test_a_release_that_was_taken_back_stays_so(case: Case):
    uploaded = case.upload()
    first, _ = case.publish(uploaded)
    case.api.update_repo_settings(case.repo, visibility="private")
    with pytest.raises(Refused, match="made private since"):
        case.publish(uploaded, before=first)
    assert case.hub.state(case.repo).private


def test_what_is_published_is_not_staged_again(case: Case):
    case.publish(case.upload())
    with pytest.raises(Refused, match="is published"):
        case.restage()


@pytest.mark.parametrize("trouble", ["closed", "main_moved", "pull_moved"])
def test_restaging_gets_out_of_every_dead_end(case: Case, trouble: str):
    uploaded = case.upload()
    if trouble == "closed":
        case.close(uploaded)
    elif trouble == "main_moved":
        case.put(case.repo, "note.txt", b"hello")
    else:
        case.put(case.repo, "extra.py", b"x", revision=f"refs/pr/{uploaded.pr_num}")
    with pytest.raises(Refused, match="--restage"):
        case.publish(uploaded)
    again = case.restage()
    assert again.pr_num != uploaded.pr_num
    found, _ = case.publish(again)
    assert found.public
    assert set(case.hub.state(case.repo).files) & {"note.txt", "extra.py"} == set()


def test_weights_changed_after_the_upload_are_not_published(case: Case):
    uploaded = case.upload()
    case.put(case.repo, "model.safetensors", b"evil" * 999, revision=f"refs/pr/{uploaded.pr_num}")
    with pytest.raises(Refused, match=r"model.safetensors changed"):
        case.publish(uploaded)
    assert case.hub.state(case.repo).private


def test_a_file_slipped_in_after_the_upload_is_not_published(case: Case):
    uploaded = case.upload()
    case.put(case.repo, "extra.py", b"import os", revision=f"refs/pr/{uploaded.pr_num}")
    with pytest.raises(Refused, match=r"extra.py was added"):
        case.publish(uploaded)
    assert case.hub.state(case.repo).private


def test_a_foreign_card_commit_on_the_pull_request_is_refused(case: Case):
    uploaded = case.upload()
    case.put(
        case.repo, "README.md", b"---\nlicense: mit\n---\n# other", revision=f"refs/pr/{uploaded.pr_num}"
    )
    with pytest.raises(Refused, match="moved"):
        case.publish(uploaded)


def test_a_main_that_moved_stops_it(case: Case):
    uploaded = case.upload()
    case.put(case.repo, "note.txt", b"hello")
    with pytest.raises(Refused, match="moved since the upload"):
        case.publish(uploaded)
    assert case.hub.state(case.repo).private


def test_a_moved_base_stops_it_but_its_readme_does_not(case: Case):
    uploaded = case.upload()
    case.put(case.base_repo, "README.md", b"---\nlicense: mit\n---\n# better words")
    publish.refuse_moved_base(case.base, case.hub)
    case.put(case.base_repo, "config.json", b'{"changed": true}')
    with pytest.raises(Refused, match=r"config.json changed"):
        case.publish(uploaded)
    assert case.hub.state(case.repo).private


def test_a_failed_audit_is_not_published(case: Case):
    with pytest.raises(AuditFailed):
        case.publish(case.upload(), audit_passed=False)


def test_a_rehearsal_goes_to_no_real_hub(case: Case):
    real = Hub(embedded=False, endpoint=case.hub.endpoint, token=case.hub.api.token)
    with pytest.raises(Refused, match="rehearsal"):
        upload.upload(case.release, case.files(), inputs_digest="0" * 64, hub=real)
    uploaded = case.upload()
    with pytest.raises(Refused, match="rehearsal"):
        case.publish(uploaded, hub=real)


def test_a_collection_that_fails_takes_nothing_back(case: Case, monkeypatch: pytest.MonkeyPatch):
    uploaded = case.upload()

    def broken(*_: str) -> str:
        raise InfrastructureError("collections are down")

    monkeypatch.setattr(case.hub, "collect", broken)
    found, _ = case.publish(uploaded)
    assert found.public
    assert found.collection is None
    assert "published" in str(publish.collection_failure(found))
    monkeypatch.undo()
    again, _ = case.publish(uploaded)
    assert again.collection is not None


def test_a_second_release_replaces_the_files_of_the_first(case: Case):
    case.publish(case.upload())
    first = case.release
    case.release = first.model_copy(update={"key": "f" * 16})
    (case.checkpoint / "model.safetensors").rename(case.checkpoint / "model-00001-of-00001.safetensors")
    uploaded = case.upload()
    assert uploaded.removed == ["model.safetensors"]
    assert "model.safetensors" in case.hub.state(case.repo).files
    case.publish(uploaded)
    files = case.hub.state(case.repo).files
    assert "model.safetensors" not in files
    assert "model-00001-of-00001.safetensors" in files


def test_a_broken_upload_goes_on_and_sends_nothing_twice(case: Case, monkeypatch: pytest.MonkeyPatch):
    real_commit, sent = case.api.create_commit, []
    monkeypatch.setattr(
        case.api, "create_commit", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("cut"))
    )
    with pytest.raises(InfrastructureError):
        case.upload()
    assert list(case.hub.pull_requests(case.repo)) == []
    monkeypatch.setattr(case.api, "create_commit", real_commit)
    from huggingface_hub import lfs

    real_put = lfs._upload_single_part
    monkeypatch.setattr(lfs, "_upload_single_part", lambda **k: (sent.append(k), real_put(**k)))
    case.upload()
    assert sent == []


def test_missing_repos_are_the_users_to_mend(hub: Hub):
    with pytest.raises(InputError, match="no such repo"):
        hub.state("Qwen/there-is-none")


def test_a_dead_endpoint_is_infrastructure():
    dead = Hub(embedded=True, endpoint="http://127.0.0.1:9", token="hf_x")
    with pytest.raises(InfrastructureError, match="cannot be reached"):
        dead.head("Qwen/x")


@pytest.mark.parametrize("extra", ["model.safetensors", "run.py"])
def test_a_card_folder_holds_nothing_else(case: Case, extra: str):
    (case.card / extra).write_text("x")
    with pytest.raises(ReleaseBotError, match="does not belong to a card"):
        publish.card_files(case.card)
