"""More calls at once than the sidecar can take up: they wait, and none fails."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    Process = Any
    Sidecar = Any

CALLS = 4_000


async def test_thousands_of_calls_that_come_at_once_are_all_answered(
    launch: Callable[..., Process], client_of: Callable[[str], Sidecar]
) -> None:
    process = launch()
    (address,) = process.wait_until_it_serves()
    sidecar = client_of(address)
    (vector,) = await sidecar.vectors("a text")
    process.popen.send_signal(signal.SIGSTOP)
    calls = [asyncio.create_task(sidecar.vectors("a text")) for _ in range(CALLS)]
    # Until all of them are on their way.
    for _ in range(100):
        await asyncio.sleep(0)
    process.popen.send_signal(signal.SIGCONT)
    assert await asyncio.gather(*calls) == [[vector]] * CALLS
