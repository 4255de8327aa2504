"""The servers of a run: a sidecar with its Redis, and bare ones that answer with the same bytes."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from bench.ghz.target import Target
from bench.processes import echo, sidecar
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.ghz.scenarios import Calls, Scenario

GENERATOR = "smollm2-135m"


@dataclass(frozen=True)
class Server:
    """A process that answers at an address; ``target`` is absent for a bare one."""

    name: str
    address: str
    process: psutil.Process
    target: Target | None = None

    def cpu_seconds(self) -> float:
        """Of all its threads, since it started."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True, eq=False)
class Line:
    """A line of the tables: a scenario, its calls, and who answers them."""

    scenario: Scenario
    calls: Calls
    server: Server


@contextmanager
def serving(drawn: Mapping[Scenario, Calls], texts: Sequence[str]) -> Iterator[list[Line]]:
    """Starts what the scenarios need, and stores what they find; each hot one follows its echo."""
    kinds = {scenario.kind for scenario in drawn}
    with tempfile.TemporaryDirectory(prefix="embercache-ghz-") as folder, ExitStack() as stack:
        redis = stack.enter_context(DevRedis())
        socket = f"{folder}/sidecar.sock"
        options = ["--server-address", "", "--server-socket", socket]
        options += ["--server-drain-delay", "0", "--log-level", "error"]
        if "generate" in kinds:
            options += ["--generator-packs", GENERATOR]
        process = stack.enter_context(
            sidecar(*options, environment={"EMBERCACHE_REDIS_URL": redis.url})
        )
        target = stack.enter_context(closing(Target(f"unix:{socket}")))
        ours = Server("Embercache", target.address, psutil.Process(process.pid), target)
        if "search" in kinds:
            target.store_documents(texts)
        lines = []
        for scenario, calls in drawn.items():
            if not scenario.bypass:
                target.store(scenario, calls)
            if scenario.is_hot:
                (answer,) = target.send(scenario, calls.messages[:1])
                address = f"unix:{folder}/{scenario.kind}-echo.sock"
                process = stack.enter_context(echo(address, answer))
                name = f"bare grpcio echo, {len(answer):,} bytes"
                bare = Server(name, address, psutil.Process(process.pid))
                lines.append(Line(scenario, calls, bare))
            lines.append(Line(scenario, calls, ours))
        yield lines
