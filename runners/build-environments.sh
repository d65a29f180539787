#!/usr/bin/env bash
# Builds the environments that this host's jobs use, as a user of their own, once for all of them.
#
# Jobs run third-party code, so they may read these and not write them: another user owns them, and the
# runners' unit mounts them read-only. The build runs other people's code too (a package's own set-up), and
# therefore neither as root nor as a runner. The sources are root's copy of the checkout that setup.sh ran in.
set -euo pipefail
umask 022

: "${STATE_DIRECTORY:?}"
sources=${RELEASE_BOT_SOURCES:-/opt/release-bot-runner/sources}
python=${PYTHON:-python3}
pins=$sources/runners/environments/bot.txt

# The bot's own packages: few and light. Their folder is named by what they are made from.
digest=$(cat "$pins" "$sources/pyproject.toml" <("$python" --version) | sha256sum | cut -c 1-12)
bot=$STATE_DIRECTORY/bot-$digest
if [[ ! -e $bot/complete ]]; then
  rm -rf "$STATE_DIRECTORY"/bot-*
  "$python" -m venv "$bot"
  "$bot/bin/python" -c 'import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["dependencies"]))' "$sources/pyproject.toml" >"$bot/wanted.txt"
  "$bot/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$pins" \
    --requirement "$bot/wanted.txt"
  touch "$bot/complete"
fi

[[ ! -d /usr/local/cuda/bin ]] || export PATH=$PATH:/usr/local/cuda/bin
cd "$sources"
export RELEASE_BOT_HOME=$STATE_DIRECTORY PYTHONPATH=$sources PYTHONDONTWRITEBYTECODE=1
exec "$bot/bin/python" -m bot environments build --prune
