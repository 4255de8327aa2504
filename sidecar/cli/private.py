"""A sidecar inside this process, for a command that needs one only while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sidecar.app import App
from sidecar.cli.serve import CANNOT_START
from sidecar.config_sources import ConfigError, load_settings
from sidecar.telemetry.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config import Settings


@contextlib.contextmanager
def private_sidecar() -> Iterator[str]:
    """A sidecar on a Unix socket in a private folder; yields its address.

    Its settings are those of the environment, but for what a sidecar beside it might hold (ports
    and the folder of the disk tier), for generators, which nobody asks here, and for traces. It
    runs in a thread and so cannot outlive the process.
    """
    with tempfile.TemporaryDirectory(prefix="embercache-") as folder:
        flags = {
            "server.address": "",
            "server.socket": str(Path(folder) / "sidecar.sock"),
            "server.metrics_address": "",
            "server.openai_address": "",
            "server.drain_delay": 0,
            "disk.folder": "",
            "generator.packs": "",
            "log.level": "error",
            "tracing.endpoint": "",
        }
        file = os.environ.get("EMBERCACHE_CONFIG")
        try:
            settings = load_settings(Path(file) if file else None, os.environ, flags)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        configure_logging(settings.log)
        with _serving(settings) as address:
            yield address


@contextlib.contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    address: Future[str] = Future()
    thread = threading.Thread(target=_serve, args=(loop, settings, address, stop))
    thread.start()
    try:
        yield _result(address)
    finally:
        with contextlib.suppress(RuntimeError):  # it did not start, and its loop is closed
            loop.call_soon_threadsafe(stop.set)
        thread.join()


def _result(address: Future[str]) -> str:
    try:
        return address.result()
    except CANNOT_START as error:
        raise click.ClickException(str(error)) from error


def _serve(
    loop: asyncio.AbstractEventLoop, settings: Settings, address: Future[str], stop: asyncio.Event
) -> None:
    async def serve() -> None:
        async with App(settings) as app:
            address.set_result(app.addresses[0])
            await stop.wait()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        try:
            runner.run(serve())
        except Exception as error:
            if address.done():
                raise
            address.set_exception(error)
