VENV := .venv
PY := $(VENV)/bin/python
TOOLS := .tools/bin
FUZZ_SECONDS := 30
GO_INSTALL := GOBIN=$(CURDIR)/$(TOOLS) go install

# Rust links with the Python of the environment where it runs without one around it.
IN_NATIVE := cd native && PYO3_PYTHON=$(CURDIR)/$(PY)

.PHONY: setup native wheels run test test-grpcio test-native test-clients test-cluster test-migrating chaos soak fuzz audit sbom \
	lint lint-native docs bench bench-peers load-test proto proto-check proto-release clients clients-build tools lock

setup: $(VENV)/.ready native

$(VENV)/.ready: requirements.lock pyproject.toml clients/python/pyproject.toml
	python3 -m venv $(VENV)
	$(PY) -m pip install -q --require-hashes -r requirements.lock
	$(PY) -m pip install -q --no-deps --no-build-isolation -e clients/python -e .
	touch $@

# The native front door, if Rust is there; what is said without it is said each time.
native: $(VENV)/.native

$(VENV)/.native: $(VENV)/.ready native/Cargo.toml native/Cargo.lock native/pyproject.toml \
		native/embercache_native.pyi native/install.sh $(shell find native/src -name '*.rs')
	@native/install.sh $(VENV)

# The three packages as wheels, in dist/. That of the front door needs Rust, and is for the C library of this machine or
# a later one.
wheels: setup
	$(VENV)/bin/maturin build --quiet --release --strip --locked --manifest-path native/Cargo.toml \
		--interpreter $(PY) --out dist
	$(PY) -m pip wheel -q --no-deps --no-build-isolation --wheel-dir dist ./clients/python .
	@ls dist

# The demonstration: a private Redis, a real sidecar, one corpus cold, warm and hot; answers about
# one long text.
run: setup
	@$(VENV)/bin/embercache models pull minilm
	@$(VENV)/bin/embercache models pull smollm2-135m
	@$(PY) -m bench.demo

# The commands of the documentation listen on ports of their own, so they come by themselves.
test: setup
	$(PY) -m pytest tests/e2e/test_docs.py
	$(PY) -m pytest -n 2 --dist loadfile --ignore tests/e2e/test_docs.py

# The same tests without the native front door, on grpcio alone.
test-grpcio: setup
	EMBERCACHE_SERVER_TRANSPORT=grpcio $(PY) -m pytest -n 2 --dist loadfile --ignore tests/e2e/test_docs.py

# Needs Rust.
test-native: setup
	$(IN_NATIVE) cargo test -q -j2 --locked

# Each language's own tests and examples against a real sidecar. Needs Go, Node, Maven and Rust.
test-clients: clients-build
	$(PY) -m pytest tests/clients

# The chart and the injector in a real control plane, pods as processes, the image's steps. Needs Go.
test-cluster: setup tools
	cd tests/cluster/app && go vet ./... && go build -o build/app .
	$(PY) -m pytest tests/cluster

# The programs of the migration guides, against the other caches themselves, and those of docs/openai.md. Installs what
# they are written for, some 2.3 GB, the first time. Of two that are larger, or have to be compiled, the guides are tested
# where make bench-peers has installed them.
PEERS := redisvl langchain gptcache litellm triton openai-frameworks

test-migrating: setup
	for peer in $(PEERS); do \
		$(PY) -c "from bench.peers.environments import python_of; python_of('$$peer')" || exit; done
	$(PY) -m pytest tests/migrating

# Tools written in Go, each at a fixed version; needs Go.
tools: $(TOOLS)/helm $(TOOLS)/ghz $(TOOLS)/kube $(TOOLS)/promtool

$(TOOLS)/helm: Makefile
	$(GO_INSTALL) helm.sh/helm/v3/cmd/helm@v3.22.0 && touch $@

$(TOOLS)/ghz: Makefile
	$(GO_INSTALL) github.com/bojand/ghz/cmd/ghz@v0.121.0 && touch $@

$(TOOLS)/protoc-gen-go: Makefile
	$(GO_INSTALL) google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 && touch $@

$(TOOLS)/protoc-gen-go-grpc: Makefile
	$(GO_INSTALL) google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2 && touch $@

# A control plane of Kubernetes, for tests.
$(TOOLS)/kube: $(wildcard tests/cluster/kube/*)
	cd tests/cluster/kube && go build -trimpath -o $(CURDIR)/$@ -ldflags="-s -w \
		-X k8s.io/component-base/version.gitVersion=v1.36.3 \
		-X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36" .

# Prometheus' own check of alerts, for tests; without the clouds that Prometheus can discover.
$(TOOLS)/promtool: $(wildcard tests/cluster/promtool/*)
	cd tests/cluster/promtool && go build -tags remove_all_sd -ldflags="-s -w" -o $(CURDIR)/$@ \
		github.com/prometheus/prometheus/cmd/promtool

# Parts are killed, frozen and cut off under load; every answer is compared with the truth.
chaos: setup
	$(VENV)/bin/embercache models pull minilm
	$(VENV)/bin/embercache models pull smollm2-135m
	$(PY) -m tests.chaos --seconds 120 --seed 1

# Ten minutes of calls of every kind, and whether the sidecar has grown.
soak: setup
	$(VENV)/bin/embercache models pull minilm
	$(VENV)/bin/embercache models pull smollm2-135m
	$(PY) -m bench.soak

# Hostile bytes for all that reads bytes of others, a while for each.
fuzz: setup
	$(PY) tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

# Asks whether a locked Python or npm package has a known vulnerability. Needs the network, and npm.
audit: setup
	$(PY) -m supply.audit

# What an image holds, as CycloneDX.
sbom: setup
	@$(PY) -m supply.sbom cpu minilm smollm2-135m

lint: setup lint-native
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# Needs Rust with rustfmt and clippy.
lint-native: $(VENV)/.ready
	cd native && cargo fmt --check
	$(IN_NATIVE) cargo clippy -q -j2 --all-targets --locked -- -D warnings

# The documentation as a site, in dist/docs.
docs: setup
	$(PY) -m sphinx -q -W --keep-going -c docs/site docs dist/docs
	@echo "open dist/docs/index.html"

# Needs h2load, which is in Debian's package nghttp2-client.
bench: setup
	$(VENV)/bin/embercache models pull minilm
	$(VENV)/bin/embercache models pull smollm2-135m
	$(PY) -m bench.hot_path
	$(PY) -m bench.warm_path
	$(PY) -m bench.codecs
	$(PY) -m bench.encoder
	$(PY) -m bench.rerank
	$(PY) -m bench.admission
	$(PY) -m bench.index --vectors 10000
	$(PY) -m bench.invalidation
	$(PY) -m bench.staleness
	$(PY) -m bench.tracing
	$(PY) -m bench.sealing
	$(PY) -m bench.tls
	$(PY) -m bench.overload
	$(PY) -m bench.injector
	$(PY) -m bench.prefix --quick

# Beside other caches, encoders and servers, each in an environment of its own, of some 15 GB together;
# writes the comparison into docs/benchmarks.md.
bench-peers: setup
	$(VENV)/bin/embercache models pull minilm
	$(VENV)/bin/embercache models pull smollm2-135m
	$(PY) -m bench.peers --write-docs

# Loads a sidecar with ghz and writes what it measures into docs/benchmarks.md. Needs Go.
load-test: setup $(TOOLS)/ghz
	$(VENV)/bin/embercache models pull minilm
	$(VENV)/bin/embercache models pull smollm2-135m
	$(PY) -m bench.ghz --write-docs

proto: setup
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m grpc_tools.protoc -I proto \
		--python_out=clients/python --grpc_python_out=clients/python \
		--mypy_out=clients/python --mypy_grpc_out=clients/python \
		proto/embercache/v1/*.proto

# The contract: its form, and that it breaks no client of the last release.
proto-check: setup
	$(VENV)/bin/buf lint
	$(VENV)/bin/buf breaking --against proto/released.binpb

# At a release: the contract as it is now is what later ones are held against.
proto-release: proto-check
	$(VENV)/bin/buf build --exclude-source-info -o proto/released.binpb

NODE_MODULES := clients/node/node_modules/.package-lock.json

$(NODE_MODULES): clients/node/package.json clients/node/package-lock.json
	cd clients/node && npm ci --ignore-scripts --no-audit --no-fund

# The stubs of all languages; those of Java are made whenever it is built.
clients: proto $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc $(NODE_MODULES)
	clients/generate.sh

clients-build: setup $(NODE_MODULES)
	cd clients/go && test -z "$$(gofmt -l .)" && go vet -tags sidecar ./... \
		&& go build -o build/ ./examples/... && go test -tags sidecar -c -o build/sidecar.test .
	cd clients/node && npm run --silent build
	cd clients/java && mvn -q -B package
	cd clients/rust && cargo fmt --check && cargo test -q -j2 --locked \
		&& cargo clippy -q --workspace --all-targets --locked -- -D warnings

# Of all that runs: for work on the project, and for the image, which does without the model hub.
PIP_COMPILE := uv pip compile -q --generate-hashes --no-emit-index-url --no-annotate --no-header \
	--python-version 3.11 --python-platform x86_64-unknown-linux-gnu

lock:
	$(PIP_COMPILE) --group dev --extra cpu --extra dev-redis pyproject.toml \
		--no-emit-package embercache --no-emit-package embercache-sidecar -o requirements.lock
	for variant in cpu cuda; do $(PIP_COMPILE) -c requirements.lock --extra $$variant --extra openai \
		--extra tracing --extra pgvector pyproject.toml --no-emit-package embercache \
		--no-emit-package embercache-sidecar --no-emit-package huggingface-hub --no-emit-package hf-xet \
		--no-emit-package fsspec --no-emit-package filelock -o docker/requirements-$$variant.lock || exit; done
	echo hatchling | $(PIP_COMPILE) -c requirements.lock - -o docker/requirements-build.lock
