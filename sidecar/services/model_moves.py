"""Lets names mean other models here, as the sidecars of the fleet have agreed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
import structlog

from sidecar.cache.generations import StoreUnavailableError
from sidecar.index.types import IndexUnavailableError
from sidecar.models.types import ModelUnavailableError
from sidecar.services.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.cache.generations import Generations
    from sidecar.cache.model_moves import LocalMoves, Move, MoveStore
    from sidecar.index.types import Index
    from sidecar.models.router import ModelRouter
    from sidecar.models.types import Embedder

POLL_SECONDS = 2.0

_log = structlog.get_logger()


class ModelMoves:
    """Keeps a `ModelRouter` in agreement with a store. `start` it before the first call is taken,
    after the index; `run` is a task beside it.

    A move is not obeyed where its model is not served, nor where the index has documents of its own
    that were not copied: searches would not find them.

    Args:
        backup: where moves are kept as well, for a start while the store is down.
    """

    def __init__(
        self,
        router: ModelRouter,
        store: MoveStore,
        generations: Generations,
        index: Index,
        backup: LocalMoves | None,
    ) -> None:
        self.known: Mapping[str, Move] = {}
        self._router = router
        self._store = store
        self._generations = generations
        self._index = index
        self._backup = backup
        self._refused: set[tuple[str, Move, str]] = set()

    async def start(self) -> None:
        """Reads what was agreed on. A store that is down is no error."""
        if self._backup is not None:
            with contextlib.suppress(StoreUnavailableError):
                await self._obey(await self._backup.load())
        try:
            await self._load()
        except StoreUnavailableError as error:
            _log.warning("it is not known which models were moved of late", reason=str(error))

    async def run(self) -> None:
        """Follows what others decide, until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            with contextlib.suppress(StoreUnavailableError):
                await self._load()

    async def refresh(self) -> Mapping[str, Move]:
        """All moves as they are now. Raises `CallError`."""
        try:
            await self._load()
        except StoreUnavailableError as error:
            raise _unavailable(error) from error
        return self.known

    async def replace(self, name: str, old: Move | None, new: Move | None) -> None:
        """Moves a name, for all sidecars. Raises `CallError` if somebody else has just done so."""
        try:
            if not await self._store.replace(name, old, new):
                raise CallError(
                    grpc.StatusCode.ABORTED,
                    f"somebody else has just moved {name}: look, then retry",
                )
            await self._load()
        except StoreUnavailableError as error:
            raise _unavailable(error) from error

    async def _load(self) -> None:
        moves = await self._store.load()
        if moves is None:
            # Redis has lost its state. Without this, the fleet would go back to the old models.
            for name, move in self.known.items():
                await self._store.replace(name, None, move)
            moves = dict(self.known)
        elif self._backup is not None:
            try:
                await self._backup.save(moves)
            except StoreUnavailableError as error:
                _log.warning("moves of models are not kept", reason=str(error))
        await self._obey(moves)

    async def _obey(self, moves: Mapping[str, Move]) -> None:
        self.known = moves
        moved = {}
        for name, move in moves.items():
            if not move.ended:
                reason = await self._refusal(name, move)
                if not reason:
                    moved[name] = move.to
                elif (name, move, reason) not in self._refused:
                    self._refused.add((name, move, reason))
                    _log.warning("a move is not obeyed", model=name, to=move.to, reason=reason)
        before = self._router.moved
        if moved == before:
            return
        self._router.set_moved(moved)
        # Whole responses of the old model are not given any more.
        self._generations.restamp()
        for name in moved.keys() | before.keys():
            if moved.get(name) != before.get(name):
                _log.info("a name means another model", name=name, model=moved.get(name, name))

    async def _refusal(self, name: str, move: Move) -> str:
        """Why a move is not obeyed here; empty if it is."""
        if self._router.own(move.to) is None:
            return "the model is not served here: add it to model.packs"
        if self._router.moved.get(name) == move.to or self._index.identity in move.indexes:
            return ""
        present = self._router.resolve(name)
        try:
            if present is None or not await has_documents(self._index, present):
                return ""
        except IndexUnavailableError:
            return "the index cannot be asked whether it has documents of the old model"
        return "this sidecar's index has documents that were not copied: ask it to migrate as well"


async def has_documents(index: Index, embedder: Embedder) -> bool:
    """Whether the index has documents of that model, as it is now."""
    try:
        info = embedder.info
    except ModelUnavailableError:
        return False
    return any(
        (collection.model, collection.version) == (info.name, info.version)
        for collection in await index.collections()
    )


def _unavailable(error: StoreUnavailableError) -> CallError:
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        f"which model a name means cannot be agreed on with other sidecars ({error}): retry",
    )
