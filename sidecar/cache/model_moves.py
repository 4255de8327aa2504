"""Names that mean other models, as all sidecars of a fleet agree on them.

They outlive a restart in Redis or, without it, in a file beside the disk tier. A change is made
only if nobody else has made one since the caller looked.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping  # noqa: TC003 - read when records are validated
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.cache.seals import PLAIN

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.cache.seals import Seal
    from sidecar.cache.warm import WarmTier

_SECONDS = 2.0

# The field of the generation is never removed: without it, the hash was lost.
_REPLACE = """
local there = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if there == ARGV[3] then return 1 end
if there ~= ARGV[2] then return 0 end
if ARGV[3] == '' then
    redis.call('HDEL', KEYS[1], ARGV[1])
else
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
local last = tonumber(redis.call('HGET', KEYS[1], ARGV[4]) or 0)
redis.call('HSET', KEYS[1], ARGV[4], math.max(last, ARGV[5]) + 1)
return 1
"""
_SAVE = """
if tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0) >= tonumber(ARGV[2]) then return end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV))
"""
# No model has such a name.
_GENERATION = b"(generation)"
# What the file is sealed for.
_NAME = b"models.json"

# What another has written is taken as it is, or not at all.
_STRICT = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

ModelVersion: TypeAlias = tuple[str, str]


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Copy:
    """What was copied in one index for a move: from ``source`` to ``target``, model and version.

    ``first`` is the model to which the documents of the name's own model were copied, which may
    have gone on to another since. Until it is ``finished``, documents that somebody wrote to the
    source after the last look are still to be brought over. Once it has ``ended``, those that came
    to the target are still to be brought back. ``left`` counts documents that could not be brought
    over because the target cannot embed them.
    """

    source: ModelVersion
    target: ModelVersion
    first: ModelVersion
    finished: bool = False
    ended: bool = False
    left: int = 0


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Move:
    """A name that means another model, ``to``, or again its own, if that is empty.

    ``copies`` are those of its documents, by the identity of the index. A move that has ended is
    forgotten when there are none any more.
    """

    to: str
    copies: Mapping[str, Copy]


@with_config(_STRICT)
@dataclass(frozen=True, slots=True)
class Moves:
    """All moves, by name. Each change makes the next generation."""

    generation: int
    moves: Mapping[str, Move]


_MOVE, _MOVES = TypeAdapter(Move), TypeAdapter(Moves)


class MoveStore(Protocol):
    """Where moves are kept. Raises `StoreUnavailableError`."""

    async def load(self) -> Moves | None:
        """All moves; None if there never were any, or the store has lost its state."""
        ...

    async def replace(
        self, name: str, old: Move | None, new: Move | None, generation: int = 0
    ) -> bool:
        """Puts ``new`` in the place of ``old``; False, and nothing done, if that is not there.

        True as well if ``new`` is there already, so that a call whose answer was lost can be
        repeated. ``generation`` is the last one that the caller knows of.
        """
        ...

    async def save(self, moves: Moves) -> None:
        """Puts these moves in the place of all that are there, if they are newer."""
        ...


class RedisMoves:
    """A `MoveStore` that every sidecar on the same Redis and prefix shares."""

    def __init__(self, warm: WarmTier, prefix: str) -> None:
        self._warm = warm
        self._key = f"{prefix}:{{state}}:models".encode()

    async def load(self) -> Moves | None:
        """See `MoveStore.load`."""
        fields: dict[bytes, bytes] = await run_command(self._warm, "HGETALL", self._key)
        generation = fields.pop(_GENERATION, None)
        if generation is None:
            return None
        try:
            moves = {name.decode(): _MOVE.validate_json(data) for name, data in fields.items()}
            return Moves(int(generation), moves)
        except ValueError as error:
            raise StoreUnavailableError("Redis has something else under models") from error

    async def replace(
        self, name: str, old: Move | None, new: Move | None, generation: int = 0
    ) -> bool:
        """See `MoveStore.replace`."""
        change = (name, _dump_move(old), _dump_move(new), _GENERATION, generation)
        return bool(await run_command(self._warm, "EVAL", _REPLACE, 1, self._key, *change))

    async def save(self, moves: Moves) -> None:
        """See `MoveStore.save`."""
        fields = [part for name, move in moves.moves.items() for part in (name, _dump_move(move))]
        await run_command(
            self._warm, "EVAL", _SAVE, 1, self._key, _GENERATION, moves.generation, *fields
        )


class LocalMoves:
    """A `MoveStore` of one sidecar, in a file or, without one, in memory.

    The file is kept through ``seal``; one that does not open is as if it were not there.
    """

    def __init__(self, file: Path | None, *, seal: Seal = PLAIN) -> None:
        self._file = file
        self._seal = seal
        self._held: Moves | None = None
        # What is in the file, None if that means nothing.
        self._stored: bytes | None = None
        self._turn = asyncio.Lock()

    async def load(self) -> Moves:
        """As `MoveStore.load`."""
        async with self._turn:
            held = await self._load()
            # While the key that it was sealed with is still known.
            with contextlib.suppress(StoreUnavailableError):
                await self._save(held)
            return held

    async def replace(
        self, name: str, old: Move | None, new: Move | None, generation: int = 0
    ) -> bool:
        """See `MoveStore.replace`."""
        async with self._turn:
            held = await self._load()
            changed = change_move(held, name, old, new, generation)
            if changed is None:
                return False
            await self._save(changed)
            return True

    async def save(self, moves: Moves) -> None:
        """As `MoveStore.save`, but also if they are older: nobody else keeps any here."""
        async with self._turn:
            await self._save(moves)

    async def _load(self) -> Moves:
        if self._held is None:
            stored = None if self._file is None else await asyncio.to_thread(_read, self._file)
            data = None if stored is None else self._seal.open(_NAME, stored)
            self._stored = None if data is None else stored
            try:
                self._held = Moves(0, {}) if data is None else parse_moves(data)
            except ValueError as error:
                raise StoreUnavailableError(f"{self._file} cannot be read: {error}") from error
        return self._held

    async def _save(self, moves: Moves) -> None:
        is_current = self._stored is None or self._seal.is_current(self._stored)
        if self._held == moves and is_current:
            return
        if self._file is not None:
            data = self._seal.seal(_NAME, dump_moves(moves))
            await asyncio.to_thread(_write, self._file, data)
            self._stored = data
        self._held = moves


async def run_command(warm: WarmTier, *command: Any) -> Any:
    """One command for Redis. Raises `StoreUnavailableError`."""

    async def execute(client: Any) -> Any:
        return await client.execute_command(*command)

    try:
        return await warm.run(execute, _SECONDS)
    except WarmUnavailableError as error:
        raise StoreUnavailableError(str(error)) from error


def change_move(
    held: Moves, name: str, old: Move | None, new: Move | None, generation: int
) -> Moves | None:
    """``held`` itself if ``new`` is there already, else a newer one; None if ``old`` is not there.

    See `MoveStore.replace`.
    """
    moves = dict(held.moves)
    there = moves.pop(name, None)
    if there == new:
        return held
    if there != old:
        return None
    if new is not None:
        moves[name] = new
    return Moves(max(held.generation, generation) + 1, moves)


def dump_moves(moves: Moves) -> bytes:
    """All moves as JSON."""
    return json.dumps(asdict(moves)).encode()


def parse_moves(data: bytes) -> Moves:
    """What `dump_moves` was given. Raises `ValueError` for anything else."""
    try:
        return _MOVES.validate_json(data)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error


def _dump_move(move: Move | None) -> str:
    return "" if move is None else json.dumps(asdict(move), sort_keys=True)


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreUnavailableError(f"{file} cannot be read: {error.strerror}") from error


def _write(file: Path, data: bytes) -> None:
    new = file.with_suffix(".new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.write_bytes(data)
        new.replace(file)
    except OSError as error:
        raise StoreUnavailableError(f"{file} cannot be written: {error.strerror}") from error
