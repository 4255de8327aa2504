"""What the documentation says is so: its commands run, its tables are complete."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2
from prometheus_client import CollectorRegistry, generate_latest

from sidecar.cache.events import parse_event
from sidecar.index.memory import MemoryIndex
from sidecar.injector.metrics import InjectorMetrics
from sidecar.telemetry.front_counts import FrontCounts
from sidecar.telemetry.index_metrics import IndexCollector
from sidecar.telemetry.metrics import CallMetrics, StatsCollector
from sidecar.telemetry.reload_metrics import ReloadCollector
from sidecar.telemetry.task_metrics import TaskCollector
from sidecar.telemetry.trace_export import TraceExport
from sidecar.transport.certificate import CertificateMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[object]:
    for page in PAGES:
        if page.name == "kubernetes.md":  # Needs a cluster: see tests/cluster/test_docs.py.
            continue
        for number, block in enumerate(BLOCK.findall(page.read_text("utf-8")), 1):
            # The Python of the front page talks to the server that its commands have started.
            code = PYTHON.findall(page.read_text("utf-8")) if page.name == "README.md" else []
            serves = " serve" in block
            yield pytest.param(block, code if serves else [], id=f"{page.name}-{number}")


@pytest.mark.parametrize(("block", "code"), list(blocks()))
def test_the_commands_of_the_documentation_run(
    block: str, code: list[str], tmp_path: Path, minilm_folder: Path
) -> None:
    shutil.copytree(minilm_folder, tmp_path / "my-model")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for command in block.replace("\\\n", " ").splitlines():
            if command.startswith("make "):
                # Too long, or this very run: the script of CI must call it.
                assert command in (ROOT / ".ci/run").read_text("utf-8"), command
            elif " serve" in command:
                _serve(command, tmp_path, environment, servers)
            elif command.startswith("python -m bench"):
                assert (ROOT / f"{command.split()[2].replace('.', '/')}.py").is_file()
            elif command:
                subprocess.run(
                    ["bash", "-euc", command], cwd=tmp_path, env=environment, check=True, timeout=90
                )
        for snippet in code:
            subprocess.run([sys.executable, "-c", snippet], env=environment, check=True, timeout=60)
    finally:
        for server in servers:
            server.terminate()
        assert [server.wait(timeout=30) for server in servers] == [0] * len(servers)
        HELD.update({port: _hold(port) for port in (50551, 50600) if port not in HELD})


def _hold(port: int) -> socket.socket | None:
    """Keeps a port from being given to a connection of some other test, without listening."""
    held = socket.socket()
    try:
        held.bind(("127.0.0.1", port))
    except OSError:
        held.close()
        return None
    return held


# From the collection of the tests on, until the pages' servers need them.
HELD = {port: _hold(port) for port in (50551, 50600)}


def _serve(
    command: str,
    folder: Path,
    environment: dict[str, str],
    servers: list[subprocess.Popen[bytes]],
) -> None:
    arguments = shlex.split(command)
    address = "127.0.0.1:50551"
    if "--server-address" in arguments:
        address = arguments[arguments.index("--server-address") + 1]
    if (held := HELD.pop(int(address.rpartition(":")[2]), None)) is not None:
        held.close()
    servers.append(subprocess.Popen(arguments, cwd=folder, env=environment))
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)


def test_every_setting_is_documented() -> None:
    page = runpy.run_path(str(ROOT / "docs/make_configuration.py"))
    assert page["FILE"].read_text("utf-8") == page["text"](), "run docs/make_configuration.py"


def test_every_annotation_is_documented() -> None:
    page = runpy.run_path(str(ROOT / "docs/make_annotations.py"))
    assert page["FILE"].read_text("utf-8") == page["text"](), "run docs/make_annotations.py"


def test_the_whole_contract_is_documented() -> None:
    page = runpy.run_path(str(ROOT / "docs/make_reference.py"))
    assert page["FILE"].read_text("utf-8") == page["text"](), "run docs/make_reference.py"


def test_every_metric_is_documented() -> None:
    registry = CollectorRegistry()
    CallMetrics(registry)
    stats = cache_pb2.StatsResponse(
        tiers=[cache_pb2.TierStats(tier=common_pb2.TIER_HOT)],
        disk=cache_pb2.DiskState(),
        warm=cache_pb2.WarmState(state=cache_pb2.WarmState.STATE_UP),
        models=[cache_pb2.ModelStats(name="m")],
        generators=[cache_pb2.GeneratorStats(name="g", prefix=cache_pb2.PrefixStats())],
    )
    registry.register(StatsCollector(lambda: stats))
    registry.register(TraceExport("http://127.0.0.1:4317"))
    CertificateMetrics(registry, "embercache")
    registry.register(ReloadCollector())
    registry.register(IndexCollector(MemoryIndex()))
    front: Any = SimpleNamespace(connections=0, failed_handshakes=0)
    registry.register(
        FrontCounts(front, {}, CallMetrics(CollectorRegistry()), [], 1.0, lambda: 1.0)
    )
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        registry.register(TaskCollector(loop))
    names = set(re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), re.MULTILINE))
    injector = generate_latest(InjectorMetrics().registry).decode()
    names |= set(re.findall(r"^# TYPE (\S+)", injector, re.MULTILINE))
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    documented = set(re.findall(r"`(embercache_\w+)(?:\{[^`]*)?`", page))
    assert documented == {name for name in names if not name.endswith("_created")}


def test_every_event_of_the_documentation_is_understood() -> None:
    page = (ROOT / "docs/invalidation.md").read_text("utf-8")
    examples = re.findall(r"^ +XADD embercache:events \* (.+)$", page, re.MULTILINE)
    assert examples
    for example in examples:
        words = [word.encode() for word in shlex.split(example)]
        parse_event(dict(zip(words[::2], words[1::2], strict=True)))


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for target, heading in re.findall(r"\]\(([^)#:]*)#?([^):]*)\)", page.read_text("utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            assert not heading or heading in anchors(file), f"{page.name}: {target}#{heading}"


def anchors(page: Path) -> set[str]:
    """What links to the headings of a page end in."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
