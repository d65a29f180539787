#!/usr/bin/env bash
# Before a job: is it ours, is the machine fit, is the workspace empty. A failure here fails the job.
#
# The workflows see to it that no pull request reaches a machine of ours; this is the second lock, on the
# machine itself, and holds whatever a workflow says.
set -euo pipefail

refuse() {
  printf '::error title=runner::%s\n' "$1"
  exit 1
}

[[ ${GITHUB_REPOSITORY:-} == "${RUNNER_REPOSITORY:?}" ]] ||
  refuse "this runner takes jobs of $RUNNER_REPOSITORY only"
case ${GITHUB_EVENT_NAME:-} in
  schedule | push | workflow_dispatch | repository_dispatch) ;;
  *) refuse "this runner takes no job of the event '${GITHUB_EVENT_NAME:-}': it may come from a fork" ;;
esac
case ${GITHUB_REF:-} in
  refs/heads/*) ;;
  *) refuse "this runner takes jobs of branches only, not of '${GITHUB_REF:-}'" ;;
esac

free_gib=$(df --output=avail -B1G "${STATE_DIRECTORY:?}" | tail -n 1 | tr -d ' ')
((free_gib * 2 >= ${MIN_DISK_GIB:-0})) ||
  refuse "$free_gib GiB are free, less than half of the $MIN_DISK_GIB of this class: prune the caches"
if command -v nvidia-smi >/dev/null; then
  nvidia-smi --id="${CUDA_VISIBLE_DEVICES:-0}" --query-gpu=name,memory.used --format=csv,noheader ||
    refuse "the GPU does not answer: look at the host's driver"
fi

exec "$(dirname "${BASH_SOURCE[0]}")/clean.sh"
