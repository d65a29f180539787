#!/usr/bin/env bash
# After a job: nothing of it stays but what lies in the host's caches. Processes that it left end with the
# unit's control group, since the runner ends after its one job.
set -euo pipefail

if command -v nvidia-smi >/dev/null; then
  nvidia-smi --id="${CUDA_VISIBLE_DEVICES:-0}" --query-compute-apps=pid,used_memory --format=csv,noheader |
    sed 's/^/left on the GPU: /' || true
fi
exec "$(dirname "${BASH_SOURCE[0]}")/clean.sh"
