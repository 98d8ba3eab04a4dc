# Shared by what checks the document, its clients and its pages: Python environments as for the chart's tests, npm packages, and a
# live server.
. "$(dirname "${BASH_SOURCE[0]}")/../chart/environment.sh"
export PYTHONDONTWRITEBYTECODE=1

stops=()
# Whatever ends the script, its servers end with it.
trap 'for stop in "${stops[@]}"; do eval "$stop"; done' EXIT

# npm_packages NAME PACKAGE@VERSION...: installs them into a folder of their own, unless these very ones are there; $npm_packages
# is the folder. Their install scripts are not run.
npm_packages() {
  npm_packages=$target/$1
  shift
  if [ "$(cat "$npm_packages/installed" 2>/dev/null)" != "$*" ]; then
    rm -rf "$npm_packages"
    npm install --prefix "$npm_packages" --silent --no-audit --no-fund --no-package-lock --ignore-scripts "$@"
    echo "$*" >"$npm_packages/installed"
  fi
}

# binary: the program to test is in $binary.
binary() {
  binary=${LEASEHOLD_TEST_BINARY:-$target/debug/leasehold}
  [ -n "${LEASEHOLD_TEST_BINARY:-}" ] || cargo build --locked --quiet
}

# serve [VARIABLE=VALUE...]: starts a server on a free port; its address is in $server.
serve() {
  local scratch pid
  binary
  scratch=$(mktemp --directory)
  touch "$scratch/out"
  env --unset=LEASEHOLD_TEST_BINARY "$@" "$binary" --listen 127.0.0.1:0 >"$scratch/out" 2>"$scratch/log" &
  pid=$!
  stops+=("kill $pid && wait $pid || true; rm -rf $scratch")
  for _ in $(seq 200); do
    server=$(sed -n 's/.* listening on \(http:.*\)/\1/p' "$scratch/out")
    if [ -n "$server" ] && curl --silent --fail --output /dev/null "$server/readyz"; then
      return
    fi
    sleep 0.1
  done
  cat "$scratch/log" >&2
  return 1
}
