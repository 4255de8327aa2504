"""Prometheus metrics of calls, as a scraper reads them."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import embed_pb2
from google.protobuf.duration_pb2 import Duration

from sidecar.cache.disk_store import DiskStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    HeldModel = Any
    Start = Callable[..., Awaitable[Any]]
    Scrape = Callable[[], Awaitable[dict[str, float]]]

HANG_GUARD = 30.0


@pytest.fixture
async def measured(start: Start, tmp_path: Path) -> tuple[Any, Scrape]:
    """A sidecar, and what reads its metrics: the value of each sample by its name and labels."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    sidecar = await start(
        server={"address": "127.0.0.1:0", "metrics_address": address}, disk=tmp_path / "disk"
    )

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics") as response:
            page: str = response.read().decode()
        return page

    async def scrape() -> dict[str, float]:
        page = await asyncio.to_thread(read)
        return {
            name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", page, re.MULTILINE)
        }

    return sidecar, scrape


def failed(method: str, code: str) -> str:
    return f'embercache_calls_failed_total{{code="{code}",method="{method}"}}'


async def until_counted(scrape: Scrape, name: str) -> dict[str, float]:
    """The metrics as soon as they have a sample of that name."""
    async with asyncio.timeout(HANG_GUARD):
        while name not in (samples := await scrape()):
            pass
    return samples


async def test_a_call_that_ended_well_is_measured_and_has_not_failed(
    measured: tuple[Any, Scrape],
) -> None:
    sidecar, scrape = measured
    await sidecar.embed("a text")
    samples = await scrape()
    assert samples['embercache_call_seconds_count{method="Embed"}'] == 1
    assert not any(name.startswith("embercache_calls_failed_total") for name in samples)


async def test_a_refused_call_is_counted_by_its_code(measured: tuple[Any, Scrape]) -> None:
    sidecar, scrape = measured
    with pytest.raises(grpc.aio.AioRpcError):
        await sidecar.embed()
    samples = await scrape()
    assert samples[failed("Embed", "INVALID_ARGUMENT")] == 1
    assert samples['embercache_call_seconds_count{method="Embed"}'] == 0


async def test_a_call_whose_deadline_passed_is_counted_as_cancelled(
    held_model: HeldModel, measured: tuple[Any, Scrape]
) -> None:
    sidecar, scrape = measured
    with pytest.raises(grpc.aio.AioRpcError):
        await sidecar.embeds.Embed(sidecar.request("a text"), timeout=0.05)
    samples = await until_counted(scrape, failed("Embed", "CANCELLED"))
    held_model.let_go()
    assert samples[failed("Embed", "CANCELLED")] == 1
    assert samples['embercache_call_seconds_count{method="Embed"}'] == 0


async def requests(
    *numbered: embed_pb2.EmbedRequest,
) -> AsyncIterator[embed_pb2.EmbedStreamRequest]:
    for number, request in enumerate(numbered):
        yield embed_pb2.EmbedStreamRequest(id=number, request=request)
    await asyncio.Event().wait()


@pytest.mark.parametrize("answered", [True, False])
async def test_a_stream_that_was_cancelled_is_counted_once(
    answered: bool, held_model: HeldModel, measured: tuple[Any, Scrape]
) -> None:
    sidecar, scrape = measured
    if answered:
        held_model.let_go()
    call = sidecar.embeds.EmbedStream(requests(sidecar.request("a text")), timeout=HANG_GUARD)
    if answered:
        await call.read()
    else:
        async with asyncio.timeout(HANG_GUARD):
            while not held_model.sizes:
                await sidecar.stats()
    call.cancel()
    samples = await until_counted(scrape, failed("EmbedStream", "CANCELLED"))
    held_model.let_go()
    assert samples[failed("EmbedStream", "CANCELLED")] == 1
    assert samples['embercache_call_seconds_count{method="EmbedStream"}'] == 0


async def test_the_failures_of_the_disk_are_counted(
    measured: tuple[Any, Scrape], monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar, scrape = measured

    def fail(*arguments: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(DiskStore, "get_many", fail)
    monkeypatch.setattr(DiskStore, "apply", fail)
    async with asyncio.timeout(HANG_GUARD):
        number = 0
        while not (stats := await sidecar.stats()).disk.skipped or not stats.disk.writes_dropped:
            assert await sidecar.tiers(f"text {number}") == ["COMPUTED"]
            number += 1
    samples = await scrape()
    assert samples["embercache_disk_errors_total"] == stats.disk.errors > 0
    assert samples["embercache_disk_skipped_total"] == stats.disk.skipped
    assert samples["embercache_disk_writes_dropped_total"] >= stats.disk.writes_dropped
    assert samples["embercache_disk_corrupt_files_total"] == 0


async def test_a_corrupt_file_on_disk_is_counted(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    (folder / "entries.db").write_bytes(b"no database" * 1000)
    sidecar = await start(disk=folder)
    assert (await sidecar.stats()).disk.corrupt_files == 1


async def test_without_a_disk_tier_nothing_is_told_of_it(start: Start) -> None:
    assert not (await (await start()).stats()).HasField("disk")


async def test_hot_entries_whose_lifetime_has_ended_are_counted(
    measured: tuple[Any, Scrape],
) -> None:
    sidecar, scrape = measured
    short = {"ttl": Duration(nanos=1_000_000)}
    async with asyncio.timeout(HANG_GUARD):
        while not (expirations := (await sidecar.stats()).tiers[0].expirations):
            await sidecar.embed("a text", **short)
    assert (await scrape())['embercache_expirations_total{tier="hot"}'] == expirations
