"""The first token of prompts that begin alike: Embercache beside llama-cpp-python's server.

Both have the same weights: the GGUF file is that of which the pack is made. The server runs with
its prompt cache in memory, as its page has it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from embercache import Client

from bench.peers.drive import PeerError
from bench.peers.environments import NotInstalledError, python_of
from bench.peers.servers import free_port, http_server
from bench.prefix_speed import gguf_file
from bench.prefix_texts import Texts
from bench.processes import sidecar
from sidecar.models.cpus import usable_cpus
from sidecar.models.packs import default_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    Ask = Callable[[str], float]

PACK = "smollm2-135m"
NAME = "llama-cpp"
_PROMPT, _KEPT, _ANSWER, _ROUNDS, _CONTEXT = 1000, 900, 16, 3, 2048


@dataclass(frozen=True)
class Generation:
    """Milliseconds, medians: to the first token, and for a whole answer that was given before."""

    version: str
    cold_ms: float
    same_beginning_ms: float
    other_between_ms: float
    repeated_ms: float


def measure_generation(names: Collection[str]) -> dict[str, Generation | str]:
    """Of Embercache, and of the peer if it is asked for; in turns."""
    if NAME not in names:
        return {}
    results: dict[str, Generation | str] = {}
    ways = {"Embercache": _embercache, NAME: _llama}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        opened: dict[str, tuple[str, Ask]] = {}
        for name, way in ways.items():
            try:
                opened[name] = stack.enter_context(way(folder))
            except (PeerError, NotInstalledError, OSError, RuntimeError) as error:
                results[name] = str(error)
        texts = Texts(default_folder() / PACK)
        times = {name: [] for name in opened}
        for _ in range(_ROUNDS):
            beginning, prompts = texts.take(_KEPT), [texts.take(_PROMPT - _KEPT) for _ in range(3)]
            other = texts.take(_PROMPT)
            for name, (_, ask) in opened.items():
                cold, same = (ask(beginning + prompts[place]) for place in (0, 1))
                ask(other)
                between = ask(beginning + prompts[2])
                times[name].append((cold, same, between, ask(beginning + prompts[2])))
        for name, (said, _) in opened.items():
            results[name] = Generation(said, *map(median, zip(*times[name], strict=True)))
    return results


@contextlib.contextmanager
def _embercache(folder: Path) -> Iterator[tuple[str, Ask]]:
    socket = str(folder / "generate.sock")
    listen = ("--server-address", "", "--server-socket", socket, "--server-drain-delay", "0")
    with (
        sidecar(*listen, "--model-provider", "cpu", "--generator-packs", PACK),
        Client(f"unix://{socket}", timeout=120) as client,
    ):

        def ask(prompt: str) -> float:
            began = time.perf_counter()
            first = 0.0
            for _ in client.generate_stream(prompt, max_tokens=_ANSWER):
                first = first or time.perf_counter()
            return (first - began) * 1000

        ask("The first call is slower than those that follow.")
        yield version("embercache-sidecar"), ask


@contextlib.contextmanager
def _llama(folder: Path) -> Iterator[tuple[str, Ask]]:
    python = python_of(NAME)
    port, threads = free_port(), str(usable_cpus())
    command = [python, "-m", "llama_cpp.server", "--model", str(gguf_file(folder / "gguf"))]
    command += ["--n_ctx", str(_CONTEXT), "--n_batch", str(_CONTEXT), "--flash_attn", "true"]
    command += ["--n_threads", threads, "--n_threads_batch", threads, "--cache", "true"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}/v1"

    def ask(prompt: str) -> float:
        body = {"prompt": prompt, "max_tokens": _ANSWER, "temperature": 0, "stream": True}
        headers = {"Content-Type": "application/json"}
        began = time.perf_counter()
        request = urllib.request.Request(  # noqa: S310 - ours
            f"{url}/completions", json.dumps(body).encode(), headers
        )
        first = 0.0
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            for line in answer:
                if line.startswith(b"data:") and not first:
                    first = time.perf_counter()
        return (first - began) * 1000

    with http_server(command, f"{url}/models", folder / "llama.log"):
        ask("The first call is slower than those that follow.")
        yield _version(python), ask


def _version(python: str) -> str:
    code = "from importlib.metadata import version; print(version('llama-cpp-python'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
