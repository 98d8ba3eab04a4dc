# Shared by tests/run and tests/full: installs what is missing and runs steps with their seconds.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never

# step NAME COMMAND...: runs a step, prints how long it took, ends the run if it fails.
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

# campaign OPTION...: a fault campaign with the server and the profile that the options before `--` name. One that proves
# nothing (exit status 3: the machine was too slow, or a fault had no effect) is repeated once. It needs root, or a user who
# may make user namespaces, and otherwise fails and says what to do.
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

# Debian packages, for the programs that are not there yet.
install_packages() {
  local missing=()
  command -v redis-server >/dev/null || missing+=(redis-server)
  command -v redis-sentinel >/dev/null || missing+=(redis-sentinel)
  command -v curl >/dev/null || missing+=(curl)
  command -v jq >/dev/null || missing+=(jq)
  # For the hosts of the fault campaign, and for the clock of its data nodes.
  command -v ip >/dev/null || missing+=(iproute2)
  command -v nsenter >/dev/null || missing+=(util-linux)
  command -v mount >/dev/null || missing+=(mount)
  command -v cc >/dev/null || missing+=(gcc)
  [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
  # For the chart's tests.
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  command -v openssl >/dev/null || missing+=(openssl)
  # For the tests of the metrics; it carries promtool.
  command -v prometheus >/dev/null || missing+=(prometheus)
  # For the client programs.
  command -v node >/dev/null || missing+=(nodejs)
  command -v javac >/dev/null || missing+=(default-jdk-headless)
  command -v go >/dev/null || missing+=(golang-go)
  debian_packages "${missing[@]}"
}

# debian_packages PACKAGE...: Debian packages.
debian_packages() {
  if [ $# -eq 0 ]; then
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    echo "please install: $*" >&2
    return 1
  fi
  # The tests start servers of their own; the packages must not start one.
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
