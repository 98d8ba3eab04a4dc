# Shared by run and checkov: Python packages in an environment of their own, below cargo's target directory.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}

# environment NAME REQUIREMENTS: makes it, unless it is there with these very requirements; its programs are in $environment.
environment() {
  environment=$target/$1
  if ! cmp -s "$2" "$environment/requirements.txt"; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    cp "$2" "$environment/requirements.txt"
  fi
}
