VENV := .venv
PY := $(VENV)/bin/python

.PHONY: setup proto lock

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml clients/python/pyproject.toml
	python3 -m venv $(VENV)
	$(PY) -m pip install -q --require-hashes -r requirements.lock
	$(PY) -m pip install -q --no-deps --no-build-isolation -e clients/python -e .
	touch $@

proto: setup
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) -m grpc_tools.protoc -I proto \
		--python_out=clients/python --grpc_python_out=clients/python \
		--mypy_out=clients/python --mypy_grpc_out=clients/python \
		proto/embercache/v1/*.proto

lock:
	uv pip compile -q --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
		--group dev --extra cpu --extra dev-redis pyproject.toml \
		--no-emit-package embercache --no-emit-package embercache-sidecar -o requirements.lock
