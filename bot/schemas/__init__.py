"""The JSON schema of every file that the bot writes, beside this module; written by `make generated`.

They are made from the models, which stay the truth; a test keeps them current. A reader in
another language, or a reviewer's tool, validates evidence with them.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

FOLDER = Path(__file__).resolve().parent


def models() -> dict[str, type[BaseModel]]:
    """Schema name → model; the name is the stem of the file that it describes."""
    from bot import evidence, fleet, overview, plan, recipe, state
    from bot import models as own
    from bot.house.model import HouseEvidence
    from bot.lab import record
    from bot.review import check
    from bot.stages import audit, repair

    return {
        "recipe": recipe.Recipe,
        "fleet": fleet.Fleet,
        "job": own.Release,
        "base": own.BaseEvidence,
        "quantize-job": own.BackendJob,
        "quantize-result": own.BackendResult,
        "quantize": own.QuantizeEvidence,
        "repair": evidence.RepairEvidence,
        "repair-report": repair.RepairReport,
        "audit": evidence.AuditEvidence,
        "audit-report": audit.AuditReport,
        "upload": own.UploadEvidence,
        "publish": own.PublishEvidence,
        "build_evidence": evidence.Build,
        "evidence": evidence.Evidence,
        "plan": plan.Plan,
        "attempts": state.Attempts,
        "decisions": state.Decisions,
        "lease": state.Lease,
        "queued": state.Queued,
        "unchanged": state.Unchanged,
        "seen": state.Seen,
        "watched": state.Roster,
        "ticked": state.Ticked,
        "paused": state.Paused,
        "status": overview.Overview,
        "verdict": check.Verdict,
        "lab": record.LabEvidence,
        "lab-variant": record.Measured,
        "house": HouseEvidence,
    }


def text(model: type[BaseModel]) -> str:
    """The schema as it stands in its file."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def path(name: str) -> Path:
    return FOLDER / f"{name}.schema.json"
