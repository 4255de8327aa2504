"""Encoders as processes that freeze: their connections stay open, and nothing comes any more."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from sidecar.models import pool_channel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Launch = Callable[..., Any]
    Start = Callable[..., Awaitable[Any]]

# As it is set, but ten times as fast.
FAST = [
    (name, value // 10 if name.endswith("_ms") else value) for name, value in pool_channel.KEEPALIVE
]


@pytest.mark.threat("An upstream never answers")
async def test_no_call_fails_when_one_of_two_encoders_freezes_and_a_frozen_pool_is_left_alone(
    launch: Launch,
    start_front: Start,
    client_of: Callable[[str], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_channel, "KEEPALIVE", FAST)
    processes = [launch(), launch()]
    names = [process.wait_until_it_serves()[0] for process in processes]
    clients = [client_of(name) for name in names]
    front = await start_front(*names)
    done = asyncio.Event()

    async def call(worker: int) -> int:
        turn = 0
        while not done.is_set():
            assert await front.tiers(f"{worker} {turn}") == ["COMPUTED"]
            turn += 1
        return turn

    workers = [asyncio.create_task(call(worker)) for worker in range(8)]
    while min([await client.computed() for client in clients]) < 20:
        pass
    processes[0].popen.send_signal(signal.SIGSTOP)
    before = await clients[1].computed()
    while await clients[1].computed() < before + 200:
        pass
    done.set()
    assert min(await asyncio.gather(*workers)) > 0

    # Now all of them.
    processes[1].popen.send_signal(signal.SIGSTOP)
    message = ""
    while "left alone" not in message:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await front.embed("new")
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        message = error.value.details()
    for process in processes:
        process.popen.send_signal(signal.SIGCONT)
    async with asyncio.timeout(20):
        while await front.embeds.Embed(front.request("new")).code() is not grpc.StatusCode.OK:
            await asyncio.sleep(0.01)
