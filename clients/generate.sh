#!/usr/bin/env bash
# Writes the stubs of Go, Node and Rust anew from the contract; `make clients` runs this, and
# `make proto` for those of Python. Those of Java are made by its Maven build.
#
# They are committed: `go get` and cargo take what is in the repository, and whoever builds a client
# needs no generator. CI sees that they are what the contract says.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PWD/.tools/bin:$PATH"

rm -rf clients/go/embercachev1 clients/node/src/gen clients/rust/src/gen
mkdir clients/rust/src/gen
buf generate # buf.gen.yaml; needs no network
# A link to a page on the web, in every client.
sed -i '/pkg\.go\.dev/d' clients/go/embercachev1/*_grpc.pb.go
gofmt -w clients/go/embercachev1 # the line above leaves empty comments
cargo run --quiet --locked --manifest-path clients/rust/Cargo.toml -p generate
