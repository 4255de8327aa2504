"""The life of ``embercache injector``: what starts, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, NamedTuple

import structlog

from sidecar.injector.metrics import InjectorMetrics
from sidecar.injector.nodes import ApiServer, Nodes
from sidecar.injector.review import Reviewer
from sidecar.injector.server import Webhook
from sidecar.transport.certificate import ServerCertificate
from sidecar.transport.status import StatusListener

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Coroutine, Mapping
    from pathlib import Path

    from sidecar.injector.settings import InjectorSettings

_FIRST_ANSWER_SECONDS = 5.0
_LOOK_SECONDS = 0.5

_log = structlog.get_logger()


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Options(NamedTuple):
    """How the injector itself runs; `InjectorSettings` tell what its sidecars are like.

    ``drain_seconds`` is how long it goes on after SIGTERM: others learn late of an end.
    """

    certificate: Path
    key: Path
    address: Address
    metrics_address: Address
    drain_seconds: float


async def run(settings: InjectorSettings, options: Options, environment: Mapping[str, str]) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises `FilesError` for the certificate; `ListenError` and `OSError` for the addresses.
    """
    ended = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, ended.set)
    metrics = InjectorMetrics()
    certificate = ServerCertificate(options.certificate, options.key, metrics.certificate)
    nodes = _nodes(settings, environment, metrics)
    webhook = Webhook(
        Reviewer(
            settings,
            own_namespace=environment.get("POD_NAMESPACE", ""),
            native=lambda: nodes.are_native if nodes else settings.native_sidecar != "false",
        ),
        metrics,
    )
    status = StatusListener(str(options.metrics_address), metrics.registry)
    serving = False
    status.is_ready = lambda: serving
    async with contextlib.AsyncExitStack() as exits:
        await status.start()
        exits.push_async_callback(status.close)
        if nodes:
            await _ask_first(nodes)
        exits.push_async_callback(webhook.stop)
        port = await webhook.start(*options.address, certificate.context("webhook"))
        renewals = certificate.follow(seconds=_LOOK_SECONDS)
        follow = (renewals, nodes.follow()) if nodes else (renewals,)
        await exits.enter_async_context(_in_background(*follow))
        serving = True
        _log.info("serving", port=port, metrics=str(options.metrics_address))
        await ended.wait()
        serving = False
        webhook.drain()
        _log.info("draining", seconds=options.drain_seconds)
        await asyncio.sleep(options.drain_seconds)
    _log.info("ended")


def _nodes(
    settings: InjectorSettings, environment: Mapping[str, str], metrics: InjectorMetrics
) -> Nodes | None:
    """What is known of the nodes, if that is what decides."""
    metrics.native_sidecars.set(settings.native_sidecar != "false")
    if settings.native_sidecar != "auto":
        return None
    server = ApiServer.of_pod(environment)
    if server is None:
        _log.warning("nodes not known: native sidecars assumed", reason="this is not a pod")
        return None
    return Nodes(server, metrics)


async def _ask_first(nodes: Nodes) -> None:
    """Asks for the nodes before there are pods to decide on, but does not wait for long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_ANSWER_SECONDS):
            await nodes.ask()


@contextlib.asynccontextmanager
async def _in_background(*work: Coroutine[object, object, None]) -> AsyncGenerator[None, None]:
    """Runs what has no end of its own. A fault in it ends the injector, so that it is seen."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each) for each in work]
        yield
        for task in tasks:
            task.cancel()
