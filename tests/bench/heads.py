"""Does the MTP head draft better in BF16 or at 4 bits? `python -m tests.bench.heads RELEASE_FOLDER …`.

Every recipe keeps the head as the base has it. This measures what that is worth: the same quantized body is
served three times, with the head as released, with its decoder layer rounded to the recipe's format, and with
`mtp.fc` rounded too (`rounded_head` says how, and what it leaves out). Beside them stands the base with its
own head. Counted is what `release-bot measure` counts, by the same code and kept in the same place:
acceptance by position over the real prompts, and the soak's windows.

What decides is read across the rows of one body. Greedy answers are the verifier's and do not depend on the
head but for near-ties, so that rows of one body answer the same texts and differ by the head alone. Over the
soak that gives an interval: of the mean change of a window's share against the BF16 head's, by a bootstrap
that draws windows (`bot.serving.bootstrap`). Over the prompts `±` is the standard error of the first
position's share as if rows had nothing in common, and wider than that of their difference.

The body's own effect is in the ratio to the base's. No speed is measured: a rounded head is computed with in
BF16. With an engine that refuses a packed `mtp.fc` (vLLM 0.32.0 does) the last row could not be released.

By default the evaluation set is the stand-in of an embedded Hub and sizes are the rehearsal's, which fit the
tiny base; `--online` takes both from the recipe, for a release of a real base on a machine that serves it.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from bot import byhand, config, localhub
from bot.commands import _pairs
from bot.config import Config
from bot.demo import rehearsal
from bot.edges import hub as hubs
from bot.errors import InputError, NotServable, ReleaseBotError
from bot.figures import gib, percent
from bot.measurements import Acceptance, Drafts, EngineFacts, Interval, Soak, SubjectFacts
from bot.models import Model
from bot.serving import bootstrap, sittings
from bot.serving.examination import Examination
from tests.bench import rounded_head

Head = Literal["BF16", "layer at 4 bits", "layer and fc at 4 bits"]
HEADS: Final[tuple[Head, ...]] = get_args(Head)
SIZES: Final = {key: value for key, value in rehearsal.SCALE["nvfp4"].items() if key.startswith("evaluation")}
COLUMNS: Final = (
    "recipe",
    "head",
    "prompts, by position",
    "±",
    "tokens a pass",
    "÷ base",
    "soak",
    "÷ base",
    "lowest window ÷ base",
    "against BF16 head, 95%",
    "saves",
)


class Drafted(Model):
    """One checkpoint's drafts."""

    subject: SubjectFacts
    acceptance: Acceptance
    soak: Soak


class HeadOfRelease(Model):
    """A release's body with one head; `rounded` names its matrices at 4 bits, which packed save the bytes."""

    head: Head
    rounded: list[str]
    saved_bytes: int
    drafted: Drafted


class ReleaseHeads(Model):
    """A release with each head, and its base with its own."""

    recipe: str
    group_size: int
    overrides: dict[str, str]
    engine: EngineFacts
    base: Drafted
    heads: list[HeadOfRelease]


class HeadsEvidence(Model):
    """What `--out` writes."""

    schema_version: Literal[1] = 1
    releases: list[ReleaseHeads]


# ── measuring ──────────────────────────────────────────────────────────────────────────────


def compared(asked: byhand.Asked, release: Path, base: str, overrides: dict[str, str]) -> ReleaseHeads:
    """Serve the base, then `release` with each head. InputError for a head that is missing or packed."""
    method = asked.recipe.method
    at_base = asked.examination(base, "base")
    heads = []
    with tempfile.TemporaryDirectory(prefix="heads-", dir=_made(asked.config.home / "heads")) as scratch:
        own = drafted(at_base)
        for head in HEADS:
            folder, entries = release, []
            if head != "BF16":
                folder = Path(scratch) / str(HEADS.index(head))
                entries = rounded_head.write(
                    release,
                    folder,
                    packing=method.packing,
                    group_size=method.group_size,
                    fc=head == "layer and fc at 4 bits",
                )
            found = drafted(asked.examination(str(folder), "release", at_base))
            saved = rounded_head.saved_bytes(entries, packing=method.packing, group_size=method.group_size)
            names = [each.name for each in entries]
            heads.append(HeadOfRelease(head=head, rounded=names, saved_bytes=saved, drafted=found))
    return ReleaseHeads(
        recipe=asked.recipe.name,
        group_size=method.group_size,
        overrides=overrides,
        engine=asked.engine.facts,
        base=own,
        heads=heads,
    )


def drafted(x: Examination) -> Drafted:
    """Acceptance and soak, read where they were measured before. Raises NotServable, EngineError."""
    if failure := sittings.drafts_alone(x):
        raise NotServable(failure.kind, failure.what, log_tail=failure.log_tail, where=x.subject.facts.name)
    return Drafted(subject=x.subject.facts, acceptance=x.read("acceptance"), soak=x.read("soak"))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ── telling ────────────────────────────────────────────────────────────────────────────────


def markdown(found: HeadsEvidence) -> str:
    """The table of all releases."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *(row for each in found.releases for row in rows(each))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(found: ReleaseHeads) -> list[tuple[str, ...]]:
    """Under COLUMNS: the base, then the release with each head."""
    first, base = found.heads[0].drafted, found.base
    shown = [(found.recipe, "base, its own", *_shares(base, base), "", "")]
    for each in found.heads:
        against = (_points(change(each.drafted.soak, first.soak)), gib(each.saved_bytes))
        own = against if each.rounded else ("", "")
        shown.append((found.recipe, each.head, *_shares(each.drafted, base), *own))
    return shown


def _shares(one: Drafted, base: Drafted) -> tuple[str, ...]:
    total, grown = one.acceptance.total, windows(one.soak)
    return (
        " ".join(percent(each) for each in total.by_position),
        percent(standard_error(total)),
        f"{total.length:.3f}",
        _ratio(total.length, base.acceptance.total.length),
        percent(grown.rate),
        _ratio(grown.rate, windows(base.soak).rate),
        f"{lowest_window(one.soak, base.soak):.3f}",
    )


def windows(soak: Soak) -> Drafts:
    """All windows of the soak as one."""
    each = [window.drafts for window in soak.windows]
    by_position = zip_longest(*(drafts.accepted_by_position for drafts in each), fillvalue=0)
    return Drafts(
        num_drafts=sum(drafts.num_drafts for drafts in each),
        num_draft_tokens=sum(drafts.num_draft_tokens for drafts in each),
        num_accepted_tokens=sum(drafts.num_accepted_tokens for drafts in each),
        accepted_by_position=[sum(position) for position in by_position],
    )


def lowest_window(soak: Soak, base: Soak) -> float:
    """The least of a window's share over the base's at the same context; inf where the base has none."""
    shares = {window.context_tokens: window.drafts.rate for window in base.windows}
    ratios = [w.drafts.rate / shares[w.context_tokens] for w in soak.windows if shares.get(w.context_tokens)]
    return min(ratios, default=math.inf)


def standard_error(drafts: Drafts) -> float:
    """Of the share accepted at the first position, drafts taken as independent."""
    share = drafts.by_position[0] if drafts.by_position else 0.0
    return math.sqrt(share * (1 - share) / drafts.num_drafts) if drafts.num_drafts else 0.0


def change(soak: Soak, other: Soak) -> Interval:
    """95% interval of the mean, over windows, of the share in `soak` less that in `other`.

    ValueError for other windows.
    """
    pairs = zip(soak.windows, other.windows, strict=True)
    differences = np.array([one.drafts.rate - two.drafts.rate for one, two in pairs])
    return bootstrap.interval(differences, np.arange(len(differences)))


def _points(found: Interval) -> str:
    return f"{found.low * 100:+.1f} to {found.high * 100:+.1f} points"


def _ratio(one: float, other: float) -> str:
    return f"{one / other:.3f}" if other else "–"


# ── the command ────────────────────────────────────────────────────────────────────────────


@contextmanager
def _hub(settings: Config, *, online: bool) -> Iterator[hubs.Hub]:
    """The Hub of the environment, or an embedded one with stand-ins of the data sets."""
    if online:
        yield hubs.Hub(embedded=hubs.prepare_environment(settings.home))
        return
    with localhub.running(settings.home / "heads" / "hub") as running:
        os.environ["HF_ENDPOINT"], os.environ["HF_TOKEN"] = running.url, running.token
        hub = hubs.Hub(embedded=hubs.prepare_environment(settings.home))
        rehearsal.seed(hub)
        yield hub


def main(argv: Sequence[str]) -> int:
    """Print the table of every release; 0, or the exit code of what failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.heads")
    parser.add_argument(
        "release", nargs="+", type=Path, help="a checkpoint's folder, or a release's work folder"
    )
    parser.add_argument(
        "--base", default=str(rehearsal.FIXTURE), help="folder or repo (default: the tiny base)"
    )
    parser.add_argument("--recipe", help="whose format and evaluation (default: that of the same packing)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the evaluation")
    parser.add_argument("--online", action="store_true", help="the recipe's evaluation, from the Hub")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the evidence there, as JSON")
    told = parser.parse_args(argv)
    try:
        print(markdown(_run(told, config.load())))
    except ReleaseBotError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    return 0


def _run(told: argparse.Namespace, settings: Config) -> HeadsEvidence:
    """Compare the heads of every release; what is measured is written as it comes."""
    sizes = ({} if told.online else SIZES) | _pairs(told.set)
    found: list[ReleaseHeads] = []
    checkpoints = [_checkpoint(each) for each in told.release]
    with _hub(settings, online=told.online) as hub:
        for at in checkpoints:
            asked = byhand.ask(str(at), told.recipe, sizes, hub, settings)
            found.append(compared(asked, at, told.base, sizes))
            if told.out:
                told.out.write_text(HeadsEvidence(releases=found).model_dump_json() + "\n", encoding="utf-8")
    return HeadsEvidence(releases=found)


def _checkpoint(folder: Path) -> Path:
    at = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
    if not at.is_dir():
        raise InputError("there is no such folder", where=str(at), fix="name a checkpoint's folder")
    return at


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
