"""Title and body of a card's pull request: what a reviewer needs before opening a file."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from bot import comparison, naming, plots
from bot.edges.github import MAX_TEXT_CHARS
from bot.evidence import Evidence
from bot.plots.theme import DARK, LIGHT
from bot.review import change, words
from bot.stages import gate

MARKER = "<!-- release-bot:card -->"
MAX_DETAIL_CHARS = 200  # of what one gate saw; the card has all of it
MAX_FILES = 40


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the pull request's files are on GitHub, at the commit it shows, and where the Hub is."""

    hub: str
    files: str
    card: str


def title(evidence: Evidence) -> str:
    release = evidence.release
    return words.title(naming.commit_title(release.key, release.base, release.recipe_name))


def body(evidence: Evidence, before: Evidence | None, places: Places) -> str:
    """The whole body, cut where GitHub would refuse it."""
    parts = [
        MARKER,
        _lead(evidence, places),
        _republished(evidence),
        _gates(evidence),
        _figures(evidence),
        _change(evidence, before),
        _plots(evidence, places),
        REVIEWING,
    ]
    shown = [each for each in parts if each]
    while len("\n\n".join(shown)) > MAX_TEXT_CHARS and len(shown) > 3:
        shown.pop(-2)
    return "\n\n".join(shown)


def _lead(evidence: Evidence, places: Places) -> str:
    release, upload = evidence.release, evidence.upload
    repo = f"{places.hub}/{quote(upload.repo_id)}"
    rehearsal = "**A rehearsal**, not to be used. " if release.rehearsal else ""
    return (
        f"{rehearsal}{words.code(release.base.repo_id)} at {words.code(release.base.revision[:12])} by "
        f"{words.code(release.recipe_name)}, to be published as [{words.plain(upload.repo_id)}]({repo}).\n\n"
        f"Staged: [pull request {upload.pr_num} on the Hub]({repo}/discussions/{upload.pr_num}) at "
        f"{words.code(upload.pr_head[:12])}, {len(upload.files)} files, release {words.code(release.key)}. "
        f"The card: [README.md]({places.card})."
    )


def _republished(evidence: Evidence) -> str:
    """What a metadata release is: whose weights and figures a reviewer looks at, and what alone is new."""
    found = evidence.republished
    if found is None:
        return ""
    files = ", ".join(words.code(each) for each in found.files[:MAX_FILES]) or "none"
    more = f" and {len(found.files) - MAX_FILES} more" if len(found.files) > MAX_FILES else ""
    return (
        "**A metadata release.** The same weights are published once more: they, and every figure below, "
        f"are those of release {words.code(found.key)} of the base at "
        f"{words.code(found.base_revision[:12])}, and nothing was measured again. "
        f"New are the base's side files: {files}{more}."
    )


def _gates(evidence: Evidence) -> str:
    gates = evidence.gates
    blocking = gate.blocking(gates)
    counted = comparison.of(evidence).gates
    lines = [
        "## Gates",
        "",
        f"{counted.passed} of {len(gates.results)} passed, {counted.failed} failed, "
        f"{counted.not_applicable} not applicable.",
    ]
    if blocking:
        held = [f"{each.id}, {each.status}: {each.detail}" for each in blocking]
        lines += ["", "**Not to be published** unless a maintainer overrides:", "", words.block(held)]
    if gates.override:
        decision = gates.override
        lines += [
            "",
            f"**In spite of** {words.plain(', '.join(decision.gates))}: {words.plain(decision.who)} decided "
            f"so on {words.plain(decision.at)}: {words.plain(decision.why)}",
        ]
    return "\n".join([*lines, "", _every_gate(evidence)])


def _every_gate(evidence: Evidence) -> str:
    """What each gate saw, folded: the reviewer of a release that passed reads on without it."""
    rows = [
        [words.code(each.id), each.status.replace("_", " "), words.plain(each.detail, most=MAX_DETAIL_CHARS)]
        for each in evidence.gates.results
    ]
    shown = words.table(["gate", "outcome", "what was seen"], rows)
    return f"<details><summary>What each gate saw</summary>\n\n{shown}\n\n</details>"


def _figures(evidence: Evidence) -> str:
    found = comparison.headline_table(comparison.of(evidence))
    rows = [[words.plain(each) for each in [label, *cells]] for label, cells in found.rows]
    table = words.table(["", *(words.plain(each) for each in found.titles)], rows)
    notes = [f"- Not measured: {words.plain(each)}" for each in found.notes]
    return "\n\n".join(["## TL;DR", table, *(["\n".join(notes)] if notes else [])])


def _change(evidence: Evidence, before: Evidence | None) -> str:
    if before is None:
        return "## Change\n\nNo earlier release by this recipe is known here."
    was = before.release
    head = f"{words.code(was.base.repo_id)} at {words.code(was.base.revision[:12])}"
    rows = [[words.plain(each.title), each.before, each.now] for each in change.rows(before, evidence)]
    return (
        f"## Change\n\nAgainst release {words.code(was.key)} of {head}. Each is held against its own base, "
        "in its own run.\n\n" + words.table(["", "before", "now"], rows)
    )


def _plots(evidence: Evidence, places: Places) -> str:
    """The plots, two beside each other; open, since looking at them is a part of the review."""
    pictures = []
    for plot in plots.of(evidence, comparison.of(evidence)):
        light, dark = (f"{places.files}/{plot.path(theme)}" for theme in (LIGHT, DARK))
        pictures.append(
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img width="49%" alt="{plot.alt}" src="{light}"></picture>'
        )
    if not pictures:
        return ""
    return "<details open><summary>Plots</summary>\n\n" + "\n".join(pictures) + "\n\n</details>"


REVIEWING = """## Reviewing

- **Merge** publishes exactly these weights with exactly this card.
- **Close** without merging refuses the release and closes the pull request on the Hub.
- Words may be edited between the `prose` marks of the card; figures change only with their evidence.
- Comments that command, from people with write access: `/override GATE why`, `/retry`, `/skip why`."""
