"""Names that mean other models, as all sidecars of a fleet agree on them.

They outlive a restart in Redis or, without it, in a file beside the disk tier. A change is made
only if nobody else has made one since the caller looked.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.redis_link import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sidecar.cache.warm import WarmTier

_SECONDS = 2.0

_REPLACE = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
redis.call('HSET', KEYS[1], ARGV[4], 1)
return 1
"""
# A field that is never removed: without it, the hash was lost. No model has such a name.
_MARK = b"(all)"


@dataclass(frozen=True, slots=True)
class Move:
    """A name that means another model, or did until a moment ago.

    ``version`` is that of the other model, under which it has the documents. ``indexes`` are the
    identities of the indexes whose documents were copied for it. With ``ended`` the name means its
    own model again, and documents that came meanwhile are still to be copied back in these indexes.
    """

    to: str
    version: str
    indexes: tuple[str, ...]
    ended: bool = False


class MoveStore(Protocol):
    """Where moves are kept. Raises `StoreUnavailableError`."""

    async def load(self) -> dict[str, Move] | None:
        """All moves, by name; None if there never were any, or the store has lost its state."""
        ...

    async def replace(self, name: str, old: Move | None, new: Move | None) -> bool:
        """Puts ``new`` in the place of ``old``; False, and nothing done, if that is not there."""
        ...


class RedisMoves:
    """A `MoveStore` that every sidecar on the same Redis and prefix shares."""

    def __init__(self, warm: WarmTier, prefix: str) -> None:
        self._warm = warm
        self._key = f"{prefix}:{{state}}:models".encode()

    async def load(self) -> dict[str, Move] | None:
        """See `MoveStore.load`."""
        moves = {}
        fields: dict[bytes, bytes] = await self._run("HGETALL", self._key)
        if fields.pop(_MARK, None) is None:
            return None
        for name, data in fields.items():
            try:
                moves[name.decode()] = _read(data)
            except (ValueError, TypeError, KeyError) as error:
                raise StoreUnavailableError("Redis has something else under models") from error
        return moves

    async def replace(self, name: str, old: Move | None, new: Move | None) -> bool:
        """See `MoveStore.replace`."""
        return bool(
            await self._run("EVAL", _REPLACE, 1, self._key, name, _write(old), _write(new), _MARK)
        )

    async def _run(self, *command: Any) -> Any:
        async def execute(client: Any) -> Any:
            return await client.execute_command(*command)

        try:
            return await self._warm.run(execute, _SECONDS)
        except WarmUnavailableError as error:
            raise StoreUnavailableError(str(error)) from error


class LocalMoves:
    """A `MoveStore` of one sidecar, in a file or, without one, in memory."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._moves: dict[str, Move] | None = None

    async def load(self) -> dict[str, Move]:
        """As `MoveStore.load`."""
        if self._moves is None:
            file = self._file
            self._moves = {} if file is None else await asyncio.to_thread(_read_file, file)
        return dict(self._moves)

    async def replace(self, name: str, old: Move | None, new: Move | None) -> bool:
        """See `MoveStore.replace`."""
        moves = await self.load()
        if moves.get(name) != old:
            return False
        if new is None:
            moves.pop(name, None)
        else:
            moves[name] = new
        await self.save(moves)
        return True

    async def save(self, moves: Mapping[str, Move]) -> None:
        """Puts these moves in the place of all that are there."""
        if self._moves == moves:
            return
        if self._file is not None:
            await asyncio.to_thread(_write_file, self._file, moves)
        self._moves = dict(moves)


def _read(data: bytes) -> Move:
    """Raises `ValueError`, `TypeError` or `KeyError` for what `_write` has not written."""
    values = json.loads(data)
    return Move(**values | {"indexes": tuple(values["indexes"])})


def _write(move: Move | None) -> str:
    return "" if move is None else json.dumps(asdict(move), sort_keys=True)


def _read_file(file: Path) -> dict[str, Move]:
    try:
        moves: dict[str, str] = json.loads(file.read_bytes())
        return {name: _read(data.encode()) for name, data in moves.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreUnavailableError(f"{file} cannot be read: {type(error).__name__}") from error


def _write_file(file: Path, moves: Mapping[str, Move]) -> None:
    new = file.with_suffix(".new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_text(json.dumps({name: _write(move) for name, move in moves.items()}))
        new.replace(file)
    except OSError as error:
        raise StoreUnavailableError(f"{file} cannot be written: {error.strerror}") from error
