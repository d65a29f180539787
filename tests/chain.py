"""Everything that the chain of workflows runs against: GitHub, the Hub with four identities, an issuer of id
tokens, and a checkout; all on loopback, started and stopped here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import acting
import idtokens
import yaml
from acting import RECIPE, Checkout, Ran

sys.path.insert(0, str(Path(__file__).resolve().parent / "github"))

import emulated
from emulated import Emulated

from bot import job, localhub
from bot.demo import rehearsal
from bot.edges.hub import Hub
from bot.edges.state_branch import BranchState
from bot.review import layout

ORG = "release-bot"
# One recipe, scaled down further than in a demo: jobs and tokens are what is tested here, not its figures.
SCALE = rehearsal.SCALE[RECIPE] | {
    "calibration.sets.*.num_samples": "8",
    "calibration.sets.*.lengths.max_tokens": "256",
    "evaluation.max_tokens": "4096",
    "evaluation.divergence_tokens": "4096",
    "evaluation.drafting.output_tokens": "16",
    "evaluation.soak": "{context_tokens: 2048, window_tokens: 1024, output_tokens: 32}",
    "evaluation.speed": "{input_tokens: 32, output_tokens: 8, streams: [1], num_runs: 3, "
    "prompts_per_stream: 1, prompts_per_kind: 1}",
}
ROOT_TOKEN = "hf_root_of_tests"
# What each job's secret may do; `publish` has none, its token comes by an id token.
TOKENS: dict[str, dict[str, Any]] = {
    "HUB_READ_TOKEN": {"scopes": ["read"]},
    "HUB_PREPARE_TOKEN": {"scopes": ["create"], "repos": [f"{ORG}/*"]},
    "HUB_BUILD_TOKEN": {"scopes": ["contribute"], "repos": [f"{ORG}/*"]},
    "HUB_CURATE_TOKEN": {"scopes": ["collections", "contribute"]},
}


def token_of(secret: str) -> str:
    return f"hf_{secret.lower()}_of_tests"


@dataclass(frozen=True, kw_only=True)
class Chain:
    """The servers and the checkout, and what people and events do with them."""

    checkout: Checkout
    hub: Hub
    github: Emulated
    issuer: idtokens.Issuer

    def state(self) -> BranchState:
        return BranchState(self.github.client())

    def documents(self) -> dict[str, str]:
        """The state, document by document."""
        snapshot = self.state().snapshot()
        return {path: found.text for path in snapshot.list("") if (found := snapshot.read(path))}

    def tick(self, event: str = "schedule", **options: Any) -> Ran:
        return self.checkout.run("watch.yml", event, **options)

    def by_hand(self, model: str, *, dry_run: bool = False, **options: Any) -> Ran:
        asked = {"model": model, "revision": "main", "recipe": RECIPE, "dry_run": str(dry_run).lower()}
        return self.checkout.run("release.yml", "workflow_dispatch", inputs=asked, **options)

    def pulls(self, state: str = "open") -> list[Any]:
        """The cards' pull requests, newest first, as PyGithub has them."""
        return list(self.github.client()._repo.get_pulls(state=state))

    def bring(self, revision: str, branch: str) -> tuple[str, str]:
        """Check out what GitHub holds of cards at `revision` on `branch`; the commits before and after."""
        client, folder = self.github.client(), self.checkout.folder
        files: dict[str, bytes | None] = {
            path: client.blob(file.sha)
            for path, file in client.tree(revision).items()
            if path.startswith(layout.CARDS)
        }
        acting.git(folder, "checkout", "--quiet", "-B", branch)
        return self.checkout.commit(files, f"Cards of {revision[:8]}")

    def review(self, pull: Any) -> tuple[Ran, Ran]:
        """The check of a pull request's merge commit, and what follows on it from the default branch."""
        self.bring(pull.head.sha, "review")
        checked = self.checkout.run("card-review.yml", "pull_request", acting.pull_event(pull, "opened"))
        acting.git(self.checkout.folder, "checkout", "--quiet", "main")
        result = "success" if checked.status == 0 else "failure"
        said = self.checkout.run("card-comment.yml", "workflow_run", acting.run_event(pull, result))
        return checked, said

    def merge(self, number: int) -> Ran:
        """A person merges; the push to the default branch publishes."""
        self.github.client("ann")._repo.get_pull(number).merge(merge_method="squash")
        merged = self.github.client()._repo.get_pull(number)
        before, after = self.bring(merged.merge_commit_sha, "main")
        return self.push(before, after)

    def push(self, before: str, after: str) -> Ran:
        event = {"ref": "refs/heads/main", "before": before, "after": after}
        return self.checkout.run("publish.yml", "push", event, more=self.issuer.environment())

    def close(self, pull: Any) -> tuple[Ran, Ran]:
        """A person closes without merging."""
        pull.edit(state="closed")
        closed = self.github.client()._repo.get_pull(pull.number)
        checked = self.checkout.run("card-review.yml", "pull_request", acting.pull_event(closed, "closed"))
        return checked, self.checkout.run(
            "card-comment.yml", "workflow_run", acting.run_event(closed, "success")
        )

    def say(self, pull: Any, who: str, text: str) -> Ran:
        """Somebody comments."""
        self.github.client(who).say(pull.number, text)
        comment = {"body": text, "user": {"login": who, "type": "User"}, "created_at": "2026-11-21T12:00:00Z"}
        issue = {
            "number": pull.number,
            "updated_at": "2026-11-21T12:00:00Z",
            "pull_request": {"url": pull.url},
            "labels": [],
        }
        event = {"action": "created", "comment": comment, "issue": issue, "sender": {"login": who}}
        return self.checkout.run("commands.yml", "issue_comment", event)

    def tick_box(self, who: str, box: str) -> Ran:
        """Somebody ticks a box of the dashboard."""
        (board,) = self.github.client(who).issues(label="release-bot-dashboard")
        before = f"{board.body}\n  - [ ] <!-- {box} -->"
        issue = {
            "number": board.number,
            "updated_at": "2026-11-21T12:00:00Z",
            "body": before.replace("[ ]", "[x]"),
            "labels": [{"name": "release-bot-dashboard"}],
        }
        event = {
            "action": "edited",
            "issue": issue,
            "changes": {"body": {"from": before}},
            "sender": {"login": who, "type": "User"},
        }
        return self.checkout.run("commands.yml", "issues", event)


@contextmanager
def running(folder: Path, home: Path, *, publishers: list[str]) -> Iterator[Chain]:
    """All of it below `folder`; `home` is where the bot keeps environments and measurements."""
    recipe = job.load_recipe(RECIPE, SCALE)
    acting.clone(folder / "checkout", recipe.model_dump(mode="json", exclude={"name"}))
    (folder / "artifacts").mkdir()
    with idtokens.serve() as issuer, emulated.running(folder) as github:
        accounts = folder / "accounts.yaml"
        accounts.write_text(yaml.safe_dump(_accounts(issuer, publishers)), encoding="utf-8")
        with localhub.running(folder / "hub", accounts=accounts, token=ROOT_TOKEN) as server:
            hub = Hub(embedded=True, endpoint=server.url, token=ROOT_TOKEN)
            rehearsal.seed(hub)
            checkout = Checkout(
                folder=folder / "checkout",
                artifacts=folder / "artifacts",
                environment=_environment(folder, home, server.url, github),
                secrets=_secrets(),
            )
            yield Chain(checkout=checkout, hub=hub, github=github, issuer=issuer)


def _accounts(issuer: idtokens.Issuer, publishers: list[str]) -> dict[str, Any]:
    tokens = [{"token": ROOT_TOKEN, "user": "root"}]
    tokens += [{"token": token_of(name), "user": "bot", "name": name, **m} for name, m in TOKENS.items()]
    return {
        "users": {"root": {"admin": True}, "bot": {}},
        "orgs": {ORG: {"members": {"bot": "admin"}}},
        "tokens": tokens,
        "publishers": [issuer.publisher(each) for each in publishers],
    }


def _secrets() -> dict[str, str]:
    found = {name: token_of(name) for name in TOKENS}
    return {**found, "GITHUB_TOKEN": emulated.ACCOUNTS["release-bot"], "APP_PRIVATE_KEY": "the key of tests"}


def _environment(folder: Path, home: Path, hub_url: str, github: Emulated) -> dict[str, str]:
    """What a job finds on its machine beside what GitHub sets."""
    return {
        "GITHUB_API_URL": github.proxy.url,
        "HF_ENDPOINT": hub_url,
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(folder / "checkout"),
        "RELEASE_BOT_CACHE": str(folder / "cache"),
        "RELEASE_BOT_GITHUB_LOGIN": "release-bot",
        "RELEASE_BOT_HF_HOME": str(folder / "hf-home"),
        "RELEASE_BOT_HOME": str(home),
        "RELEASE_BOT_VENV": str(Path(sys.executable).parents[1]),
        "RELEASE_BOT_WATCH_SETTLE_MINUTES": "0",
        "TEST_APP_TOKEN": emulated.ACCOUNTS["release-bot"],
        "TEST_ARTIFACTS": str(folder / "artifacts"),
        "PATH": os.environ["PATH"],
    }


def leaks(ran: Ran) -> list[str]:
    """The secrets that stand in a run's log."""
    return sorted(name for name, value in _secrets().items() if value in ran.log)
