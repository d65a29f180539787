"""Draw the README's card pull request and dashboard: `python docs/github_pictures.py DEMO_WORK`.

DEMO_WORK is the work folder of a `make demo` (`.release-bot/demo/work`). What is drawn is what the bot wrote:
the demo's evidence and weights go to an embedded Hub and an emulated GitHub, both on loopback, through the
bot's own upload, card pull request, check, comment and dashboard; their texts are read back, rendered as
GitHub renders them, and photographed by Chromium.

Staged here, because a demo has one base and no past: the predecessor is the earlier golden evidence of the
same recipe in this repository's history, and the dashboard's other bases and failures are written into its
records. No figure is.
"""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from markdown_it import MarkdownIt
from PIL import Image, ImageChops

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "github"))
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the embedded Hub has no Xet

import emulated
from acting import git

from bot import dashboard, localhub, overview, repo
from bot.attempts import BACKOFF
from bot.edges.github import GitHub, Pull
from bot.edges.hub import Hub
from bot.edges.state_branch import BranchState
from bot.errors import InputError
from bot.evidence import Evidence
from bot.ledger import CardPull, HubPull, Pair, Records, Target, World
from bot.models import Base, write_json
from bot.recipe import Recipe
from bot.review import check, comment, layout
from bot.review.pull import bring
from bot.stages import card, upload
from bot.state import Attempt, Attempts, Decision, Decisions, Lease, Step, Tracked
from bot.workspace import Workspace

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECIPE = "gptq-w4a16-g128"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MARKDOWN = MarkdownIt("gfm-like", {"html": True, "linkify": False})
MAX_BYTES = 400_000
GOOD, NOTE = ("passed", "checked"), ("rehearsal",)


def main() -> None:
    """Draw both pictures beside this file."""
    works = {found.release.recipe_name: (work, found) for work, found in demo(Path(sys.argv[1]))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "hub").mkdir()
        with emulated.running(folder) as server, localhub.running(folder / "hub") as served:
            github, state = server.client(), BranchState(server.client())
            hub = Hub(embedded=True, endpoint=served.url, token=served.token)
            pull, cards = reviewed(folder, github, state, hub, *works[RECIPE])
            page = pull_page(github, pull, cards)
            shoot(page, HERE / "card-pull-request.png", folder)
            for name, (work, found) in works.items():
                if name != RECIPE:
                    layout_card(work.card, folder / "checkout" / layout.folder_of(found.release.target_repo))
            seen = overviewed(folder / "checkout", {n: f for n, (_, f) in works.items()}, pull, hub.endpoint)
            dashboard.show(github, state, seen, done=[], ignored=None)
            shoot(dashboard_page(github), HERE / "dashboard.png", folder)


def demo(folder: Path) -> list[tuple[Workspace, Evidence]]:
    """The releases of a demo: where each lies, and the evidence of its card."""
    works = [Workspace(path.parents[1]) for path in sorted(folder.glob("*/card/evidence.json"))]
    return [
        (work, Evidence.model_validate_json((work.card / "evidence.json").read_bytes())) for work in works
    ]


# ── the pull request ───────────────────────────────────────────────────────────────────────


def reviewed(
    folder: Path, github: GitHub, state: BranchState, hub: Hub, work: Workspace, found: Evidence
) -> tuple[Pull, Path]:
    """Merge the predecessor's card; stage a release, open its card, check it and comment."""
    before = drawn(folder / "before", predecessor(found))
    first = bring(github, state, before, folder / "before", hub_url=hub.endpoint)
    github._repo.get_pull(first.number).merge(merge_method="squash")
    sums = {name: work.extra / name for name in ("recipe.yaml", "quant_log.csv", repo.SUMS)}
    files = repo.digests(work.checkpoint, sums | {"build_evidence.json": work.extra / "build_evidence.json"})
    uploaded = upload.upload(found.release, files, inputs_digest=found.upload.inputs_digest, hub=hub)
    now = drawn(folder / "now", found.model_copy(update={"upload": uploaded}))
    opened = bring(github, state, now, folder / "now", hub_url=hub.endpoint)
    pull = github.pull(opened.number)
    verdict = folder / "verdict.json"
    write_json(verdict, checked(folder / "checkout", folder / "now", opened.folder, now.release.key))
    comment.comment(github, state, hub, head_sha=pull.head_sha, branch=pull.branch, verdict_file=verdict)
    return github.pull(opened.number), folder / "now"


def predecessor(found: Evidence) -> Evidence:
    """The golden evidence of the same recipe that stood here before this one's key. Raises InputError."""
    path = f"tests/fixtures/cards/{found.release.recipe_name}/evidence.json"
    for commit in git(ROOT, "log", "--format=%H", "--", path).split():
        try:
            before = Evidence.model_validate_json(git(ROOT, "show", f"{commit}:{path}"))
        except ValueError:
            continue
        if before.release.key != found.release.key:
            return before
    raise InputError("no earlier golden evidence can be read", where=path, fix="fetch the whole history")


def drawn(folder: Path, evidence: Evidence) -> Evidence:
    """Render a card with its plots."""
    card.render_to(folder, evidence)
    return evidence


def checked(checkout: Path, source: Path, folder: str, key: str) -> check.Verdict:
    """The verdict of the card's check, on a checkout whose last commit brings the card."""
    checkout.mkdir()
    git(checkout, "init", "--quiet", "--initial-branch", "main")
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "Before")
    layout_card(source, checkout / folder)
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "Card")
    return check.check(checkout, key=key, since="HEAD^1")


def layout_card(source: Path, target: Path) -> None:
    """Copy a card to where the repository has it."""
    for name, path in layout.files_in(source).items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(path.read_bytes())


# ── the dashboard ──────────────────────────────────────────────────────────────────────────


def overviewed(root: Path, found: dict[str, Evidence], pull: Pull, hub_url: str) -> overview.Overview:
    """Three bases by four recipes, each in another state; figures are those of the demo's cards."""
    recipes = [Recipe.model_validate(each.release.recipe) for each in found.values()]
    tiny = found[RECIPE].release.base
    others = [Base(repo_id=f"Qwen/Qwen3.6-{name}", revision=tiny.revision[::-1]) for name in ("tiny", "mini")]
    release = found[RECIPE].release
    pairs = overview.pairs(
        [tracked(base) for base in (tiny, *others)],
        recipes,
        organization=release.target_repo.partition("/")[0],
        toolchain_epoch=release.toolchain_epoch,
    )
    at = {(each.base.partition("/")[2], each.recipe): each for each in pairs}
    world = World(
        records=records(at),
        targets=targets(at),
        staged={
            each.key: HubPull(key=each.key, repo_id=each.target_repo, number=1, status="open")
            for each in (at["Qwen3.5-tiny", RECIPE], at["Qwen3.6-tiny", "nvfp4"])
        },
        cards={release.key: CardPull(key=release.key, number=pull.number, state="open", url=pull.url)},
        figures=overview.figures_of(root),
        hub_url=hub_url,
    )
    return overview.overview(pairs, world, paused=None, now=NOW)


def tracked(base: Base) -> Tracked:
    step = Step(repo_id=base.repo_id, revision=base.revision, kind="weights")
    return Tracked(
        repo_id=base.repo_id, hub_id="", revision=base.revision, modified_at=NOW, model_type="qwen3_5",
        architectures=["Qwen3_5ForConditionalGeneration"], num_parameters=5_600_000, steps=[step], gone=None,
    )  # fmt: skip


def targets(at: dict[tuple[str, str], Pair]) -> dict[str, Target]:
    """Two repos are public; one waits for its publisher."""
    private = {"autoround-w4a16-g128": False, "gptq-foem-g32": False, "nvfp4": True}
    pairs = [(at["Qwen3.5-tiny", recipe], hidden) for recipe, hidden in private.items()]
    return {
        pair.target_repo: Target(repo_id=pair.target_repo, private=hidden, keys=frozenset({pair.key}))
        for pair, hidden in pairs
    }


def records(at: dict[tuple[str, str], Pair]) -> Records:
    """What the state branch would hold of runs that failed, of one that runs, and of people's decisions."""
    broke = at["Qwen3.6-tiny", RECIPE]
    bad = at["Qwen3.6-tiny", "autoround-w4a16-g128"]
    runs = at["Qwen3.6-tiny", "gptq-foem-g32"]
    said = {
        at["Qwen3.6-mini", "nvfp4"]: ("refuse", "the base's licence changed"),
        at["Qwen3.6-mini", "gptq-foem-g32"]: ("skip", "g128 serves this size"),
    }
    attempts = [
        attempt(broke, "upload", "infrastructure", "the Hub answers 503"),
        attempt(bad, "audit", "audit", "mtp.bits: 1 tensor of the MTP head differs from the base's"),
    ]
    return Records(
        attempts={each.key: Attempts(key=each.key, attempts=[each]) for each in attempts},
        decisions={pair.key: decided(pair, *words) for pair, words in said.items()},
        leases={runs.key: lease(runs)},
    )


RUN = "https://github.com/release-bot/releases/actions/runs/7"


def attempt(pair: Pair, stage: str, failure_class: str, what: str) -> Attempt:
    return Attempt.model_validate(
        {"key": pair.key, "base": pair.base, "revision": pair.revision, "recipe": pair.recipe, "stage": stage,
         "failure_class": failure_class, "what": what, "at": NOW - BACKOFF[0] / 2,
         "run_url": RUN, "run_id": "7"}
    )  # fmt: skip


def decided(pair: Pair, kind: str, why: str) -> Decisions:
    said = {"key": pair.key, "kind": kind, "who": "ann", "why": why, "at": NOW, "gates": []}
    return Decisions(key=pair.key, decisions=[Decision.model_validate(said)])


def lease(pair: Pair) -> Lease:
    return Lease(
        key=pair.key, base=pair.base, revision=pair.revision, recipe=pair.recipe, holder="run 7, attempt 1",
        run_url=RUN, taken_at=NOW - timedelta(minutes=40), expires_at=NOW + timedelta(hours=1),
    )  # fmt: skip


# ── as GitHub shows it ─────────────────────────────────────────────────────────────────────


def pull_page(github: GitHub, pull: Pull, cards: Path) -> str:
    """The pull request with its comment; its plots are read from the card's folder."""
    said = [each for each in github.comments(pull.number) if each.body.startswith(comment.MARKER)]
    asks = (
        f'<span class="pill">Open</span><b>release-bot</b> wants to merge into <code>main</code> '
        f"from <code>{html.escape(pull.branch)}</code>"
    )
    body = re.sub(r"https?://[^\"\s]+/raw/[0-9a-f]+/model_cards/[^/\"]+/", f"{cards.as_uri()}/", pull.body)
    boxes = [box("opened this pull request", body), *(box("commented", each.body) for each in said)]
    return page(f"{head(pull.title, pull.number)}<p>{asks}</p><p>{labelled(pull.labels)}</p>", boxes)


def dashboard_page(github: GitHub) -> str:
    issue = dashboard.find(github)
    assert issue is not None
    asks = f'<p><span class="pill">Open</span>{labelled([dashboard.LABEL])}</p>'
    return page(head(dashboard.TITLE, issue.number) + asks, [box("opened this issue", issue.body)])


def head(title: str, number: int) -> str:
    return f'<h1>{html.escape(title)} <span class="number">#{number}</span></h1>'


def labelled(names: list[str]) -> str:
    def kind(name: str) -> str:
        return "good" if name.endswith(GOOD) else "note" if name in NOTE else ""

    return "".join(f'<span class="label {kind(each)}">{html.escape(each)}</span>' for each in sorted(names))


def box(did: str, text: str) -> str:
    """One comment: Markdown as GitHub renders it, task lists too."""
    shown = MARKDOWN.render(text)
    shown = re.sub(r"<li>\[ \] ", '<li class="task"><input type="checkbox">', shown)
    top = f'<div class="head"><b>release-bot</b> (bot) {did}</div>'
    return f'<div class="box">{top}<div class="text">{shown}</div></div>'


def page(top: str, boxes: list[str]) -> str:
    style = (HERE / "github_page.css").read_text(encoding="utf-8")
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style>{top}{"".join(boxes)}'


def shoot(text: str, target: Path, folder: Path) -> None:
    """Photograph a page at its whole height. Raises ValueError for a picture too large for a README."""
    source, shot = folder / f"{target.stem}.html", folder / target.name
    source.write_text(text, encoding="utf-8")
    command = [
        "chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--allow-file-access-from-files",
        "--force-prefers-reduced-motion", f"--user-data-dir={folder / 'chromium'}", "--window-size=1040,6000",
        f"--screenshot={shot}", source.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=180)
    with Image.open(shot) as image:
        cut(image.convert("RGB")).quantize(128).save(target, optimize=True)
    if (size := target.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{target.name} has {size:,} bytes, more than {MAX_BYTES:,}")
    print(json.dumps({"picture": target.name, "bytes": size}))


def cut(image: Image.Image) -> Image.Image:
    """The page without the white below it."""
    white = Image.new("RGB", image.size, "#fff")
    bounds = ImageChops.difference(image, white).getbbox()
    return image.crop((0, 0, image.width, (bounds[3] if bounds else image.height) + 24))


if __name__ == "__main__":
    main()
