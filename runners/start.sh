#!/usr/bin/env bash
# Starts one runner for one job, as the GPU's own user, in a fresh copy of the runner.
#
# A fresh copy, because a job runs as the same user as its runner: what it may have changed in it is gone, and
# so is all else that it wrote: its home (settings of pip, git and the shell, compiled kernels), the bot's
# home with its work folders, the Hub client's cache. What jobs share lies elsewhere.
# The configuration reaches the runner by its environment, which the runner clears before the job starts.
set -euo pipefail

: "${STATE_DIRECTORY:?}" "${RUNTIME_DIRECTORY:?}"
pristine=${RUNNER_PRISTINE:-/opt/release-bot-runner/current}
home=$STATE_DIRECTORY/runner

for folder in "$STATE_DIRECTORY" ${JOB_CACHE:+"$JOB_CACHE"}; do
  chmod -R u+rwX "$folder" || true
  find "$folder" -xdev -mindepth 1 -delete
done
mkdir "$STATE_DIRECTORY/home" "$STATE_DIRECTORY/release-bot"
cp -a --no-preserve=ownership --reflink=auto "$pristine/." "$home/"
ACTIONS_RUNNER_INPUT_JITCONFIG=$(<"$RUNTIME_DIRECTORY/jitconfig")
rm -f "$RUNTIME_DIRECTORY/jitconfig"
export ACTIONS_RUNNER_INPUT_JITCONFIG
cd "$home"
exec ./run.sh
