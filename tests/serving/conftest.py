"""The real engine, and one server of the tiny base that every test of this folder may ask.

A start takes half a minute, so a test that only asks uses `tiny_server`; one that breaks its server starts
its own. Counters of `tiny_server` only ever grow: take differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot import config
from bot import recipe as recipes
from bot.demo.rehearsal import FIXTURE
from bot.recipe import Serve
from bot.serving import engine as engines
from bot.serving import server, subject
from bot.serving.engine import Engine
from bot.serving.server import Server
from bot.serving.subject import Subject

ROOT = Path(__file__).resolve().parents[2]
SubjectOf = Callable[[Path], Subject]


@pytest.fixture(scope="session")
def engine() -> Engine:
    """vLLM in the product's own environment, built below RELEASE_BOT_HOME (or this checkout) at first use."""
    return engines.ready(config.load(ROOT).home)


@pytest.fixture(scope="session")
def serve() -> Serve:
    """How the tests serve: two drafts a step, 16 sequences, nothing that belongs to a packing."""
    shipped = recipes.load("gptq-w4a16-g128").serve
    return shipped.model_copy(update={"kv_cache_dtype": "auto", "enable_prefix_caching": None})


@pytest.fixture(scope="session")
def subject_of(engine: Engine, serve: Serve) -> SubjectOf:
    """A folder as a subject to serve."""
    return lambda folder: subject.of_folder(
        folder, engine.facts, role="base", name="Qwen/Qwen3.5-tiny", revision=None, serve=serve
    )


@pytest.fixture(scope="session")
def tiny(subject_of: SubjectOf) -> Subject:
    """The trained fixture."""
    return subject_of(FIXTURE)


@pytest.fixture(scope="session")
def tiny_server(tiny: Subject, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The trained fixture, served with drafts for as long as the tests run."""
    with server.serving(tiny, engine, drafting=True, logs=tmp_path_factory.mktemp("logs")) as running:
        yield running
