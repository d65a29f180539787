"""What stages leave behind: the job and the evidence of each stage, as JSON with a schema.

Evidence is the only thing a card, a gate or a plot may read. Every file carries
`schema_version`; times are UTC, sizes bytes, durations seconds.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bot.errors import InputError

SCHEMA_VERSION: Final = 1
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
CommitSha = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Base(Model):
    """The base model at one commit; everything downstream uses this sha and never resolves `main` again."""

    repo_id: str
    revision: CommitSha


class FileDigest(Model):
    path: str
    size_bytes: int
    sha256: Sha256


class Release(Model):
    """`job.json`: what is to be made. Written once; a work folder that holds another one is refused."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str
    base: Base
    recipe_name: str
    recipe_digest: Sha256
    recipe: dict[str, Any]
    toolchain_epoch: int
    overrides: dict[str, str]
    rehearsal: bool
    repinned: dict[str, str]
    target_repo: str
    endpoint_kind: Literal["hub", "embedded"]


# ── the quantizer's job and result: they cross a process boundary ──────────────────────────


class BackendJob(Model):
    """`quantize-job.json`: everything a quantizer subprocess is told."""

    schema_version: Literal[1] = SCHEMA_VERSION
    backend: Literal["gptqmodel", "autoround", "modelopt"]
    base_folder: str
    base: Base
    output_folder: str
    resume_folder: str
    result_file: str
    recipe: dict[str, Any]
    device: Literal["cpu", "cuda"]
    num_threads: int


class CalibrationUse(Model):
    """What a calibration set really gave, counted where the tool sees it."""

    dataset: str
    revision: str
    config: str | None
    split: str
    subsets: list[str] | None
    rows: str
    num_samples: int
    num_samples_seen: int
    num_tokens: int
    min_tokens: int
    max_tokens: int
    num_images: int
    sha256: Sha256


class ModuleResult(Model):
    """One quantized module: the tool's own loss (its unit differs from tool to tool) and its samples."""

    name: str
    loss: float
    num_samples: int | None
    damp: float | None


class ParameterUse(Model):
    """A parameter of the method, and whether it acted: a card claims only what did."""

    parameter: str
    value: Any
    acted: bool
    why: str


class BackendResult(Model):
    """`quantize-result.json`: what a quantizer subprocess saw."""

    schema_version: Literal[1] = SCHEMA_VERSION
    versions: dict[str, str]
    calibration: list[CalibrationUse]
    modules: list[ModuleResult]
    loss_unit: str
    parameters: list[ParameterUse]
    patches: list[str]
    num_layers: int
    resumed_layers: int
    can_resume: bool
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None
    load_s: float
    quantize_s: float
    save_s: float


class Hardware(Model):
    """The machine, without its name."""

    cpu: str
    num_cores: int
    memory_bytes: int
    gpu: str | None
    gpu_memory_bytes: int | None
    platform: str
    python: str


class QuantizeEvidence(Model):
    """`evidence/quantize.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["quantize"] = "quantize"
    inputs_digest: Sha256
    command: str
    environment: str
    environment_digest: Sha256
    hardware: Hardware
    started_at: str
    wall_s: float
    result: BackendResult
    output_files: list[FileDigest]


class BaseFile(Model):
    """A file of the base at its revision: enough to class a later change, even after a force-push."""

    path: str
    size_bytes: int
    blob_id: str
    sha256: str | None


class BaseEvidence(Model):
    """`evidence/base.json`: what the base is, read from its config and headers, and every blob of it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["base"] = "base"
    base: Base
    head: CommitSha
    model_type: str
    architectures: list[str]
    num_parameters: int
    num_tensors: int
    tensor_bytes: int
    bytes_by_part: dict[str, int]
    num_mtp_tensors: int
    num_visual_tensors: int
    license: str
    license_name: str | None
    license_link: str | None
    pipeline_tag: str
    languages: list[str]
    files: list[BaseFile]


class UploadEvidence(Model):
    """`evidence/upload.json`: the pull request on the Hub, and the digests that came back from it."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["upload"] = "upload"
    inputs_digest: Sha256
    repo_id: str
    pr_num: int
    parent: CommitSha
    pr_head: CommitSha
    files: list[FileDigest]
    blob_ids: dict[str, str]
    removed: list[str]
    wall_s: float


class PublishEvidence(Model):
    """`evidence/publish.json`: what is public, read back after the merge."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["publish"] = "publish"
    repo_id: str
    pr_num: int
    revision: CommitSha
    tag: str
    num_files_verified: int
    bytes_verified: int
    public: bool
    collection: str | None
    collection_error: str | None
    published_at: str


# ── reading and writing ────────────────────────────────────────────────────────────────────

M = TypeVar("M", bound=BaseModel)


def write_json(path: Path, model: BaseModel) -> None:
    """Write `model` so that a reader sees the old file or the new one, never half of one."""
    write_atomically(path, (model.model_dump_json(indent=2) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, sync it, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_json(path: Path, model: type[M]) -> M:
    """The `model` in `path`; InputError when the file is missing or does not hold one."""
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as e:
        raise InputError(f"{path.name} cannot be read: {e.strerror}", where=str(path)) from e
    except ValidationError as e:
        first = e.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path.name} is not a valid {model.__name__}: {field}: {first['msg']}",
            where=str(path),
            why="it was edited, or written by another version of the bot",
            fix="remove the file to have the stage run again",
        ) from e
