"""The Kubernetes values: they hold to a strict schema, and agree with the fleet and the pinned runner."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bot import fleet

FOLDER = Path(__file__).resolve().parents[2] / "runners" / "kubernetes"
SCHEMA = json.loads((FOLDER / "values.schema.json").read_text())
FILES = sorted(FOLDER.glob("*.yaml"))
Values = dict[str, Any]


def values(path: Path) -> Values:
    found: Values = yaml.safe_load(path.read_text())
    return found


def version() -> str:
    lines = (FOLDER.parent / "runner.env").read_text().splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("RUNNER_VERSION="))


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert FILES


def test_check_jsonschema_finds_nothing():
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(FOLDER / "values.schema.json")]
    done = subprocess.run([*command, *map(str, FILES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda each: each.stem)
def test_a_class_of_the_fleet_is_what_its_values_say(path: Path):
    found = values(path)
    (runner,) = [each for each in fleet.load().classes if each.name == path.stem]
    spec = found["template"]["spec"]
    (container,) = spec["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    (work,) = [each for each in spec["volumes"] if each["name"] == "work"]
    storage = work["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"]
    assert found["runnerScaleSetName"] in runner.labels
    assert found["maxRunners"] == runner.count
    assert container["resources"]["limits"]["memory"] == f"{runner.memory_gib:g}Gi"
    assert (storage, environment["MIN_DISK_GIB"]) == (f"{runner.disk_gib:g}Gi", f"{runner.disk_gib:g}")
    assert found["githubConfigUrl"].endswith(f"/{environment['RUNNER_REPOSITORY']}")
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}


def test_image_and_host_have_the_same_runner():
    dockerfile = (FOLDER / "Dockerfile").read_text()
    assert f"FROM ghcr.io/actions/actions-runner:{version()}\n" in dockerfile
    for path in FILES:
        image = values(path)["template"]["spec"]["containers"][0]["image"]
        assert image.partition("@")[0].endswith(f":{version()}")
    for path in ("clean.sh", "job-started.sh", "job-completed.sh"):
        assert f"runners/hooks/{path} " in dockerfile


def test_jobs_share_hashed_files_and_the_image_s_environments_and_nothing_else():
    dockerfile = (FOLDER / "Dockerfile").read_text()
    for path in FILES:
        spec = values(path)["template"]["spec"]
        (container,) = spec["containers"]
        environment = {each["name"]: each["value"] for each in container["env"]}
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert environment["RELEASE_BOT_CACHE"].startswith(f"{mounts['cache']}/")
        for name in ("RELEASE_BOT_HOME", "HF_HOME"):
            assert environment[name].startswith(f"{mounts['work']}/"), "gone with the pod"
        assert not {"HF_HUB_CACHE", "PIP_CACHE_DIR"} & environment.keys()
        assert f"STATE_DIRECTORY={Path(environment['RELEASE_BOT_ENVIRONMENTS']).parent} " in dockerfile
    assert re.search(
        r"USER release-bot-environments\nRUN STATE_DIRECTORY=.*\n.*build-environments.sh\nUSER 1001",
        dockerfile,
    )


def _pod(change: Callable[[Values], object]) -> Callable[[Values], object]:
    return lambda found: change(found["template"]["spec"])


def _runner(change: Callable[[Values], object]) -> Callable[[Values], object]:
    return lambda found: change(found["template"]["spec"]["containers"][0])


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(githubConfigSecret={"github_token": "ghp_x"}),
        lambda v: v.update(githubConfigUrl="https://github.com/acme"),
        lambda v: v.update(containerMode={"type": "dind"}),
        lambda v: v.update(maxRunners="4"),
        _pod(lambda p: p.update(hostNetwork=True)),
        _pod(lambda p: p.update(hostPID=True)),
        _pod(lambda p: p.update(automountServiceAccountToken=True)),
        _pod(lambda p: p.pop("automountServiceAccountToken")),
        _pod(lambda p: p.update(serviceAccountName="admin")),
        _pod(lambda p: p.update(initContainers=[{"name": "x"}])),
        _pod(lambda p: p["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        _pod(lambda p: p["volumes"].append({"name": "x", "secret": {"secretName": "y"}})),
        _pod(lambda p: p["securityContext"].update(runAsUser=0)),
        _pod(lambda p: p["securityContext"].update(runAsNonRoot=False)),
        _pod(lambda p: p["securityContext"]["seccompProfile"].update(type="Unconfined")),
        _pod(lambda p: p["containers"].append(copy.deepcopy(p["containers"][0]))),
        _runner(lambda c: c.update(image="ghcr.io/actions/actions-runner:latest")),
        _runner(lambda c: c.update(image="ghcr.io/actions/actions-runner")),
        _runner(lambda c: c["securityContext"].update(privileged=True)),
        _runner(lambda c: c["securityContext"].update(allowPrivilegeEscalation=True)),
        _runner(lambda c: c["securityContext"].update(capabilities={"add": ["SYS_ADMIN"]})),
        _runner(lambda c: c["resources"]["limits"].pop("nvidia.com/gpu")),
        _runner(lambda c: c["resources"]["limits"].update({"nvidia.com/gpu": 2})),
        _runner(lambda c: c["env"].append({"name": "HF_TOKEN", "value": "hf_x"})),
        _runner(lambda c: c["env"].append({"name": "X", "valueFrom": {"secretKeyRef": {}}})),
        _runner(lambda c: c["volumeMounts"].append({"name": "work", "mountPath": "/etc"})),
        _runner(lambda c: c.update(command=["/bin/sh", "-c", "id"])),
    ],
    ids=range(27),
)
def test_what_would_weaken_it_is_refused(change: Callable[[Values], object]):
    found = values(FILES[0])
    jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
    change(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA, cls=jsonschema.Draft202012Validator)
