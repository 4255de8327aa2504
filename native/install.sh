#!/bin/sh
# Builds the extension and installs it into an environment: native/install.sh .venv
# Leaves .venv/.native as its mark. Without Rust it says so, and that is no failure.
set -eu
cd "$(dirname "$0")/.."
venv=$1
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' native/Cargo.toml)
found=$(rustc --version 2> /dev/null | cut -d ' ' -f 2) || true

if ! command -v cargo > /dev/null \
    || [ "$(printf '%s\n' "$needed" "${found:-0}" | sort -V | head -n 1)" != "$needed" ]; then
    # One that was built from other sources would be used without being asked for.
    "$venv/bin/python" -m pip uninstall -q -y embercache-native 2> /dev/null
    echo "no Rust $needed or later (${found:-none}): the sidecar does without its native front door," \
        "and a hot hit costs several times as much"
    exit 0
fi

echo "building the native front door, which takes a minute or two the first time"
wheels=$(mktemp -d)
trap 'rm -r "$wheels"' EXIT
"$venv/bin/maturin" build --quiet --release --locked --manifest-path native/Cargo.toml \
    --interpreter "$venv/bin/python" --compatibility linux --out "$wheels"
"$venv/bin/python" -m pip install -q --no-index --no-deps --force-reinstall "$wheels"/*.whl
touch "$venv/.native"
