"""What no linter knows of: who may see which secret, who may run where, and what the choices are.

Also what `act` does not do and the chain therefore cannot show: concurrency, filters, choices, permissions.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from workflowfiles import ROOT, WORKFLOWS

from bot import fleet, outcome, recipe

Jobs = dict[tuple[str, str], dict[str, Any]]
Workflows = dict[str, dict[str, Any]]
# The two jobs that run other people's code over downloaded files, and the one secret that they may see.
THIRD_PARTY = {("release.yml", "build"), ("release.yml", "evaluate")}
BUILD_TOKEN = "HUB_BUILD_TOKEN"


def secrets_of(value: Any) -> set[str]:
    return set(re.findall(r"secrets\.(\w+)", json.dumps(value)))


def steps(jobs: Jobs) -> list[tuple[str, dict[str, Any]]]:
    return [(f"{file}: {job}", step) for (file, job), body in jobs.items() for step in body.get("steps", [])]


def env_of(job: dict[str, Any]) -> list[tuple[str, str]]:
    return [pair for step in job["steps"] for pair in step.get("env", {}).items()]


def triggers(workflow: dict[str, Any]) -> set[str]:
    on = workflow["on"]
    return {on} if isinstance(on, str) else set(on)


def test_nothing_is_permitted_but_what_a_job_asks_for(workflows: Workflows, jobs: Jobs):
    assert {name: each["permissions"] for name, each in workflows.items()} == {name: {} for name in workflows}
    assert [at for at, job in jobs.items() if "permissions" not in job] == []


def test_every_write_is_explained():
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines()]
    writes = [line for line in lines if re.search(r"^ +[\w-]+: write\b", line) and "permission-" not in line]
    assert writes
    assert [line for line in writes if "#" not in line] == []


def test_who_keeps_the_dashboard_may_label_what_is_public(jobs: Jobs):
    keeping = {at: job for at, job in jobs.items() if "release-bot dashboard" in json.dumps(job)}
    assert set(keeping) == {("commands.yml", "dashboard"), ("watch.yml", "dashboard")}
    for job in keeping.values():
        assert job["permissions"]["pull-requests"] == "write"


def test_third_party_code_sees_no_secret_but_its_own_and_only_reads_here(workflows: Workflows, jobs: Jobs):
    for at in THIRD_PARTY:
        assert secrets_of(jobs[at]) == {BUILD_TOKEN}
        assert jobs[at]["permissions"] == {"contents": "read"}
        scripts = [step["run"] for step in jobs[at]["steps"] if "release-bot" in step.get("run", "")]
        assert scripts
        assert all(each.startswith("exec ") for each in scripts), "no shell that holds the tokens is left"
    asking = {name for at in THIRD_PARTY for name, value in env_of(jobs[at]) if "github.token" in value}
    assert asking == {"GITHUB_TOKEN"}  # the build's, which only reads here: the kill switch
    assert "github.token" not in json.dumps(jobs["release.yml", "evaluate"])
    shared = {name: secrets_of(each.get("env", {})) for name, each in workflows.items()}
    assert shared == {name: set() for name in workflows}


def test_no_job_of_a_pull_request_sees_a_secret_or_a_machine_of_ours(workflows: Workflows, jobs: Jobs):
    of_pulls = {name for name, each in workflows.items() if "pull_request" in triggers(each)}
    assert of_pulls == {"card-review.yml", "ci.yml"}
    for (name, _), job in jobs.items():
        if name in of_pulls:
            assert secrets_of(job) == set()
            assert job["runs-on"] == "ubuntu-24.04"
            assert set(job["permissions"].values()) <= {"read"}
    assert not any("pull_request_target" in triggers(each) for each in workflows.values())


def test_own_machines_are_reached_by_no_event_that_a_stranger_can_cause(workflows: Workflows, jobs: Jobs):
    ours = {file for (file, _), job in jobs.items() if "runs-on" in job and job["runs-on"] != "ubuntu-24.04"}
    assert ours == {"release.yml", "runner-health.yml"}
    callers = {file for (file, _), job in jobs.items() if "release.yml" in job.get("uses", "")}
    reached = set().union(*(triggers(workflows[each]) for each in ours | callers))
    assert reached == {"schedule", "workflow_dispatch", "workflow_call", "repository_dispatch"}


def test_what_follows_a_pull_request_takes_no_code_of_it(jobs: Jobs):
    """The default branch is what `workflow_run` and `issue_comment` check out where no ref is named."""
    checkouts = [step for _, step in steps(jobs) if "checkout@" in step.get("uses", "")]
    assert checkouts
    assert not any({"ref", "repository"} & each.get("with", {}).keys() for each in checkouts)
    for name in ("comment", "closed"):
        condition = jobs["card-comment.yml", name]["if"]
        assert "head_repository.full_name == github.repository" in condition


def test_publishing_is_of_the_default_branch_in_its_environment(workflows: Workflows, jobs: Jobs):
    assert workflows["publish.yml"]["on"]["push"] == {"branches": ["main"], "paths": ["model_cards/**"]}
    assert "github.event.repository.default_branch" in jobs["publish.yml", "select"]["if"]
    assert jobs["publish.yml", "publish"]["environment"] == "hub-release"
    with_tokens = [at for at, job in jobs.items() if job["permissions"].get("id-token") == "write"]
    assert with_tokens == [("publish.yml", "publish")]
    with_secret = [at for at, job in jobs.items() if "HUB_PUBLISH_TOKEN" in secrets_of(job)]
    assert with_secret == with_tokens


def test_where_the_app_s_token_writes_the_workflow_s_only_reads(jobs: Jobs):
    with_app = [at for at, job in jobs.items() if "create-github-app-token@" in json.dumps(job)]
    assert with_app == [("commands.yml", "comment"), ("release.yml", "card")]
    assert [jobs[at]["permissions"] for at in with_app] == [{"contents": "read"}] * 2
    assert not any("github.token" in json.dumps(jobs[at]) for at in with_app)


def test_the_fallback_is_the_one_that_the_docs_tell_of(jobs: Jobs):
    told = (ROOT / "docs" / "identities.md").read_text().partition("**The fallback**")[2].partition("\n\n")[0]
    step = next(s for s in jobs["publish.yml", "publish"]["steps"] if "HF_OIDC_RESOURCE" in s.get("env", {}))
    used = set(re.findall(r"(?:secrets|vars)\.(HUB_\w+)", json.dumps(step["env"])))
    assert used == set(re.findall(r"`(HUB_\w+)`", told))
    assert "HUB_PUBLISH_TOKEN" in (ROOT / "bot" / "edges" / "hub.py").read_text()


def test_what_prepare_tells_the_jobs_after_it_reaches_them(jobs: Jobs):
    told = jobs["release.yml", "prepare"]["outputs"]
    (build,) = [s for s in jobs["release.yml", "build"]["steps"] if s.get("id") == "build"]
    assert told["restage"] == "${{ steps.prepare.outputs.restage }}"
    assert "needs.prepare.outputs.restage == 'true' && '--restage'" in build["env"]["RESTAGE"]
    assert '${RESTAGE:+"$RESTAGE"}' in build["run"]
    used = {n for (f, _), j in jobs.items() if f == "release.yml"
            for n in re.findall(r"needs\.prepare\.outputs\.(\w+)", json.dumps(j))}  # fmt: skip
    assert used <= told.keys()


def test_no_job_goes_on_from_what_an_earlier_attempt_prepared(jobs: Jobs):
    """GitHub's "Re-run failed jobs" does not prepare again, and its lease is given back."""
    assert jobs["release.yml", "prepare"]["outputs"]["attempt"] == "${{ github.run_attempt }}"
    for name in ("build", "evaluate", "card"):
        condition = jobs["release.yml", name]["if"]
        assert "needs.prepare.outputs.attempt == github.run_attempt" in condition
        assert "||" not in condition.partition("needs.prepare.outputs.attempt")[0]


def test_a_release_that_fails_to_publish_keeps_no_other_from_the_collection(jobs: Jobs):
    """Without a status function a job waits for the success of every job of the matrix before it."""
    condition = jobs["publish.yml", "curate"]["if"]
    assert condition.startswith("${{ !cancelled() && needs.select.result == 'success' && ")
    assert "publish" not in condition
    assert jobs["publish.yml", "publish"]["strategy"]["fail-fast"] == "false"


def test_whatever_writes_to_the_hub_can_ask_the_kill_switch(jobs: Jobs):
    writing = {"HUB_PREPARE_TOKEN", "HUB_BUILD_TOKEN", "HUB_PUBLISH_TOKEN", "HUB_CURATE_TOKEN"}
    found = {at for at, job in jobs.items() if secrets_of(job) & writing and "steps" in job}
    assert {("release.yml", "build"), ("publish.yml", "publish"), ("publish.yml", "curate")} <= found
    for at in found - {("release.yml", "evaluate")}:  # it measures, and sends nothing
        assert jobs[at]["permissions"]["contents"] in ("read", "write")
        assert ("GITHUB_TOKEN", "${{ github.token }}") in env_of(jobs[at]), at


def test_how_publishing_ended_is_written_down_whatever_that_was(jobs: Jobs):
    record, publish = jobs["publish.yml", "record"], jobs["publish.yml", "publish"]
    assert record["if"].startswith("always() && needs.select.result == 'success'")
    assert record["strategy"] == publish["strategy"]
    (kept,) = [each for each in publish["steps"] if "upload-artifact@" in each.get("uses", "")]
    (fetched,) = [each for each in record["steps"] if "download-artifact@" in each.get("uses", "")]
    assert fetched["with"]["name"] == kept["with"]["name"]
    (left,) = re.findall(r'--ended "\$RUNNER_TEMP/(\S+)/ended.json"', json.dumps(publish).replace("\\", ""))
    folder = kept["with"]["path"].replace("${{ matrix.key }}", "$KEY").removeprefix("${{ runner.temp }}/")
    assert left == folder
    assert record["permissions"] == {"contents": "write"}
    assert secrets_of(record) == set()


def test_waiting_runs_are_neither_dropped_nor_cancelled(workflows: Workflows, jobs: Jobs):
    groups = {at: job["concurrency"] for at, job in jobs.items() if "concurrency" in job}
    groups |= {(name, ""): each["concurrency"] for name, each in workflows.items() if "concurrency" in each}
    assert groups["watch.yml", "release"] == {"group": "release-${{ matrix.key }}", "queue": "max"}
    assert groups["publish.yml", "publish"] == {"group": "publish-${{ matrix.repo }}", "queue": "max"}
    assert groups["release.yml", ""]["queue"] == "max"
    # The rest shows or checks what is there now: there the newest is enough.
    dropping = {at for at, group in groups.items() if group.get("queue") != "max"}
    assert dropping == {
        ("watch.yml", "plan"),
        ("watch.yml", "refuse"),
        ("watch.yml", "dashboard"),
        ("card-review.yml", ""),
        ("ci.yml", ""),
        ("runner-health.yml", ""),
    }
    assert all(job.get("concurrency") for (file, _), job in jobs.items() if file == "publish.yml")


def test_the_health_of_a_runner_can_fail(jobs: Jobs):
    """Each runner is held to the class that it was chosen by, and nothing lets a failure pass."""
    job = jobs["runner-health.yml", "examine"]
    (held,) = [step for step in job["steps"] if " doctor " in step.get("run", "")]
    assert held["run"] == '.venv/bin/release-bot doctor --for "$CLASS"'
    assert held["env"] == {"CLASS": "${{ matrix.name }}"}
    assert not any("continue-on-error" in each for each in (job, *job["steps"]))


def test_every_job_ends(jobs: Jobs):
    without = [at for at, job in jobs.items() if "timeout-minutes" not in job and "uses" not in job]
    assert without == []


def test_actions_are_pinned_by_commit_with_their_version():
    for path in WORKFLOWS:
        for line in path.read_text().splitlines():
            if match := re.search(r"uses: (\S+)(.*)", line):
                assert re.fullmatch(r"\./\S+|actions/[\w-]+@[0-9a-f]{40}", match[1]), line
                assert match[1].startswith("./") or re.fullmatch(r" # v\d+\.\d+\.\d+", match[2]), line


def test_one_action_has_one_version():
    text = "".join(path.read_text() for path in WORKFLOWS)
    found = set(re.findall(r"(actions/[\w-]+)@([0-9a-f]{40} # \S+)", text))
    assert len({name for name, _ in found}) == len(found)


def test_checkouts_leave_no_credential(jobs: Jobs):
    for where, step in steps(jobs):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false", where


def test_a_step_is_one_call_of_the_bot(jobs: Jobs):
    """And nothing of a context is written into a script: it comes by the environment."""
    for where, step in steps(jobs):
        if script := step.get("run"):
            assert "${{" not in script, where
            assert len(script.strip().splitlines()) == 1, where
            assert re.match(r"(exec )?\.venv/bin/release-bot |make |echo ", script), where


def test_every_call_is_one_that_the_bot_has(jobs: Jobs):
    from bot.cli import _parser

    (known,) = (each.choices for each in _parser()._actions if each.dest == "==SUPPRESS==" or each.choices)
    for where, step in steps(jobs):
        if match := re.match(r"\.venv/bin/release-bot ([\w-]+)", step.get("run", "")):
            assert match[1] in known, where


def test_the_choice_of_recipes_is_current(workflows: Workflows):
    given = workflows["release.yml"]["on"]["workflow_dispatch"]["inputs"]["recipe"]
    assert given["options"] == sorted(recipe.names())


def test_labels_are_the_fleet_s(jobs: Jobs):
    classes = {each.name: each for each in fleet.load().classes}
    assert classes["hosted"].labels == ("ubuntu-24.04",)
    told = yaml.safe_load((ROOT / ".github" / "actionlint.yaml").read_text())["self-hosted-runner"]["labels"]
    generic = {"self-hosted", "linux", "x64", *classes["hosted"].labels}
    assert told == [label for each in classes.values() for label in each.labels if label not in generic]
    for at, job in jobs.items():
        assert job.get("runs-on", "ubuntu-24.04").startswith(("ubuntu-24.04", "${{ ")), at


def test_a_called_workflow_gets_each_secret_that_it_asks_for(workflows: Workflows, jobs: Jobs):
    asked = set(workflows["release.yml"]["on"]["workflow_call"]["secrets"])
    assert set(jobs["watch.yml", "release"]["secrets"]) == asked
    used = {name for (file, _), job in jobs.items() if file == "release.yml" for name in secrets_of(job)}
    assert used == asked


def test_a_failed_run_keeps_what_it_saw(jobs: Jobs):
    for at in (*THIRD_PARTY, ("publish.yml", "publish"), ("card-review.yml", "check")):
        (kept,) = [s for s in jobs[at]["steps"] if "upload-artifact@" in s.get("uses", "")]
        assert kept["if"] == "always()"


def test_a_release_s_last_job_hears_of_every_other_one(jobs: Jobs):
    finish = jobs["release.yml", "finish"]
    assert finish["if"] == "always() && needs.prepare.result != 'skipped'"
    others = {job for file, job in jobs if file == "release.yml"} - {"finish"}
    assert set(finish["needs"]) == others == set(outcome.JOBS)
    assert [job for job in others if "failure" not in jobs["release.yml", job]["outputs"]] == []
    (step,) = [each for each in finish["steps"] if "NEEDS" in each.get("env", {})]
    assert step["env"]["KEY"] == "${{ needs.prepare.outputs.key || inputs.key }}"
    assert step["env"]["BASE"] == "${{ needs.prepare.outputs.base || env.BASE }}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_says_what_it_is_for(workflow: Any):
    head = workflow.read_text().partition("name:")[0]
    assert head.startswith("# ")
    assert len(head.splitlines()) >= 2
