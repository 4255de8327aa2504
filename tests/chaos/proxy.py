"""A TCP proxy that treats connections badly: all of them, or a share drawn at random.

What is drawn is a function of the seed, the name of the proxy, the number of the fault and the
number of the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from bench.proxy import Proxy, Side, reset

if TYPE_CHECKING:
    from pathlib import Path

LinkKind: TypeAlias = Literal[
    "latency", "cut", "reset", "half open", "black hole", "garbage", "slow drip"
]
LINK_KINDS: tuple[LinkKind, ...] = get_args(LinkKind)

Way: TypeAlias = Literal["up", "down", "both"]
"""From the client to the server, from the server to the client."""
WAYS: tuple[Way, ...] = get_args(Way)

_DRIP_SECONDS = 0.05
_MOST_GARBAGE = 256


@dataclass(frozen=True)
class LinkFault:
    """What is done to connections.

    - ``latency``: each piece of data is late by 0.5 to 1.5 times ``amount`` seconds;
    - ``cut``: all connections are reset, and new ones refused;
    - ``reset``: connections are reset now, and new ones when the first data come;
    - ``half open``: one side is reset, the other is not told and hears nothing any more, also
      after the end of the fault: ``up`` is to lose the server, ``down`` the client;
    - ``black hole``: nothing gets through; afterwards it comes late, or the connection is reset;
    - ``garbage``: random bytes come before the next data, once;
    - ``slow drip``: ``amount`` bytes a second get through.

    ``share`` is the probability of each connection to be concerned, also of new ones.
    """

    kind: LinkKind
    way: Way = "both"
    share: float = 1.0
    amount: float = 0.0


class FaultyProxy(Proxy):
    """Stands between a client and a server that listens on a Unix socket."""

    def __init__(self, upstream: Path, name: str, seed: int) -> None:
        super().__init__(upstream)
        self.name = name
        self._seed = seed
        self._fault: LinkFault | None = None
        self._faults = 0
        self._numbers = 0
        self._connections: set[_Connection] = set()

    @property
    def address(self) -> str:
        """Where it listens, HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    async def begin(self, fault: LinkFault) -> None:
        """Treats connections so until `end`."""
        self._faults += 1
        self._fault = fault
        if fault.kind == "cut":
            await self.cut()
        for connection in list(self._connections):
            self._infect(connection, fault)

    async def end(self) -> None:
        """Lets all through, on new connections at the latest."""
        self._fault = None
        for connection in list(self._connections):
            connection.recover()
        await self.restore()

    async def _relay(self, client: Side, server: Side) -> None:
        self._numbers += 1
        connection = _Connection(self._numbers, client, server)
        self._connections.add(connection)
        if self._fault is not None and self._fault.kind != "reset":
            self._infect(connection, self._fault)
        elif self._fault is not None:
            connection.reset_at_data = self._is_concerned(connection, self._fault)[0]
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._writers.discard(server[1])
            server[1].transport.abort()

    def _infect(self, connection: _Connection, fault: LinkFault) -> None:
        concerned, dice = self._is_concerned(connection, fault)
        if concerned:
            connection.infect(fault, dice)

    def _is_concerned(
        self, connection: _Connection, fault: LinkFault
    ) -> tuple[bool, random.Random]:
        dice = random.Random(f"{self._seed} {self.name} {self._faults} {connection.number}")
        return dice.random() < fault.share, dice


class _Connection:
    """One connection, and what is done to it."""

    def __init__(self, number: int, client: Side, server: Side) -> None:
        self.number = number
        self.reset_at_data = False
        self._client, self._server = client, server
        self._fault: LinkFault | None = None
        self._dice = random.Random(0)
        self._garbage_left: set[Way] = set()
        self._swallows: set[Way] = set()
        self._passes: dict[Way, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        for event in self._passes.values():
            event.set()

    async def run(self) -> None:
        """Carries bytes until both ways have ended, or one has failed."""
        ways = {
            asyncio.ensure_future(self._carry("up", self._client[0], self._server[1])),
            asyncio.ensure_future(self._carry("down", self._server[0], self._client[1])),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            reset(self._client[1])

    def infect(self, fault: LinkFault, dice: random.Random) -> None:
        """Does it from now on."""
        self._fault, self._dice = fault, dice
        ways: set[Way] = {"up", "down"} if fault.way == "both" else {fault.way}
        match fault.kind:
            case "reset":
                self._reset()
            case "half open":
                self._swallows = {"up", "down"}
                reset(self._client[1] if fault.way == "down" else self._server[1])
            case "black hole":
                for way in ways:
                    self._passes[way].clear()
            case "garbage":
                self._garbage_left = ways

    def recover(self) -> None:
        """Ends what was done, as far as it ends."""
        fault, self._fault = self._fault, None
        self._garbage_left, self.reset_at_data = set(), False
        if fault is not None and fault.kind == "black hole" and self._dice.random() < 0.5:
            self._reset()
        for event in self._passes.values():
            event.set()

    def _reset(self) -> None:
        reset(self._client[1])
        reset(self._server[1])

    async def _carry(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await self._read(way, reader):
            if self.reset_at_data:
                self._reset()
                raise ConnectionResetError
            await self._passes[way].wait()
            if way in self._swallows:
                continue
            await self._hold_up(way, data, writer)
            await writer.drain()
        # What was held back comes before the end.
        await self._passes[way].wait()
        if way not in self._swallows and not writer.transport.is_closing():
            with contextlib.suppress(OSError):
                writer.write_eof()

    async def _read(self, way: Way, reader: asyncio.StreamReader) -> bytes:
        """The next data, empty at the end. A side that was left half open waits for its client."""
        try:
            return await reader.read(2**16)
        except OSError:
            if way not in self._swallows:
                raise
            return b""

    async def _hold_up(self, way: Way, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Sends data on as the fault has it."""
        fault = self._fault
        if way in self._garbage_left:
            self._garbage_left.discard(way)
            writer.write(self._dice.randbytes(self._dice.randint(1, _MOST_GARBAGE)))
        if fault is not None and fault.way in (way, "both"):
            if fault.kind == "latency":
                await asyncio.sleep(fault.amount * self._dice.uniform(0.5, 1.5))
            elif fault.kind == "slow drip":
                data = await self._drip(data, fault, writer)
        writer.write(data)

    async def _drip(self, data: bytes, fault: LinkFault, writer: asyncio.StreamWriter) -> bytes:
        """Sends data in drops for as long as the fault lasts; returns what is left."""
        size = max(1, int(fault.amount * _DRIP_SECONDS))
        while data and self._fault is fault:
            writer.write(data[:size])
            await writer.drain()
            data = data[size:]
            await asyncio.sleep(_DRIP_SECONDS)
        return data
