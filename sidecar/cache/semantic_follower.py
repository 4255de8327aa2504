"""Shares the vectors of cached queries between sidecars, over a Redis stream.

Nothing depends on a message: one that is lost costs a computation. So what cannot be sent is
dropped, and what was trimmed meanwhile is not missed. The stream is the memory of the fleet, too:
a sidecar that starts reads all of it.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.cache.codec import Codec, decode_vector, encode_vector, split_scale
from sidecar.cache.keys import canonical
from sidecar.cache.seals import PLAIN
from sidecar.cache.warm import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.seals import Seal
    from sidecar.cache.semantic import SemanticIndex
    from sidecar.cache.warm import WarmTier
    from sidecar.models.types import Vector

MAX_QUEUED = 1000
# Long, because each read costs Redis something in every sidecar. It answers at once if it can.
_BLOCK_SECONDS = 5.0
_ANSWER_SECONDS = 2.0
_RETRY_SECONDS = 0.1
# Small, because reading a batch keeps the event loop from others.
_MESSAGES_A_BATCH = 100
_BEGINNING = b"0-0"

_log = structlog.get_logger()


@dataclass(slots=True)
class SemanticCounters:
    """Messages since start-up.

    ``dropped`` were not sent: Redis was down or refused, or more than `MAX_QUEUED` waited.
    ``received`` leaves out our own.
    """

    sent: int = 0
    dropped: int = 0
    received: int = 0
    malformed: int = 0


class SemanticFollower:
    """Sends what is announced, and adds to ``index`` what other sidecars announced.

    The stream keeps about ``messages``, of some 600 bytes each for 384 dimensions: vectors travel
    as int8, which changes similarities by about 1e-4. Each is bound by ``seal`` to the rest of its
    message. Used from one event loop.
    """

    def __init__(
        self,
        warm: WarmTier,
        prefix: str,
        index: SemanticIndex,
        messages: int,
        *,
        seal: Seal = PLAIN,
    ) -> None:
        self.counters = SemanticCounters()
        self._warm = warm
        self._stream = f"{prefix}:{{state}}:semantic".encode()
        self._index = index
        self._messages = messages
        self._seal = seal
        self._sender = secrets.token_bytes(8)
        self._position = _BEGINNING
        self._queue: deque[tuple[Any, ...]] = deque()
        self._queued = asyncio.Event()

    def announce(self, scope: bytes, vector: Vector, key: bytes, expires_ms: int) -> None:
        """Tells other sidecars of a query that was added here; returns at once.

        Arguments as of `SemanticIndex.add`.
        """
        if self._warm.state == "down" or len(self._queue) >= MAX_QUEUED:
            self.counters.dropped += 1
            return
        expires = b"%d" % expires_ms
        name = self._name(scope, key, expires)
        payload = self._seal.seal(name, encode_vector(vector, Codec.INT8))
        fields = (b"s", scope, b"v", payload, b"k", key, b"e", expires, b"f", self._sender)
        self._queue.append(fields)
        self._queued.set()

    async def run(self) -> None:
        """Sends and receives until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send_forever())
            tasks.create_task(self._follow_forever())

    async def _send_forever(self) -> None:
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                count = min(len(self._queue), _MESSAGES_A_BATCH)
                sent = await self._send([self._queue.popleft() for _ in range(count)])
                self.counters.sent += sent
                self.counters.dropped += count - sent

    async def _send(self, batch: list[tuple[Any, ...]]) -> int:
        """Appends messages to the stream; returns how many were taken."""

        async def append(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for fields in batch:
                pipeline.execute_command(
                    "XADD", self._stream, "MAXLEN", "~", self._messages, "*", *fields
                )
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
            return replies

        try:
            replies = await self._warm.run(append, _ANSWER_SECONDS)
        except WarmUnavailableError:
            return 0
        return sum(not isinstance(reply, Exception) for reply in replies)

    async def _follow_forever(self) -> None:
        connected: bool | None = None
        while True:
            try:
                if not connected:
                    await self._find_position()
                    connected = True
                    _log.info("semantic entries are shared")
                await self._read()
            except WarmUnavailableError as error:
                if connected is not False:
                    _log.warning("semantic entries are not shared", reason=str(error))
                connected = False
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                # Whatever it was, giving up would leave this sidecar deaf for ever.
                _log.exception("a semantic entry of another sidecar could not be added")
                await asyncio.sleep(_RETRY_SECONDS)

    async def _find_position(self) -> None:
        """Goes on where it was, or at the beginning of a stream that ends before that place."""
        newest = await self._run(
            lambda redis: redis.execute_command("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        )
        if not newest or _order(newest[0][0]) < _order(self._position):
            self._position = _BEGINNING

    async def _read(self) -> None:
        """Adds what is new, or waits a while for something."""
        wait = round(_BLOCK_SECONDS * 1000)
        reply = await self._run(
            lambda redis: redis.execute_command(
                "XREAD", "COUNT", _MESSAGES_A_BATCH, "BLOCK", wait,
                "STREAMS", self._stream, self._position,
            )
        )  # fmt: skip
        for _, messages in reply or ():
            for position, fields in messages:
                self._position = position
                self._apply(fields)

    def _apply(self, fields: dict[bytes, bytes]) -> None:
        if fields.get(b"f") == self._sender:
            return
        self.counters.received += 1
        try:
            scope, key, expires = fields[b"s"], fields[b"k"], fields[b"e"]
            payload = self._seal.open(self._name(scope, key, expires), fields[b"v"])
            if payload is None:
                return
            vector, expires_ms = _vector(payload), int(expires)
            if not 0 <= expires_ms < 2**63:
                raise ValueError("no time")
        except (KeyError, ValueError):
            self.counters.malformed += 1
            return
        self._index.add(scope, vector, key, expires_ms)

    def _name(self, *parts: bytes) -> bytes:
        """What a vector is sealed for: its place, and everything else in its message."""
        return canonical((self._stream, *parts))

    async def _run(self, command: Callable[[Any], Awaitable[Any]]) -> Any:
        return await self._warm.run(command, _BLOCK_SECONDS + _ANSWER_SECONDS)


def _vector(payload: bytes) -> Vector:
    if len(payload) <= Codec.INT8.payload_bytes(0) or not math.isfinite(split_scale(payload)[0]):
        raise ValueError("no vector")
    return decode_vector(payload, Codec.INT8)


def _order(position: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in position.split(b"-"))
