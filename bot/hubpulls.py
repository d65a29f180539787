"""Which pull requests on the Hub are releases: the key that they are of, and why that word is taken.

A release is staged by whoever is at it: the build job's account, the same release by hand, a person of the
organization. All of them go through `stages/upload.py`, which writes the key into the commit's and the pull
request's title; so that title is what a release is found by, whoever asks with whatever token.

A title is only a claim. A target is public once its first release is, and then anybody may open a pull
request there and copy a title, or every file, of a release that is due: keys are no secret. Taken at its
word, it would keep that release from being made, or have its weights looked at in place of ours; closed by
its author, it would look refused. What a stranger cannot claim is who they are: the Hub itself tells a pull
request's author, and who the organization's members are. So a claim counts when its author is a member of the
organization that the repo belongs to, or the account that asks. Members may open pull requests on its private
repos already, `build`'s account among them; what theirs hold is audited and measured like our own, and a
person reviews it. (The state branch would be no better witness: what is staged is told there by the job that
runs other people's code, and nothing that a person stages by hand stands on it.)

What follows: a pull request of somebody who has left is not found any more, and the release is made again.
Where the members cannot be told (a user's own namespace, an organization that hides them), only the asking
account's and that user's own count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from bot import log
from bot.edges.hub import Hub, PullRequest
from bot.errors import InputError, UsageError

_TITLE: Final = re.compile(r"Release ([0-9a-f]{16}):")


@dataclass(frozen=True, kw_only=True)
class Staged:
    """A pull request that is a release of ours, open or not."""

    key: str
    repo_id: str
    pull: PullRequest


def staged(hub: Hub, repo_ids: Iterable[str]) -> list[Staged]:
    """The releases that pull requests of these repos are of; whose they are is asked once a namespace.

    Raises InfrastructureError also where the members cannot be asked for: a claim is not judged without them.
    """
    claims = [each for repo_id in repo_ids for each in _claims(hub, repo_id)]
    ours = {name: accounts(hub, name) for name in {_namespace(each) for each in claims}}
    found = [each for each in claims if each.pull.author.lower() in ours[_namespace(each)]]
    for each in claims:
        if each not in found:
            log.info(f"  {each.repo_id}: pull request {each.pull.num}, of {each.key}, is a stranger's")
    return found


def of_release(hub: Hub, repo_id: str, key: str) -> list[PullRequest]:
    """The pull requests of `repo_id` that are of release `key`, newest first."""
    found = [each.pull for each in staged(hub, [repo_id]) if each.key == key]
    return sorted(found, key=lambda each: -each.num)


def accounts(hub: Hub, namespace: str) -> frozenset[str]:
    """The accounts, in lower case, whose pull requests in `namespace` count."""
    found = {namespace.lower()}
    try:
        found.add(hub.account().lower())
    except UsageError:
        log.info("  no token: only members' pull requests count")
    try:
        found |= {each.lower() for each in hub.members(namespace)}
    except InputError as e:
        log.info(f"  the members of {namespace} cannot be told ({e.what}): only our own pull requests count")
    return frozenset(found)


def _namespace(found: Staged) -> str:
    return found.repo_id.split("/")[0]


def _claims(hub: Hub, repo_id: str) -> Iterator[Staged]:
    for each in hub.pull_requests(repo_id):
        if match := _TITLE.match(each.title):
            yield Staged(key=match[1], repo_id=repo_id, pull=each)
