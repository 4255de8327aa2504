"""Events of outside producers: documents that changed, written to a Redis stream.

A program that knows of changes, such as one that follows a database's log, needs no client of ours:

    XADD embercache:events * type updated collection articles id 42

Fields are ``type`` (created, updated or deleted), ``namespace`` and ``collection`` (the default if
left out), ``id`` (one document; may be left out if it was created, or if there are tags) and
``tag`` (to be invalidated as well; several with newlines between).

Every event is applied at least once, by one of the sidecars.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from redis.exceptions import ResponseError

from sidecar.cache.generations import InvalidationNotSharedError
from sidecar.cache.warm import WarmUnavailableError
from sidecar.units import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sidecar.cache.warm import WarmTier

STREAM_LENGTH = 100_000
"""With more events than that, those that are finished are removed. The rest are the producer's."""
MAX_ATTEMPTS = 5

_TYPES = frozenset({"created", "updated", "deleted"})
_DEFAULT_NAME = "default"
# As in calls.
_MAX_ID_BYTES = 1024
_MAX_TAG_BYTES = 256
_MAX_TAGS = 1000

_GROUP = "sidecars"
_BATCH = 100
_ANSWER_SECONDS = 2.0
_RETRY_SECONDS = 0.2
_CLAIM_SECONDS = 5.0
_ABANDONED_SECONDS = 15.0
_CLEAN_SECONDS = 60.0
_GONE_SECONDS = 3600.0

_NAME = re.compile(NAME_PATTERN)
_log = structlog.get_logger()


class _RetryError(Exception):
    """An event could not be applied and must be given again."""


class MalformedEventError(ValueError):
    """A message that is no event. The text says what is wrong, without the content."""


@dataclass(frozen=True, slots=True)
class Event:
    """Documents that were created, updated or deleted, and tags to be invalidated with them."""

    type: str
    namespace: str
    collection: str
    ids: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(slots=True)
class EventCounters:
    """Counts of events since start-up.

    ``retried`` counts failed attempts. ``dropped`` events failed `MAX_ATTEMPTS` times for a reason
    that is no outage; ``lost`` ones were trimmed from the stream before they were applied. The age
    of the oldest event that some sidecar has taken and not finished is in seconds, 0 for none.
    """

    applied: int = 0
    malformed: int = 0
    retried: int = 0
    dropped: int = 0
    lost: int = 0
    pending_age: float = 0.0


def parse_event(fields: Mapping[bytes, bytes]) -> Event:
    """An event from the fields of a message. Raises `MalformedEventError`."""
    try:
        text = {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        raise MalformedEventError("a field is not UTF-8") from None
    kind = text.get("type", "")
    if kind not in _TYPES:
        raise MalformedEventError("the type must be created, updated or deleted")
    ids = tuple(filter(None, [text.get("id")]))
    tags = tuple(dict.fromkeys(filter(None, text.get("tag", "").split("\n"))))
    if len(tags) > _MAX_TAGS:
        raise MalformedEventError(f"there are more than {_MAX_TAGS} tags")
    if any(len(each.encode()) > _MAX_ID_BYTES for each in ids):
        raise MalformedEventError(f"the id has more than {_MAX_ID_BYTES} bytes")
    if any(len(each.encode()) > _MAX_TAG_BYTES for each in tags):
        raise MalformedEventError(f"a tag has more than {_MAX_TAG_BYTES} bytes")
    if kind != "created" and not ids and not tags:
        raise MalformedEventError("the id of the document is missing")
    return Event(kind, _name(text, "namespace"), _name(text, "collection"), ids, tags)


class EventConsumer:
    """Gives each event of the stream ``{prefix}:events`` to ``apply``, here or in another sidecar.

    ``apply`` may be given an event again: after an outage, or when another sidecar died over it.
    If it raises `InvalidationNotSharedError`, that goes on until it does not. ``clock`` is seconds
    since the Unix epoch.
    """

    def __init__(
        self,
        warm: WarmTier,
        prefix: str,
        apply: Callable[[Event], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters = EventCounters()
        self.stream = f"{prefix}:events"
        self._warm = warm
        self._apply = apply
        self._clock = clock
        self._me = f"{socket.gethostname()}-{secrets.token_hex(8)}"
        self._claim_at = self._clean_at = 0.0
        self._failed: tuple[bytes, int] = (b"", 0)

    async def run(self) -> None:
        """Consumes until cancelled."""
        connected: bool | None = None
        while True:
            try:
                await self._join()
                if not connected:
                    _log.info("events are followed", stream=self.stream)
                connected = True
                await self._consume()
            except WarmUnavailableError as error:
                if connected is not False:
                    _log.warning("events are not followed", stream=self.stream, reason=str(error))
                connected = False
            except _RetryError:
                # Counted, and soon read again.
                pass
            except Exception:
                # Whatever it was, giving up would leave events without effect for ever.
                _log.exception("events are not followed", stream=self.stream)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _join(self) -> None:
        """Makes the group if it is not there, at the beginning of what the stream has.

        An event that was written before there was a group, or that is applied again because Redis
        lost the group, does no harm; one that is skipped would.
        """

        async def create(client: Any) -> None:
            try:
                await client.xgroup_create(self.stream, _GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

        await self._run(create)

    async def _consume(self) -> None:
        has_own = True
        while True:
            # First what this sidecar has taken, or taken over, and not finished.
            while has_own:
                has_own = await self._take("0")
            # Then new ones, until it is time to look for those of sidecars that are gone.
            while (seconds := self._claim_at - time.monotonic()) > 0:
                await self._take(">", seconds)
            has_own = await self._claim()
            self._claim_at = time.monotonic() + _CLAIM_SECONDS
            if time.monotonic() > self._clean_at:
                await self._clean()
                self._clean_at = time.monotonic() + _CLEAN_SECONDS

    async def _take(self, start: str, seconds: float = 0) -> bool:
        """Applies a batch of events, for which it may wait; returns whether there were any."""
        reply = await self._run(
            lambda redis: redis.xreadgroup(
                _GROUP,
                self._me,
                {self.stream: start},
                count=_BATCH,
                # Redis takes 0 for ever.
                block=math.ceil(seconds * 1000) or None,
            ),
            seconds,
        )
        messages = [message for _, batch in reply for message in batch]
        finished = []
        try:
            for position, fields in messages:
                await self._handle(position, fields)
                finished.append(position)
        finally:
            if finished:
                await self._run(lambda redis: redis.xack(self.stream, _GROUP, *finished))
        return bool(messages)

    async def _handle(self, position: bytes, fields: Mapping[bytes, bytes]) -> None:
        """Finishes a message, or raises `_RetryError`."""
        if not fields:
            self.counters.lost += 1
            _log.warning("an event was trimmed before it was applied", stream=self.stream)
            return
        try:
            event = parse_event(fields)
        except MalformedEventError as error:
            self.counters.malformed += 1
            _log.warning("malformed event", stream=self.stream, at=position, reason=str(error))
            return
        try:
            await self._apply(event)
        except InvalidationNotSharedError as error:
            self.counters.retried += 1
            raise _RetryError from error
        except Exception as error:
            attempts = self._failed[1] + 1 if self._failed[0] == position else 1
            self._failed = (position, attempts)
            if attempts < MAX_ATTEMPTS:
                self.counters.retried += 1
                raise _RetryError from error
            self.counters.dropped += 1
            # Not its message, which may quote the event.
            kind = type(error).__name__
            _log.error("an event cannot be applied", stream=self.stream, at=position, error=kind)
        else:
            self.counters.applied += 1

    async def _claim(self) -> bool:
        """Takes over what other sidecars have left; returns whether some sidecar has any events."""
        oldest = await self._run(
            lambda redis: redis.xpending_range(self.stream, _GROUP, min="-", max="+", count=1)
        )
        self.counters.pending_age = 0.0
        if not oldest:
            return False
        written = int(oldest[0]["message_id"].partition(b"-")[0]) / 1000
        self.counters.pending_age = max(0.0, self._clock() - written)
        idle = round(_ABANDONED_SECONDS * 1000)
        reply = await self._run(
            lambda redis: redis.xautoclaim(self.stream, _GROUP, self._me, idle, count=_BATCH)
        )
        # Since Redis 7, those that are trimmed are named here, and nowhere else.
        if trimmed := len(reply[2]) if len(reply) > 2 else 0:
            self.counters.lost += trimmed
            _log.warning("events were trimmed before they were applied", stream=self.stream)
        return True

    async def _clean(self) -> None:
        """Removes what is finished, and forgets sidecars that are gone."""

        async def clean(client: Any) -> None:
            if await client.xlen(self.stream) > STREAM_LENGTH:
                groups = await client.xinfo_groups(self.stream)
                delivered = {group["name"]: group["last-delivered-id"] for group in groups}
                # What was delivered by then and is not pending now is finished.
                pending = await client.xpending(self.stream, _GROUP)
                unfinished = pending["min"] or delivered[_GROUP.encode()]
                await client.xtrim(self.stream, minid=unfinished)
            for consumer in await client.xinfo_consumers(self.stream, _GROUP):
                if consumer["idle"] > _GONE_SECONDS * 1000 and not consumer["pending"]:
                    await client.xgroup_delconsumer(self.stream, _GROUP, consumer["name"])

        await self._run(clean)

    async def _run(self, command: Callable[[Any], Awaitable[Any]], blocks: float = 0) -> Any:
        return await self._warm.run(command, seconds=blocks + _ANSWER_SECONDS)


def _name(text: Mapping[str, str], field: str) -> str:
    name = text.get(field) or _DEFAULT_NAME
    if not _NAME.fullmatch(name):
        raise MalformedEventError(f"the {field} must have 1 to 64 letters, digits, '.', '_' or '-'")
    return name
