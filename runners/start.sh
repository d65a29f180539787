#!/usr/bin/env bash
# Starts one runner for one job, as the GPU's own user, in a fresh copy of the runner.
#
# A fresh copy, because a job runs as the same user as its runner: what it may have changed in it is gone.
# The configuration reaches the runner by its environment, which the runner clears before the job starts.
set -euo pipefail

: "${STATE_DIRECTORY:?}" "${RUNTIME_DIRECTORY:?}"
pristine=${RUNNER_PRISTINE:-/opt/release-bot-runner/current}
home=$STATE_DIRECTORY/runner

if [[ -e $home ]]; then
  chmod -R u+rwX "$home" || true
  rm -rf "$home"
fi
cp -a --no-preserve=ownership --reflink=auto "$pristine/." "$home/"
ACTIONS_RUNNER_INPUT_JITCONFIG=$(<"$RUNTIME_DIRECTORY/jitconfig")
rm -f "$RUNTIME_DIRECTORY/jitconfig"
export ACTIONS_RUNNER_INPUT_JITCONFIG
cd "$home"
exec ./run.sh
