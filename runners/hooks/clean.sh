#!/usr/bin/env bash
# Empties what a job works in: its checkout, the bot's folder below the runner's temporary one, and the bot's
# home with its work folders. Links are removed and not followed, and nothing is touched that does not lie
# below the runner's own folder. What jobs share lies elsewhere. On a host start.sh empties the rest too.
set -euo pipefail

own=$(realpath -e -- "${STATE_DIRECTORY:?}")
for folder in "${GITHUB_WORKSPACE:?}" "${RUNNER_TEMP:?}/release-bot" ${RELEASE_BOT_HOME:+"$RELEASE_BOT_HOME"}; do
  folder=$(realpath -e -- "$folder" 2>/dev/null) || continue
  if [[ $folder != "$own"/* ]]; then
    printf '::error title=runner::refusing to empty %s: it is not below the runner\n' "$folder"
    exit 1
  fi
  chmod -R u+rwX "$folder"
  find "$folder" -xdev -mindepth 1 -delete
done
