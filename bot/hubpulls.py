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
from collections.abc import Iterator
from typing import Final

from bot import log
from bot.edges.hub import Hub, PullRequest
from bot.errors import InputError, UsageError

_TITLE: Final = re.compile(r"Release ([0-9a-f]{16}):")


def staged(hub: Hub, repo_id: str) -> list[tuple[str, PullRequest]]:
    """The releases that pull requests of `repo_id` are of, open or not, each with its key.

    Raises InfrastructureError also where the members cannot be asked for: a claim is not judged without them.
    """
    claims = list(_claims(hub, repo_id))
    ours = accounts(hub, repo_id.split("/")[0]) if claims else frozenset()
    for key, pull in claims:
        if pull.author.lower() not in ours:
            log.info(f"  {repo_id}: pull request {pull.num} says it is {key}; its author is none of ours")
    return [(key, pull) for key, pull in claims if pull.author.lower() in ours]


def of_release(hub: Hub, repo_id: str, key: str) -> list[PullRequest]:
    """The pull requests of `repo_id` that are of release `key`, newest first."""
    found = [pull for each, pull in staged(hub, repo_id) if each == key]
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


def _claims(hub: Hub, repo_id: str) -> Iterator[tuple[str, PullRequest]]:
    for each in hub.pull_requests(repo_id):
        if match := _TITLE.match(each.title):
            yield match[1], each
