# One image for sidecars, encoder pools and the injector:
#   docker build --tag embercache .
#   docker build --tag embercache:cuda --build-arg VARIANT=cuda .
#   docker build --tag embercache:minilm --build-arg MODELS="minilm smollm2-135m" .
# Without MODELS, mount a folder of model packs at /models, or let other sidecars encode.

ARG PYTHON=3.11.14-slim-trixie
ARG RUST=1.95.0-slim-trixie

# The native front door, for any Python since 3.11: a layer that stays the same until native/ changes.
FROM rust:${RUST} AS native
WORKDIR /build
COPY native native
RUN CARGO_PROFILE_RELEASE_STRIP=true PYO3_NO_PYTHON=1 cargo build \
        --release --locked --features extension-module --manifest-path native/Cargo.toml \
    && install -D native/target/release/libembercache_native.so /native/embercache_native.abi3.so

# The libraries: a layer that stays the same until docker/requirements-*.lock changes.
FROM python:${PYTHON} AS libraries
ARG VARIANT=cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
# Its pip is that of the base image, which `embercache models pull` asks where to download.
RUN python3 -m venv --system-site-packages --without-pip /opt/embercache
COPY docker/requirements-${VARIANT}.lock docker/strip.py docker/
# --no-deps: the lock leaves out what only downloads from a model hub need. The bytecode is made
# here, since nothing can be written where the image runs, and is not compared with its source.
RUN python3 -m pip --python /opt/embercache/bin/python install \
        --no-deps --require-hashes -r docker/requirements-${VARIANT}.lock \
    && python3 docker/strip.py /opt/embercache \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/embercache/lib

# The models, with no more of our own than what makes them: other changes leave this layer as it is.
FROM libraries AS models
ARG MODELS=""
COPY docker/models.py docker/
COPY sidecar/models/download.py \
     sidecar/models/errors.py \
     sidecar/models/gguf_file.py \
     sidecar/models/gguf_tokenizer.py \
     sidecar/models/gguf_weights.py \
     sidecar/models/graph_builder.py \
     sidecar/models/llama_graph.py \
     sidecar/models/llama_weights.py \
     sidecar/models/manifest.py \
     sidecar/models/minilm_graph.py \
     sidecar/models/pack_folder.py \
     sidecar/models/packs.py \
     sidecar/models/pull.py \
     sidecar/models/safetensors.py \
     sidecar/models/smollm2.py \
     sidecar/models/
RUN PYTHONPATH=. /opt/embercache/bin/python docker/models.py /models ${MODELS}

# Our own packages, as a folder to be laid over the libraries.
FROM libraries AS packages
COPY docker/requirements-build.lock docker/
RUN python3 -m venv --system-site-packages --without-pip /build/tools \
    && /build/tools/bin/python -m pip install --require-hashes -r docker/requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY sidecar sidecar
COPY --from=native /native native
RUN /build/tools/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir wheels \
        ./clients/python . \
    && python3 -m pip --python /opt/embercache/bin/python install \
        --no-deps --no-index --prefix /packages/opt/embercache wheels/*.whl \
    && cp native/*.so /packages/opt/embercache/lib/python3.*/site-packages/ \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /packages

FROM python:${PYTHON}
ENV PATH=/opt/embercache/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    EMBERCACHE_MODEL_FOLDER=/models \
    EMBERCACHE_LOG_FORMAT=json
COPY --from=libraries /opt/embercache /opt/embercache
COPY --from=models /models /models
COPY --from=packages /packages /
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["embercache", "health"]
ENTRYPOINT ["embercache"]
CMD ["serve"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Embercache" \
      org.opencontainers.image.description="A gRPC sidecar that answers embedding, search and generation calls from cache" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
