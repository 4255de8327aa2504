"""Follows the stream of invalidations, so that this sidecar's own tiers obey what others decide.

The stream is read by id: after a lost connection it is read from where it was left. When that
place is gone, or Redis has lost its state, nobody knows what was missed, and everything that was
taken for valid is given up. The position outlives a restart beside the disk tier, whose entries
would otherwise outlive removals.

Who does not hear from the stream for a while cannot know whether there was nothing to hear: see
`Contact`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.cache.contact import Contact
from sidecar.cache.generations import (
    MAX_NAMESPACES,
    NAMESPACES_A_ROUND,
    SYNCHRONISE_SECONDS,
    StoreUnavailableError,
)
from sidecar.cache.namespace_state import WHOLE_NAMESPACE
from sidecar.cache.redis_generations import SCOPE_FIELD, TAG_FIELD, change_name, parse_number
from sidecar.cache.seals import PLAIN
from sidecar.cache.warm import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from sidecar.cache.generations import Generations, NamespaceState
    from sidecar.cache.seals import Seal
    from sidecar.cache.warm import WarmTier

_BLOCK_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_RETRY_SECONDS = 0.1
_BATCH = 1000

_log = structlog.get_logger()


class InvalidationFollower:
    """Applies what the stream says to ``generations``, and removals through ``remove``.

    ``lost`` is called when invalidations may have been missed. ``file`` keeps the position for
    the next start; what was applied is on disk before, which is what ``settle`` waits for. Changes
    come through ``seal``; one that does not open is as good as unknown.

    After ``staleness`` seconds without contact all tags become unknown, and again and again until
    contact is back: an entry with tags is then valid only if its tags can be looked up anew.
    """

    def __init__(
        self,
        warm: WarmTier,
        stream: bytes,
        generations: Generations,
        *,
        remove: Callable[[Sequence[bytes]], None],
        lost: Callable[[], Awaitable[None]],
        settle: Callable[[], Awaitable[bool]],
        file: Path | None,
        staleness: float = 5.0,
        seal: Seal = PLAIN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warm = warm
        self._stream = stream
        self._generations = generations
        self._remove = remove
        self._lost = lost
        self._settle = settle
        self._file = file
        self._seal = seal
        self._position = _read_position(file)
        self._saved = self._position
        self._connected = False
        self._clock = clock
        self._contact = Contact(staleness, clock)
        # Changes that the stream has told of since start-up, those of this sidecar included.
        self.applied = 0
        # A read that gets no answer is given up after three fifths of the bound: time to read anew.
        self._block_seconds = min(_BLOCK_SECONDS, staleness / 5)
        self._answer_seconds = min(_ANSWER_SECONDS, staleness * 2 / 5)

    async def start(self) -> None:
        """Catches up, so that nothing is served that was removed while this sidecar was down."""
        try:
            await self._connect()
        except (WarmUnavailableError, StoreUnavailableError):
            pass
        except Exception:
            # Something in the stream that no sidecar wrote must not keep this one from starting.
            self._position = None

    async def run(self) -> None:
        """Follows the stream until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for work in (self._follow(), self._watch(), self._look_after()):
                tasks.create_task(work)

    def heard_ago(self) -> float:
        """Seconds since this sidecar last knew all that others had invalidated.

        While Redis is reached it is at most about a second, the time that a read waits for news.
        """
        return self._contact.ago()

    def believed_for(self) -> float:
        """Seconds for which what this sidecar knows may be believed if nothing more is heard."""
        return self._contact.left()

    async def _follow(self) -> None:
        while True:
            try:
                if not self._connected:
                    await self._connect()
                await self._read(block=True)
            except (WarmUnavailableError, StoreUnavailableError) as error:
                if self._connected:
                    self._connected = False
                    _log.warning("invalidations are not followed", reason=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                # Whatever it was, giving up would leave this sidecar deaf for ever.
                _log.exception("invalidations are not followed")
                self._connected, self._position = False, None
                await asyncio.sleep(_RETRY_SECONDS)

    async def _watch(self) -> None:
        """Lets nothing be believed for too long, whatever the reading of the stream waits for."""
        while True:
            await asyncio.sleep(self._contact.due())
            if self._contact.due() == 0:
                self._generations.forget_tags()
                self._contact.forgot()

    async def _look_after(self) -> None:
        """Compares with Redis now and then: what it lost by itself is announced by nobody."""
        while True:
            await asyncio.sleep(SYNCHRONISE_SECONDS)
            if not self._connected:
                continue
            try:
                if await self._is_there():
                    await self._generations.synchronise(NAMESPACES_A_ROUND)
                    await self._save_position()
                else:
                    self._connected = False
            except (WarmUnavailableError, StoreUnavailableError):
                # Whoever reads the stream has noticed as well, or it was this once.
                pass
            except Exception:
                _log.exception("epochs and generations were not compared with Redis")

    async def _connect(self) -> None:
        if not await self._is_there():
            position = await self._newest()
            await self._give_up(missed=self._position is not None)
            self._position = position
        while await self._read(block=False):
            pass
        await self._generations.synchronise(MAX_NAMESPACES)
        await self._save_position()
        self._connected = True
        _log.info("invalidations are followed")

    async def _newest(self) -> bytes:
        newest = await self._command("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        if newest:
            position: bytes = newest[0][0]
            return position
        # An entry that concerns nobody: of an empty stream one cannot tell later whether it is
        # still the same.
        added: bytes = await self._command("XADD", self._stream, "*", "n", "")
        return added

    async def _is_there(self) -> bool:
        """Whether the stream still has the place that was reached, so that nothing is missing."""
        place = self._position
        if place is None:
            return False
        return bool(await self._command("XRANGE", self._stream, place, place))

    async def _read(self, *, block: bool) -> bool:
        """Applies what is new; returns whether there was anything."""
        asked_at = self._clock()
        wait = ("BLOCK", round(self._block_seconds * 1000)) if block else ()
        reply = await self._command(
            "XREAD", "COUNT", _BATCH, *wait, "STREAMS", self._stream, self._position
        )
        count = 0
        for _, entries in reply or ():
            for position, fields in entries:
                self._apply(fields)
                self._position = position
                count += 1
        if count < _BATCH:
            self._contact.heard(asked_at)
        return count > 0

    def _apply(self, event: dict[bytes, bytes]) -> None:
        self.applied += bool(event.get(b"n"))
        state = self._generations.listener(event.get(b"n", b"").decode())
        if b"k" in event:
            self._remove(event[b"k"].split(b" "))
            if state is not None:
                state.restamp()
        elif state is not None and b"f" in event:
            self._tell(state, event)

    def _tell(self, state: NamespaceState, event: dict[bytes, bytes]) -> None:
        field, number = event[b"f"], parse_number(event[b"g"])
        if field == b"epoch":
            state.raise_scope(WHOLE_NAMESPACE, number)
        elif field == b"base":
            # An old one, read again after a start, must not come back.
            state.merge_base(max(state.base, number))
        elif field.startswith(SCOPE_FIELD):
            state.raise_scope(field.removeprefix(SCOPE_FIELD), number)
        elif field.startswith(TAG_FIELD):
            tag = bytes.fromhex(field.removeprefix(TAG_FIELD).decode())
            previous = parse_number(event[b"p"]) if b"p" in event else None
            state.hear(tag, number, previous, self._change(state.name, tag, event.get(b"c", b"")))

    def _change(self, namespace: str, tag: bytes, data: bytes) -> bytes:
        """The change that came with a tag; empty, which concerns everything, if it is not known."""
        if not data:
            return b""
        return self._seal.open(change_name(self._stream, namespace, tag), data) or b""

    async def _give_up(self, *, missed: bool) -> None:
        self._generations.forget_tags()
        await self._lost()
        if missed:
            _log.warning("invalidations may have been missed: memory and disk start anew")

    async def _save_position(self) -> None:
        position = self._position
        if self._file is None or position is None or position == self._saved:
            return
        if not await self._settle():
            return
        new = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):
            # Without it, the next start finds an older position, or none and an empty disk.
            new.write_bytes(position)
            new.replace(self._file)
            self._saved = position

    async def _command(self, *arguments: Any) -> Any:
        async def execute(client: Any) -> Any:
            return await client.execute_command(*arguments)

        return await self._warm.run(execute, seconds=self._block_seconds + self._answer_seconds)


def _read_position(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() or None if file is not None else None
    except OSError:
        return None
