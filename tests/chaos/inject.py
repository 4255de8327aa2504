"""Does what the schedule says, and takes note of when."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.chaos.parts import ENCODERS, REDIS
from tests.chaos.schedule import POOL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.parts import Cluster
    from tests.chaos.schedule import Fault
    from tests.chaos.timeline import Timeline


class Injector:
    """Works off the lanes of a schedule.

    ``done`` counts the faults by part and kind, ``bad_ends`` are servers that did not end with
    status 0 when asked to end.
    """

    def __init__(self, cluster: Cluster, timeline: Timeline, *, show: bool) -> None:
        self._cluster = cluster
        self._timeline = timeline
        self._show = show
        self.done: Counter[tuple[str, str]] = Counter()
        self.bad_ends: list[str] = []

    async def run(self, lanes: dict[str, list[Fault]], seconds: float) -> None:
        """Injects the faults; begins none after ``seconds``. All is repaired in the end."""
        give_up = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for faults in lanes.values():
                group.create_task(self._work_off(faults, give_up))

    async def _work_off(self, faults: Sequence[Fault], give_up: float) -> None:
        for fault in faults:
            if time.monotonic() + fault.after > give_up:
                return
            await asyncio.sleep(fault.after)
            self.done[fault.part, fault.kind] += 1
            if self._show:
                now = time.time() - self._timeline.began
                print(f"{now:7.2f} s  {fault.part}: {fault.kind}", flush=True)
            await self._inflict(fault)

    async def _inflict(self, fault: Fault) -> None:
        if fault.link is not None:
            note = self._timeline.begin(fault.part, fault.kind, str(fault.link))
            proxy = self._cluster.links[fault.part]
            await proxy.begin(fault.link)
            await asyncio.sleep(fault.lasts)
            await proxy.end()
            note.end = time.time()
            return
        names = ENCODERS if fault.part == POOL else (fault.part,)
        await asyncio.gather(*(self._disturb(name, fault) for name in names))

    async def _disturb(self, name: str, fault: Fault) -> None:
        part = self._cluster.redis if name == REDIS else self._cluster.servers[name]
        note = self._timeline.begin(name, fault.kind)
        match fault.kind:
            case "freeze":
                part.freeze()
                await asyncio.sleep(fault.lasts)
                part.thaw()
            case "kill":
                part.kill()
                await asyncio.sleep(fault.lasts)
                await part.start()
            case "restart":
                server = self._cluster.servers[name]
                if status := await server.terminate():
                    self.bad_ends.append(f"{name} ended with status {status} after SIGTERM")
                await asyncio.sleep(fault.lasts)
                await server.start()
        note.end = time.time()
