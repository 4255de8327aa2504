"""Remembers what models elsewhere are, so that their entries are found while they are away.

The key of an entry names the version of its model. A sidecar that starts while its encoders are
away would not know the version, and could not find what is on its disk or in Redis. So what each
model is, is kept there too, as an entry of its own.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from sidecar.cache.codec import Codec, CorruptValueError, Entry, Value, pack, unpack
from sidecar.cache.keys import digest
from sidecar.models.last_known import decode_info, encode_info

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.cache.items import LowerTier
    from sidecar.models.last_known import Info, Recallable

LOOK_SECONDS = 2.0
# As long as a model is in use, so that it is not evicted, and is there again after a flush.
_WRITE_AGAIN_SECONDS = 300.0
_KEEP_SECONDS = 30 * 86400

_log = structlog.get_logger()


class KnownModels:
    """Recalls models at start, and writes down what they say they are. `run` is a task beside it.

    Of what the tiers have, the description that was written last counts: a fleet's in Redis, or
    that of this sidecar's disk. ``clock`` is seconds since the Unix epoch.
    """

    def __init__(
        self,
        models: Sequence[Recallable],
        tiers: Sequence[LowerTier],
        prefix: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._models = {_key(prefix, model.identity): model for model in models}
        self._tiers = tiers
        self._clock = clock
        self._written: dict[bytes, tuple[Info, float]] = {}

    async def run(self) -> None:
        """Goes on looking, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Writes down what models were heard of, and recalls the others."""
        unheard = []
        for key, model in self._models.items():
            told = model.told
            if told is None:
                unheard.append(key)
            else:
                self._write(key, told)
        if unheard:
            await self._recall(unheard)

    def _write(self, key: bytes, info: Info) -> None:
        now = time.monotonic()
        last, when = self._written.get(key, (None, 0.0))
        if info is last and now - when < _WRITE_AGAIN_SECONDS:
            return
        self._written[key] = (info, now)
        payload = encode_info(info)
        value = Value(payload, Codec.BYTES, len(payload), tokens=0, truncated=False)
        created = int(self._clock() * 1000)
        entry = Entry(value, created, expires_ms=created + _KEEP_SECONDS * 1000)
        for tier in self._tiers:
            tier.put(key, pack(entry, key), entry.expires_ms, replace=True)

    async def _recall(self, keys: Sequence[bytes]) -> None:
        latest: dict[bytes, tuple[int, Info]] = {}
        for tier in self._tiers:
            for key, data in zip(keys, await tier.get_many(keys), strict=True):
                found = None if data is None else _read(data, key)
                if data is not None and found is None:
                    tier.delete([key])
                if found is not None and (key not in latest or found[0] > latest[key][0]):
                    latest[key] = found
        for key, (_, info) in latest.items():
            self._models[key].assume(info)


def _key(prefix: str, identity: tuple[str, ...]) -> bytes:
    name = digest(*(part.encode() for part in identity)).hex()
    return f"{prefix}:model:{name}".encode()


def _read(data: bytes, key: bytes) -> tuple[int, Info] | None:
    try:
        entry = unpack(data, key)
        return entry.created_ms, decode_info(entry.value.payload)
    except (CorruptValueError, ValueError):
        _log.warning("what is kept of a model cannot be read")
        return None
