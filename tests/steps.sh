# Shared by tests/run and tests/full: installs missing packages, and runs and times the steps.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never

# step NAME COMMAND...: runs a step and prints its duration. A failed step stops the whole run.
step() {
  local name=$1 begun=$SECONDS
  shift
  echo "== $name"
  if ! "$@"; then
    echo "== $name: FAILED after $((SECONDS - begun)) s"
    exit 1
  fi
  echo "== $name: $((SECONDS - begun)) s"
}

# beside COMMAND...: starts a command in the background, for example steps that wait more than they work.
beside_jobs=()
beside_outputs=()
beside() {
  local output
  output=$(mktemp)
  trap end_beside EXIT
  set -m
  "$@" >"$output" 2>&1 &
  set +m
  beside_jobs+=($!)
  beside_outputs+=("$output")
}

# await_beside: waits for these commands and prints their outputs. If one failed, the whole run stops.
await_beside() {
  local job code=0
  for job in "${beside_jobs[@]}"; do wait "$job" || code=1; done
  beside_jobs=()
  [ "$code" -eq 0 ] || exit 1
  end_beside
}

# Prints the outputs. Commands that still run, because another step failed, stop with their processes.
end_beside() {
  local job
  for job in "${beside_jobs[@]}"; do kill -- "-$job" 2>/dev/null || true; done
  cat "${beside_outputs[@]}" /dev/null
  rm -f "${beside_outputs[@]}"
  beside_outputs=()
}

# campaign OPTION...: runs a fault campaign. The options before `--` select the server and the profile. Exit status 3
# means that the campaign proved nothing (the machine was too slow, or a fault had no effect): it is repeated once. The
# campaign needs root, or a user who may create user namespaces; otherwise it fails and says what to do.
campaign() {
  local code=0
  cargo test --locked --quiet --test faults "$@" || code=$?
  if [ "$code" -eq 3 ]; then
    echo "the campaign proved nothing: once more"
    code=0
    cargo test --locked --quiet --test faults "$@" || code=$?
  fi
  return "$code"
}

# Installs the Debian packages of all missing programs.
install_packages() {
  local missing=()
  command -v redis-server >/dev/null || missing+=(redis-server)
  command -v redis-sentinel >/dev/null || missing+=(redis-sentinel)
  command -v curl >/dev/null || missing+=(curl)
  command -v jq >/dev/null || missing+=(jq)
  # The fault campaign: its hosts, and the clock of its data nodes.
  command -v ip >/dev/null || missing+=(iproute2)
  command -v nsenter >/dev/null || missing+=(util-linux)
  command -v mount >/dev/null || missing+=(mount)
  command -v cc >/dev/null || missing+=(gcc)
  [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
  # The database of a recipe.
  compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null || missing+=(postgresql)
  # The chart's tests.
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  command -v openssl >/dev/null || missing+=(openssl)
  # The tests of the metrics; the package includes promtool.
  command -v prometheus >/dev/null || missing+=(prometheus)
  # The client programs.
  command -v node >/dev/null || missing+=(nodejs)
  command -v javac >/dev/null || missing+=(default-jdk-headless)
  command -v go >/dev/null || missing+=(golang-go)
  debian_packages "${missing[@]}"
}

# debian_packages PACKAGE...: installs the packages as root; another user gets their names and a failure.
debian_packages() {
  if [ $# -eq 0 ]; then
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "please install: $*" >&2
    return 1
  fi
  # The packages must not start their services: the tests start their own servers.
  local policy=/usr/sbin/policy-rc.d code=0 own_policy=false
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    own_policy=true
  fi
  apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null || code=$?
  if $own_policy; then
    rm -f "$policy"
  fi
  return "$code"
}
