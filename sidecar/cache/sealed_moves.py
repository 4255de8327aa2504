"""Names that mean other models, sealed: who writes to Redis cannot have names mean another model.

All moves are one value, since a move that is missing means something too. An older one that
somebody has kept and put back still opens. Every sidecar that knows a newer one writes it again,
within seconds; one that starts meanwhile, and has kept none on its disk, obeys it until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.model_moves import (
    Moves,
    change_move,
    dump_moves,
    parse_moves,
    run_command,
)

if TYPE_CHECKING:
    from sidecar.cache.model_moves import Move
    from sidecar.cache.seals import Seal
    from sidecar.cache.warm import WarmTier

# Of changes at the same time, all but one have to look again.
_MOST_ATTEMPTS = 20

_SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class SealedMoves:
    """A `MoveStore` that every sidecar with the same Redis, prefix and keys shares.

    What does not open is as if it were not there.
    """

    def __init__(self, warm: WarmTier, prefix: str, seal: Seal) -> None:
        self._warm = warm
        self._key = f"{prefix}:{{state}}:sealed-models".encode()
        self._seal = seal

    async def load(self) -> Moves | None:
        """See `MoveStore.load`."""
        stored, moves = await self._get()
        if moves is not None and not self._seal.is_current(stored):
            # While the key that it was sealed with is still known.
            await self._swap(stored, moves)
        return moves

    async def replace(
        self, name: str, old: Move | None, new: Move | None, generation: int = 0
    ) -> bool:
        """See `MoveStore.replace`."""
        for _ in range(_MOST_ATTEMPTS):
            stored, held = await self._get()
            before = Moves(0, {}) if held is None else held
            changed = change_move(before, name, old, new, generation)
            if changed is None:
                return False
            if changed is before or await self._swap(stored, changed):
                return True
        raise StoreUnavailableError("too many others change which models are moved")

    async def save(self, moves: Moves) -> None:
        """See `MoveStore.save`."""
        for _ in range(_MOST_ATTEMPTS):
            stored, held = await self._get()
            if held is not None and held.generation >= moves.generation:
                return
            if await self._swap(stored, moves):
                return

    async def _get(self) -> tuple[bytes, Moves | None]:
        """What is in Redis, and what it means."""
        stored: bytes = await run_command(self._warm, "GET", self._key) or b""
        data = self._seal.open(self._key, stored) if stored else None
        if data is None:
            return stored, None
        try:
            return stored, parse_moves(data)
        except ValueError as error:
            raise StoreUnavailableError("Redis has something else under models") from error

    async def _swap(self, stored: bytes, moves: Moves) -> bool:
        """Puts moves in the place of what was there; False, and nothing done, if it is not."""
        sealed = self._seal.seal(self._key, dump_moves(moves))
        return bool(await run_command(self._warm, "EVAL", _SWAP, 1, self._key, stored, sealed))
