#!/usr/bin/env bash
# Asks GitHub for a just-in-time configuration: it registers a runner for one job, then nobody.
#
# Runs as root before every start (ExecStartPre=+), because the credential that may register runners must not
# be readable by the jobs. What it leaves for the runner's user is the configuration alone, which is worth
# one job. The credential is a GitHub App's key (app-id, app-key.pem: preferred) or a fine-grained token
# (token); either needs "Administration: write" on the one repository. Neither appears in a command line.
set -euo pipefail
umask 077

gpu=${1:?which GPU}
[[ $gpu =~ ^[0-9]{1,2}$ ]] || { echo "error: not a GPU: $gpu" >&2 && exit 2; }
: "${RUNNER_REPOSITORY:?}" "${RUNNER_LABELS:?}" "${RUNNER_GROUP_ID:?}" "${RUNTIME_DIRECTORY:?}"
credential=${RUNNER_CREDENTIAL:-/etc/release-bot-runner/credential}
api=${GITHUB_API_URL:-https://api.github.com}

# ask METHOD PATH TOKEN [BODY]: the answer's body.
ask() {
  local arguments=(--request "$1" --url "$api$2" --silent --show-error --fail-with-body --max-time 60
    --header 'Accept: application/vnd.github+json' --header 'X-GitHub-Api-Version: 2022-11-28')
  [[ -z ${4:-} ]] || arguments+=(--header 'Content-Type: application/json' --data "$4")
  printf 'header = "Authorization: Bearer %s"\n' "$3" | curl --config - "${arguments[@]}"
}

# field NAME: that field of the JSON on standard input, or nothing.
field() {
  python3 -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1], ""))' "$1"
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# A token of the App, good for ten minutes, that only asks for an installation's.
app_token() {
  local now unsigned
  now=$(date +%s)
  unsigned=$(printf '{"alg":"RS256","typ":"JWT"}' | base64url).$(
    printf '{"iat":%d,"exp":%d,"iss":"%s"}' $((now - 60)) $((now + 540)) "$(<"$credential/app-id")" | base64url
  )
  printf '%s.%s' "$unsigned" \
    "$(printf '%s' "$unsigned" | openssl dgst -sha256 -sign "$credential/app-key.pem" -binary | base64url)"
}

# A token that may register runners of this repository, and do nothing else.
registration_token() {
  local app installation
  if [[ ! -s $credential/app-key.pem ]]; then
    tr -d '[:space:]' <"$credential/token"
    return
  fi
  [[ $(<"$credential/app-id") =~ ^[A-Za-z0-9.]+$ ]] || { echo 'error: app-id is no id' >&2 && exit 2; }
  app=$(app_token)
  installation=$(ask GET "/repos/$RUNNER_REPOSITORY/installation" "$app" | field id)
  [[ $installation =~ ^[0-9]+$ ]]
  ask POST "/app/installations/$installation/access_tokens" "$app" \
    "{\"repositories\":[\"${RUNNER_REPOSITORY#*/}\"],\"permissions\":{\"administration\":\"write\"}}" | field token
}

body=$(
  python3 -c 'import json, sys
name, group, labels = sys.argv[1:]
print(json.dumps({"name": name, "runner_group_id": int(group), "labels": labels.split(","), "work_folder": "_work"}))' \
    "$(hostname -s)-gpu$gpu-$(openssl rand -hex 4)" "$RUNNER_GROUP_ID" "$RUNNER_LABELS"
)
token=$(registration_token)
config=$(ask POST "/repos/$RUNNER_REPOSITORY/actions/runners/generate-jitconfig" "$token" "$body" |
  field encoded_jit_config)
[[ $config =~ ^[A-Za-z0-9+/=_-]{16,}$ ]] || { echo 'error: GitHub gave no configuration' >&2 && exit 1; }
printf '%s' "$config" >"$RUNTIME_DIRECTORY/jitconfig"
chown "${RUNNER_USER:-release-bot-$gpu}" "$RUNTIME_DIRECTORY/jitconfig"
