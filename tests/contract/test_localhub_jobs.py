"""Jobs of the embedded Hub through the real client: submitted, followed, ended, cancelled."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from contract.conftest import ROOT_USER, Hub, ask
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from bot import localhub

pytestmark = pytest.mark.contract
IMAGE = "python:3.11"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, without_xet: None) -> Iterator[HfApi]:
    with localhub.running(tmp_path_factory.mktemp("jobs"), options=("--run-jobs",)) as server:
        yield HfApi(endpoint=server.url, token=server.token)


def submit(api: HfApi, code: str, **more: object):  # type: ignore[no-untyped-def]
    return api.run_job(image=IMAGE, command=[sys.executable, "-c", code], flavor="l40sx1", **more)


def test_a_job_runs_is_followed_and_ends(running: HfApi) -> None:
    code = "import os; print(os.environ['GREETING'], len(os.environ['HF_TOKEN'])); print('bye')"
    job = submit(running, code, env={"GREETING": "hello"}, secrets={"HF_TOKEN": "hf_secret"}, name="trial")
    lines = list(running.fetch_job_logs(job_id=job.id, follow=True))
    assert lines == ["hello 9", "bye"]
    found = running.wait_for_job(job.id, timeout=30)
    assert found.status.stage == "COMPLETED"
    assert (found.docker_image, found.flavor, found.labels) == (IMAGE, "l40sx1", {"name": "trial"})
    assert found.secrets == {"HF_TOKEN": "***"}, "a secret is never told again"
    assert found.started_at is not None
    assert job.id in {each.id for each in running.list_jobs(namespace="release-bot")}


def test_a_job_that_fails_is_an_error(running: HfApi) -> None:
    job = submit(running, "raise SystemExit(4)")
    found = running.wait_for_job(job.id, timeout=30)
    assert (found.status.stage, found.status.message) == ("ERROR", "exit code 4")
    absent = running.run_job(image=IMAGE, command=["no-such-program-here"])
    assert "did not start" in str(running.wait_for_job(absent.id, timeout=30).status.message)


def test_a_job_is_cancelled_with_its_children(running: HfApi) -> None:
    code = "import subprocess; subprocess.run(['sleep', '600'])"
    job = submit(running, code)
    running.wait_for_job(job.id, stages=["RUNNING"], timeout=30)  # type: ignore[list-item]
    running.cancel_job(job_id=job.id)
    assert running.inspect_job(job_id=job.id).status.stage == "CANCELED"
    assert list(running.fetch_job_logs(job_id=job.id, follow=True)) == []


def test_a_job_over_its_time_is_ended(running: HfApi) -> None:
    job = submit(running, "import time; time.sleep(600)", timeout=1)
    found = running.wait_for_job(job.id, timeout=30)
    assert found.status.stage == "ERROR"
    assert "timeout" in str(found.status.message)


def test_nothing_runs_unless_the_server_was_told_to(embedded: Hub) -> None:
    job = embedded.api.run_job(image=IMAGE, command=["true"])
    found = embedded.api.inspect_job(job_id=job.id)
    assert (found.status.stage, found.started_at) == ("ERROR", None)


def test_jobs_are_for_those_who_may(guarded: Hub) -> None:
    for token in ("hf_gpu", "hf_publish", "hf_prepare", "hf_shelf", "hf_alice_read", "hf_bob"):
        with pytest.raises(HfHubHTTPError) as refused:
            guarded.as_token(token).run_job(image=IMAGE, command=["true"], namespace="acme")
        assert refused.value.response.status_code == 403, token
    job = guarded.as_token("hf_alice").run_job(image=IMAGE, command=["true"], namespace="acme")
    with pytest.raises(HfHubHTTPError):
        guarded.as_token("hf_bob").inspect_job(job_id=job.id, namespace="acme")
    with pytest.raises(HfHubHTTPError) as elsewhere:
        guarded.api.inspect_job(job_id=job.id, namespace="root")
    assert elsewhere.value.response.status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"command": "true", "dockerImage": "i", "flavor": "f"},
        {"command": [], "dockerImage": "i", "flavor": "f"},
        {"command": [1], "dockerImage": "i", "flavor": "f"},
        {"command": ["true"], "flavor": "f"},
        {"command": ["true"], "dockerImage": "i", "flavor": "f", "secrets": {"A": 1}},
        {"command": ["true"], "dockerImage": "i", "flavor": "f", "environment": {"A": "b\0c"}},
        {"command": ["true"], "dockerImage": "i", "flavor": "f", "timeoutSeconds": 0},
    ],
    ids=str,
)
def test_what_is_no_job_is_refused(guarded: Hub, body: dict[str, object]) -> None:
    answer = ask(guarded.endpoint, "POST", "/api/jobs/root", token=ROOT_USER, body=body)
    assert answer.status == 400


def test_a_server_that_ends_leaves_no_job_behind(
    tmp_path_factory: pytest.TempPathFactory, without_xet: None
) -> None:
    root = tmp_path_factory.mktemp("ended")
    with localhub.running(root, options=("--run-jobs",)) as server:
        api = HfApi(endpoint=server.url, token=server.token)
        pid_file = root / "pid"
        code = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        submit(api, code)
        deadline = time.monotonic() + 30
        while not (pid_file.exists() and pid_file.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pid = int(pid_file.read_text())
    deadline = time.monotonic() + 30
    while _lives(pid):
        assert time.monotonic() < deadline, "the job outlived its server"
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
