"""What peers that are servers, or stand before one, need to run."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers.drive import ROOT, PeerError
from bench.triton import Triton
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_START_SECONDS = 120.0
_END_SECONDS = 20.0
_TRITON_CONFIG = """\
name: "embed"
backend: "python"
input [ { name: "text" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "vector" data_type: TYPE_FP32 dims: [ -1, 384 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
response_cache { enable: true }
"""


def free_port() -> int:
    """A TCP port of this machine that nobody has just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def redis_server() -> DevRedis:
    """A Redis of its own for each peer, which also listens on TCP."""
    return DevRedis(port=free_port())


@contextlib.contextmanager
def http_server(
    command: Sequence[str], ready: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[None]:
    """A server in a process of its own, from when it answers at ``ready``.

    Raises `PeerError` if it ends before or takes too long.
    """
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=file, stderr=file
        )
        try:
            _wait(process, ready, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def model_server(pack: str, folder: Path) -> Iterator[str]:
    """`bench.peers.model_server` with a pack; its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "bench.peers.model_server", pack, str(port)]
    with http_server(command, f"{url}/computed", folder / "model-server.log"):
        yield url


@contextlib.contextmanager
def litellm(
    python: str, model: str, upstream: str, redis: str, folder: Path
) -> Iterator[dict[str, str]]:
    """LiteLLM's proxy with one model and its Redis cache, as its page on caching has it.

    Its address, and the key that it does not start without.
    """
    port = free_port()
    config = folder / f"litellm-{port}.json"  # YAML knows JSON
    parameters = {"model": f"openai/{model}", "api_base": upstream, "api_key": "none"}
    host, _, redis_port = redis.removeprefix("redis://").partition("/")[0].partition(":")
    cache = {"type": "redis", "host": host, "port": int(redis_port)}
    key = f"sk-{secrets.token_hex(16)}"
    settings = {
        "general_settings": {"master_key": key},
        "model_list": [{"model_name": model, "litellm_params": parameters}],
        "litellm_settings": {"cache": True, "cache_params": cache},
    }
    config.write_text(json.dumps(settings), "utf-8")
    command = [str(Path(python).with_name("litellm")), "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with http_server(command, f"{url}/health/liveliness", folder / "litellm.log", environment):
        yield {"url": url, "key": key}


@contextlib.contextmanager
def infinity(python: str, weights: str, model: str, folder: Path) -> Iterator[str]:
    """infinity-emb on PyTorch."""
    port = free_port()
    command = [str(Path(python).with_name("infinity_emb")), "v2", "--model-id", weights]
    command += ["--served-model-name", model, "--engine", "torch", "--device", "cpu"]
    command += ["--no-bettertransformer", "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    environment = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    with http_server(command, f"{url}/health", folder / "infinity.log", environment):
        yield url


@contextlib.contextmanager
def triton(python: str, upstream: str, folder: Path) -> Iterator[str]:
    """Triton with its local response cache in front of the model server."""
    source = Path(__file__).with_name("triton_model.py").read_text("utf-8")
    model = folder / "triton_model.py"
    model.write_text(source.replace("@MODEL_SERVER@", upstream), "utf-8")
    address = f"127.0.0.1:{free_port()}"
    found = Triton(python, "text", config=_TRITON_CONFIG, model=model)
    with found.serving(address):
        yield address


def _wait(process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(ready, timeout=5):  # noqa: S310 - ours
                return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text("utf-8", "replace").strip().splitlines() or ["no word"]
                raise PeerError(f"did not start: {lines[-1]}") from None
            time.sleep(0.1)
