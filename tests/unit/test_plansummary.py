"""The job's summary: complete, short enough, and nothing in it is markup that came from outside."""

from __future__ import annotations

from markdown_it import MarkdownIt

from bot import plansummary
from bot.plan import Plan, PlanEntry, Skip
from bot.watch import Change, Skipped, Watched

HOSTILE = (
    "<img src=x onerror=alert(1)> | @everyone [x](http://evil.test) `${{ secrets.HF_TOKEN }}`\n::set-output::"
)


def entry(base: str = "Qwen/a") -> PlanEntry:
    return PlanEntry(
        key="0" * 16, base=base, revision="a" * 40, recipe="nvfp4", kind="release", runs_on=["self-hosted"],
        timeout_minutes=60, runner_class="b200", target_repo="o/x", predecessor=None, why="not made yet",
    )  # fmt: skip


def skip(reason: str = "why", base: str = "Qwen/b", code: str = "refused") -> Skip:
    return Skip(base=base, recipe="nvfp4", code=code, reason=reason, key=None, until=None)


def plan(entries: list[PlanEntry], skips: list[Skip], **fields: object) -> Plan:
    return Plan(entries=entries, skips=skips, **{"num_left": 0, "paused": None, **fields})  # type: ignore[arg-type]


def watched(text: str) -> Watched:
    change = Change(repo_id=text, revision="a" * 40, kind="new_model", files=[text], num_files=1,
                    since_revision=None, renamed_from=None)  # fmt: skip
    skipped = Skipped(repo_id=text, code="name", reason=text)
    return Watched(changes=[change], skipped=[skipped], failed=[skipped], num_listed=1, num_calls=1,
                   recorded=True, bases=[])  # fmt: skip


def test_every_reason_is_counted_and_every_pair_named():
    found = plansummary.text(
        plan([entry()], [skip(), skip(base="Qwen/c"), skip(code="not_applicable")]), None
    )
    assert "1 jobs start" in found
    assert "| refused | 2 |" in found
    assert "| not applicable | 1 |" in found
    assert "`Qwen/c`" in found


def test_what_is_left_and_what_is_paused_is_said():
    assert "44 more wait for the next tick" in plansummary.text(plan([entry()], [], num_left=44), None)
    assert "**Paused**, by ada" in plansummary.text(plan([], [], paused="by ada: x"), None)
    assert "Nothing to start." in plansummary.text(plan([], []), None)


def test_nothing_from_outside_becomes_markup():
    found = plansummary.text(plan([entry(HOSTILE)], [skip(HOSTILE, base=HOSTILE)]), watched(HOSTILE))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(found)
    assert "<img" not in html
    assert "href" not in html
    assert not any(line.startswith("::") for line in found.splitlines())
    rows = [line for line in found.splitlines() if line.startswith("|")]
    assert all(len([c for c in row.replace("\\|", "") if c == "|"]) in (3, 4, 5, 8) for row in rows)


def test_it_stays_within_what_github_shows():
    skips = [skip("because " * 40, base=f"Qwen/model-{n}", code=f"reason{n % 9}") for n in range(3000)]
    found = plansummary.text(plan([entry()] * 256, skips), None)
    assert len(found.encode()) < 2**19
    assert "2,600 more are in the log" in found
