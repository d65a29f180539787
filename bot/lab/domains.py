"""What the lab scores: three kinds of text, each with a split to choose by and another to report on.

No set that a shipped recipe calibrates on is used at the split that it calibrates on. Kinds are shared,
though: UltraChat's test splits are like what `gptq-w4a16-g128` and the house recipes calibrate on, Python
functions like what `gptq-foem-g32` does, and those texts favour these. So a claim is held to each kind apart.

A set without a pinned commit is taken as it is today; its commit stands in the evidence and in every key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bot.edges.hub import Hub
from bot.recipe_evaluation import Evaluation

Split = Literal["choose", "report"]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A data set on the Hub; `revision` None is not pinned yet."""

    name: str
    dataset: str
    revision: str | None
    config: str
    column: str
    splits: dict[Split, str]


DOMAINS = (
    Domain(
        name="prose",
        dataset="Salesforce/wikitext",
        revision="b08601e04326c79dfdd32d625aee71d232d685c3",
        config="wikitext-2-raw-v1",
        column="text",
        splits={"choose": "validation", "report": "test"},
    ),
    Domain(
        name="code",
        dataset="google/code_x_glue_ct_code_to_text",
        revision=None,
        config="python",
        column="code",
        splits={"choose": "validation", "report": "test"},
    ),
    Domain(
        name="chat",
        dataset="HuggingFaceH4/ultrachat_200k",
        revision="8049631c405ae6576f93f445c6b8166f76f5505a",
        config="default",
        column="messages",
        splits={"choose": "test_gen", "report": "test_sft"},
    ),
)


def evaluation(domain: Domain, split: Split, plan: Evaluation, hub: Hub) -> Evaluation:
    """`plan` (windows and tokens) over this domain's text, at the commit that this Hub has of it.

    Raises InputError when the Hub has no such set.
    """
    revision = domain.revision
    if revision is None or hub.embedded:  # an embedded Hub has stand-ins, at commits of its own
        revision = hub.head(domain.dataset, repo_type="dataset")
    text = {"dataset": domain.dataset, "revision": revision, "config": domain.config, "column": domain.column}
    return plan.model_copy(update=text | {"split": domain.splits[split]})
