"""Jobs over HTTP: submit, look, follow the log, cancel (`run_job` and its siblings in `huggingface_hub`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from starlette.responses import StreamingResponse

from bot.localhub.accounts import Action
from bot.localhub.errors import BadRequest
from bot.localhub.http import Call, route
from bot.localhub.jobs import Job, Spec

DEFAULT_TIMEOUT_S = 1800  # the real Hub's, where none is asked for
MAX_TIMEOUT_S = 7 * 24 * 3600


def _namespace(call: Call) -> str:
    namespace = call.param("namespace")
    call.allow_in(Action.JOBS, namespace)
    return namespace


def _job(call: Call) -> Job:
    return call.hub.jobs.get(_namespace(call), call.param("job"))


def _texts(call: Call, name: str) -> dict[str, str]:
    values = call.field(name, dict, default={})
    if not all(isinstance(part, str) and "\0" not in part for pair in values.items() for part in pair):
        raise BadRequest(f"{name!r} maps names to texts")
    return dict(values)


def submit(call: Call) -> dict[str, Any]:
    command = [*call.field("command", list), *call.field("arguments", list, default=[])]
    if not command or not all(isinstance(part, str) for part in command):
        raise BadRequest("'command' is a list of texts")
    timeout_s = call.field("timeoutSeconds", int, default=DEFAULT_TIMEOUT_S)
    if not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise BadRequest(f"'timeoutSeconds' is between 1 and {MAX_TIMEOUT_S}")
    job = call.hub.jobs.submit(
        Spec(
            namespace=_namespace(call),
            owner=call.require_user(),
            command=tuple(command),
            environment=_texts(call, "environment"),
            secrets=_texts(call, "secrets"),
            image=call.field("dockerImage", default="") or call.field("spaceId"),
            flavor=call.field("flavor"),
            labels=_texts(call, "labels"),
            timeout_s=timeout_s,
        )
    )
    return describe(job)


def describe(job: Job) -> dict[str, Any]:
    """A job as the client reads it; of secrets the names only."""
    spec = job.spec
    owner = {"id": spec.namespace, "name": spec.namespace, "type": "user"}
    return {
        "id": job.id,
        "createdAt": job.created_at,
        "startedAt": job.started_at,
        "finishedAt": job.finished_at,
        "dockerImage": spec.image,
        "command": list(spec.command),
        "arguments": [],
        "environment": spec.environment,
        "secrets": dict.fromkeys(spec.secrets, "***"),
        "flavor": spec.flavor,
        "labels": spec.labels,
        "status": {"stage": job.stage, "message": job.message},
        "owner": owner,
        "initiator": {"type": "user", "id": spec.owner, "name": spec.owner},
    }


def index(call: Call) -> list[dict[str, Any]]:
    """The namespace's jobs, those in one of `stage` and with every `label` (name=value)."""
    stages, labels = call.many("stage"), call.request.query_params.getlist("label")
    wanted = {tuple(each.partition("=")[::2]) for each in labels}
    return [
        describe(job)
        for job in call.hub.jobs.of(_namespace(call))
        if (not stages or job.stage in stages) and wanted <= set(job.spec.labels.items())
    ]


def show(call: Call) -> dict[str, Any]:
    return describe(_job(call))


def logs(call: Call) -> StreamingResponse:
    return StreamingResponse(_events(_job(call)), media_type="text/event-stream")


def _events(job: Job) -> Iterator[str]:
    for moment, text in job.follow():
        yield f"data: {json.dumps({'data': text, 'timestamp': moment})}\n\n"


def cancel(call: Call) -> dict[str, Any]:
    job = _job(call)
    call.hub.jobs.cancel(job)
    return describe(job)


_BASE = "/api/jobs/{namespace}"
ROUTES = [
    route("GET", _BASE, index),
    route("POST", _BASE, submit, "json"),
    route("GET", _BASE + "/{job}", show),
    route("GET", _BASE + "/{job}/logs", logs),
    route("POST", _BASE + "/{job}/cancel", cancel),
]
