#!/usr/bin/env bash
# Makes a GPU machine a host of release-bot's runners: one ephemeral runner a GPU, under systemd.
#
# It can be run again at any time, and then changes what differs: a newer pinned runner, other GPUs, another
# repository, other pins of the environments. It installs nothing that it did not check: the runner's archive
# against the sha256 in runner.env, the driver, GPU memory, main memory and disk against the class in
# classes/NAME.env.
# README.md beside it says what to prepare, and what it leaves where.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
class='' repository='' gpus='' python='' destdir='' pins="$here/runner.env" check_only=no

usage() {
  cat <<'TEXT'
usage: sudo runners/setup.sh --class NAME --repo OWNER/REPO [--gpus 0,1] [--check]

  --class NAME       a class of runners/fleet.yaml (a file of runners/classes/)
  --repo OWNER/REPO  the one repository whose jobs run here
  --gpus LIST        the GPUs that get a runner (default: all)
  --python PROGRAM   the Python that jobs use (default: the first of python3, python3.11 … that will do)
  --check            only check this machine
  --pins FILE        the pinned versions (default: runners/runner.env)
  --destdir DIR      install below DIR: no users, no services (for an image, or a trial)
TEXT
}

fail() {
  printf 'error: %s\n' "$1" >&2
  [[ -z ${2:-} ]] || printf '  next: %s\n' "$2" >&2
  exit 1
}

step() { printf -- '-> %s\n' "$1"; }

parse_arguments() {
  while (($#)); do
    case $1 in
      --class | --repo | --gpus | --python | --pins | --destdir) (($# > 1)) || fail "$1 needs a value" ;;&
      --class) class=$2 && shift 2 ;;
      --repo) repository=$2 && shift 2 ;;
      --gpus) gpus=$2 && shift 2 ;;
      --python) python=$2 && shift 2 ;;
      --pins) pins=$2 && shift 2 ;;
      --destdir) destdir=$2 && shift 2 ;;
      --check) check_only=yes && shift ;;
      -h | --help) usage && exit 0 ;;
      *) usage >&2 && fail "unknown argument: $1" ;;
    esac
  done
  [[ $class =~ ^[a-z0-9][a-z0-9-]*$ && -f $here/classes/$class.env ]] ||
    fail "there is no class '$class'" "one of: $(cd "$here/classes" && printf '%s ' *.env | sed 's/\.env//g')"
  [[ $repository =~ ^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+$ ]] || fail "--repo is OWNER/REPO"
  [[ -z $gpus || $gpus =~ ^[0-9]{1,2}(,[0-9]{1,2})*$ ]] || fail "--gpus is a list such as 0,1"
}

# ── checks ──────────────────────────────────────────────────────────────────────────────────

check_system() {
  [[ $(uname -s)-$(uname -m) == Linux-x86_64 ]] || fail "the pins are for Linux x86_64"
  [[ -n $destdir || $check_only == yes || $EUID -eq 0 ]] || fail "it must run as root" "use sudo"
  local tool missing=()
  for tool in curl tar sha256sum openssl python3 git make gcc nvidia-smi; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  ((${#missing[@]} == 0)) || fail "not installed: ${missing[*]}" "install them; nvidia-smi comes with the driver"
}

# Whether $1 is a Python that the bot runs with, that can make environments, and has the headers that kernels
# are compiled with.
usable_python() {
  "$1" -c 'import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(sys.version_info < (3, 11) or not os.path.isfile(header))' >/dev/null 2>&1
}

check_python() {
  local each
  for each in ${python:-python3 python3.11 python3.12 python3.13}; do
    if usable_python "$each"; then
      python=$(command -v "$each")
      return
    fi
  done
  fail "no Python 3.11 or newer with venv and its headers: ${python:-python3}" \
    "apt-get install python3.11 python3.11-venv python3.11-dev, or name one with --python"
}

# The first number of a version, as in 580 of 580.95.05.
major() { printf '%s' "${1%%.*}"; }

# Whether capability $1 is at least $2, both as in 8.9.
capable() {
  (($(major "$1") > $(major "$2") || ($(major "$1") == $(major "$2") && ${1#*.} >= ${2#*.})))
}

check_gpus() {
  local index memory driver capability found=() wanted
  while IFS=', ' read -r index memory driver capability; do
    [[ $index =~ ^[0-9]+$ ]] || continue
    found+=("$index")
    [[ -z $gpus || ,$gpus, == *,$index,* ]] || continue
    (($(major "$driver") >= MIN_DRIVER)) ||
      fail "driver $driver is older than $MIN_DRIVER" "install a newer NVIDIA driver, and reboot"
    ((memory >= MIN_GPU_MEMORY_MIB)) ||
      fail "GPU $index has $memory MiB, class $class needs $MIN_GPU_MEMORY_MIB" "choose another --class"
    capable "$capability" "$MIN_COMPUTE_CAPABILITY" ||
      fail "GPU $index has compute capability $capability, class $class needs $MIN_COMPUTE_CAPABILITY" \
        "choose another --class"
  done < <(nvidia-smi --query-gpu=index,memory.total,driver_version,compute_cap --format=csv,noheader,nounits)
  ((${#found[@]})) || fail "nvidia-smi lists no GPU" "install the NVIDIA driver"
  [[ -n $gpus ]] || gpus=$(IFS=, && printf '%s' "${found[*]}")
  for wanted in ${gpus//,/ }; do
    [[ " ${found[*]} " == *" $wanted "* ]] || fail "there is no GPU $wanted; there are: ${found[*]}"
  done
}

# The nearest folder above $1 that is there: on its disk it will be made.
existing() {
  local folder=$1
  while [[ ! -d $folder ]]; do folder=$(dirname "$folder"); done
  printf '%s' "$folder"
}

# GiB that the host's cache gives back on the disk of folder $1; 0 where it lies on another, or is not there.
cached_gib() {
  local cache=$destdir/var/cache/release-bot/files bytes=0
  if [[ -d $cache && $(stat --format=%d "$cache") == "$(stat --format=%d "$1")" ]]; then
    bytes=$({ du --summarize --block-size=1 "$cache" 2>/dev/null || true; } | cut -f 1)
  fi
  printf '%d' "$((${bytes:-0} / 1073741824))"
}

# Counted as `release-bot doctor --for` does (bot/fitness.py): free and cached, and half of it free.
check_room() {
  local memory_gib disk_gib cached folder
  memory_gib=$(awk '/^MemTotal:/ {print int($2 / 1048576)}' /proc/meminfo)
  ((memory_gib >= MIN_MEMORY_GIB)) ||
    fail "$memory_gib GiB of memory, class $class needs $MIN_MEMORY_GIB" "choose another --class"
  folder=$(existing "$destdir/var/lib/release-bot-runner")
  disk_gib=$(df --output=avail -B1G "$folder" | tail -n 1 | tr -d ' ')
  cached=$(cached_gib "$folder")
  ((disk_gib + cached >= MIN_DISK_GIB)) ||
    fail "$disk_gib GiB are free on the disk of $folder, $cached in the cache; class $class needs $MIN_DISK_GIB" \
      "mount a larger disk there, or choose another --class"
  ((disk_gib * 2 >= MIN_DISK_GIB)) ||
    fail "$disk_gib GiB are free on the disk of $folder, less than half of the $MIN_DISK_GIB of class $class" \
      "run 'release-bot cache prune' with a smaller cap"
}

# ── installing ──────────────────────────────────────────────────────────────────────────────

install_runner() {
  local version=$RUNNER_VERSION name opt=$destdir/opt/release-bot-runner scratch
  name=actions-runner-linux-x64-$version.tar.gz
  mkdir -p "$opt"
  if [[ ! -d $opt/$version ]]; then
    scratch=$(mktemp -d "$opt/.new.XXXXXX")
    curl --fail --silent --show-error --location --retry 3 --output "$scratch/$name" \
      "$RUNNER_BASE_URL/v$version/$name"
    if ! printf '%s  %s\n' "$RUNNER_SHA256_X64" "$scratch/$name" | sha256sum --check --status; then
      rm -rf "$scratch"
      fail "$name is not the file that runner.env pins" "do not use it; compare with the release notes"
    fi
    mkdir "$scratch/runner"
    tar -xzf "$scratch/$name" -C "$scratch/runner" --no-same-owner
    chmod -R go-w "$scratch/runner"
    mv "$scratch/runner" "$opt/$version"
    rm -rf "$scratch"
  fi
  ln -sfn "$version" "$opt/current"
  [[ -n $destdir ]] || "$opt/current/bin/installdependencies.sh" >/dev/null
}

install_files() {
  local libexec=$destdir/opt/release-bot-runner/libexec etc=$destdir/etc/release-bot-runner
  install -d -m 0755 "$libexec" "$etc" "$destdir/etc/systemd/system"
  install -d -m 0700 "$etc/credential"
  install -m 0755 "$here"/{request-config,start,build-environments}.sh "$here"/hooks/*.sh "$libexec"
  install -m 0644 "$here"/systemd/*.service "$destdir/etc/systemd/system"
  {
    printf '# Written by runners/setup.sh; no secret stands here.\n'
    printf 'RUNNER_REPOSITORY=%s\nRUNNER_GROUP_ID=1\nPYTHON=%s\n' "$repository" "$python"
    grep -v '^#' "$here/classes/$class.env"
  } >"$etc/config.env.new"
  chmod 0644 "$etc/config.env.new"
  mv "$etc/config.env.new" "$etc/config.env"
}

# Root's copy of what environments are built from, so that nobody else decides what they hold.
install_sources() {
  local sources=$destdir/opt/release-bot-runner/sources
  rm -rf "$sources.new"
  install -d -m 0755 "$sources.new/runners"
  cp -R "$root/bot" "$root/recipes" "$root/pyproject.toml" "$sources.new"
  cp -R "$here/environments" "$here/fleet.yaml" "$sources.new/runners"
  find "$sources.new" -name __pycache__ -prune -exec rm -rf {} +
  chmod -R u=rwX,go=rX "$sources.new"
  [[ -n $destdir ]] || chown -R root:root "$sources.new"
  rm -rf "$sources"
  mv "$sources.new" "$sources"
}

# One user a GPU, so that two jobs cannot look at each other; one group for the caches that they share.
install_users() {
  local gpu cache=/var/cache/release-bot
  getent group release-bot >/dev/null || groupadd --system release-bot
  install -d -m 0755 "$cache" "$cache/jobs"
  install -d -m 2775 -g release-bot "$cache/files"
  for gpu in ${gpus//,/ }; do
    id -u "release-bot-$gpu" >/dev/null 2>&1 ||
      useradd --system --gid release-bot --no-create-home --home-dir "/var/lib/release-bot-runner/$gpu" \
        --shell /usr/sbin/nologin "release-bot-$gpu"
    install -d -m 0700 -o "release-bot-$gpu" -g release-bot "$cache/jobs/$gpu"
  done
  id -u release-bot-environments >/dev/null 2>&1 ||
    useradd --system --user-group --no-create-home --home-dir /var/lib/release-bot-environments \
      --shell /usr/sbin/nologin release-bot-environments
}

build_environments() {
  step "building the environments: minutes at first; journalctl -fu release-bot-environments shows it"
  systemctl daemon-reload
  systemctl start release-bot-environments.service ||
    fail "the environments were not built" \
      "journalctl -u release-bot-environments says why (nvcc? the package registry?); then run this again"
}

start_services() {
  local gpu credential=/etc/release-bot-runner/credential
  if [[ ! -s $credential/token && ! -s $credential/app-key.pem ]]; then
    step "installed, not started: put a credential into $credential (README.md), then run this again"
    return
  fi
  chown -R root:root "$credential"
  chmod -R go= "$credential"
  for gpu in ${gpus//,/ }; do
    systemctl enable --quiet "release-bot-runner@$gpu.service"
    systemctl restart "release-bot-runner@$gpu.service"
  done
  step "started: systemctl status 'release-bot-runner@*'"
}

main() {
  parse_arguments "$@"
  # shellcheck source=runners/runner.env
  source "$pins"
  # shellcheck source=runners/classes/l40s.env
  source "$here/classes/$class.env"
  step "checking this machine for class $class"
  check_system
  check_python
  check_gpus
  check_room
  step "GPUs $gpus will do"
  [[ $check_only == no ]] || return 0
  step "installing the runner $RUNNER_VERSION"
  install_runner
  install_files
  install_sources
  [[ -z $destdir ]] || return 0
  install_users
  build_environments
  start_services
}

main "$@"
