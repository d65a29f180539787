"""What tells whether a stage has to run again."""

from __future__ import annotations

import hashlib
import json

from bot.job import Job
from bot.models import PublishEvidence


def digest(*parts: str) -> str:
    """sha256 over the inputs of a stage, the stage's name among them."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_published(job: Job) -> bool:
    """Whether this folder's release is out: then its upload and card are history and not made again."""
    return job.workspace.existing("publish", PublishEvidence) is not None
