"""A real sidecar in a process of its own, and the command line to talk to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import grpc
import pytest
from click.testing import CliRunner, Result

from sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

START_SECONDS = 60


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path) -> Path:
    """A pack like minilm, but of another version: it reads less of a text."""
    folder = shutil.copytree(minilm_folder, tmp_path_factory.mktemp("packs") / "minilm-v2")
    # It is a pack of one's own from here on.
    (folder / "manifest.json").unlink()
    config = folder / "sentence_bert_config.json"
    config.chmod(0o644)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_seq_length": 64}))
    return folder


@pytest.fixture(scope="session")
def address(
    tmp_path_factory: pytest.TempPathFactory,
    minilm_folder: Path,
    other_model: Path,
    smollm2_folder: Path,
) -> Iterator[str]:
    """Where a sidecar of two models and a generator, with a Redis of its own, listens."""
    socket = tmp_path_factory.mktemp("cli") / "sidecar.sock"
    command = [sys.executable, "-m", "sidecar", "serve", "--dev", "--log-level", "error"]
    command += ["--server-address", "", "--server-socket", str(socket)]
    command += ["--server-drain-delay", "0", "--popular-queries", "100"]
    command += ["--model-packs", f"{minilm_folder},{other_model}"]
    command += ["--generator-packs", str(smollm2_folder), "--generator-max-tokens", "16"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
    process = subprocess.Popen(command, env=environment)
    try:
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            grpc.channel_ready_future(channel).result(timeout=START_SECONDS)
        yield f"unix:{socket}"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=START_SECONDS) == 0


@pytest.fixture
def run(address: str) -> Callable[..., Result]:
    """Runs a command against that sidecar; ``input`` is what is piped in."""
    runner = CliRunner(env={"EMBERCACHE_ADDRESS": address})

    def run_command(*arguments: str, input: bytes | None = None) -> Result:  # noqa: A002
        return runner.invoke(main, arguments, input=input)

    return run_command


@pytest.fixture
def embed(run: Callable[..., Result], namespace: str) -> Callable[..., Result]:
    """Runs ``embercache embed`` in the test's own namespace."""

    def run_embed(*arguments: str, input: bytes | None = None) -> Result:  # noqa: A002
        return run("embed", "--namespace", namespace, *arguments, input=input)

    return run_embed


@pytest.fixture
def namespace() -> str:
    """A part of the cache that no other test uses."""
    return uuid.uuid4().hex
