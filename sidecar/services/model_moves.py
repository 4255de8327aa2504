"""Lets names mean other models here, as the sidecars of the fleet have agreed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import grpc
import structlog

from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.model_moves import Moves
from sidecar.index.types import IndexUnavailableError
from sidecar.models.types import ModelUnavailableError
from sidecar.services.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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
        self._generation = 0
        # Whether the store has told or been told of that generation since the start.
        self._is_shared = False
        self._are_kept = True
        self._refused: set[tuple[str, str, str]] = set()
        # Moves that were obeyed when the index could be asked, by name and model.
        self._agreed: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Reads what was agreed on. A store that is down is no error."""
        if self._backup is not None:
            with contextlib.suppress(StoreUnavailableError):
                kept = await self._backup.load()
                self._generation = kept.generation
                await self._obey(kept.moves)
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

    async def change(self, name: str, change: Callable[[Move | None], Move | None]) -> None:
        """Makes of the move of a name what ``change`` makes of it, for all sidecars.

        ``change`` is asked again if somebody else has just moved the name; what it raises ends
        this. Raises `CallError` if the store is down: it may have been done all the same, and can
        be asked for again.
        """
        is_done = False
        while not is_done:
            old = (await self.refresh()).get(name)
            new = change(old)
            is_done = new == old or await self._replace(name, old, new)

    async def _replace(self, name: str, old: Move | None, new: Move | None) -> bool:
        try:
            if not await self._store.replace(name, old, new, self._generation):
                return False
        except StoreUnavailableError as error:
            raise _unavailable(error) from error
        try:
            await self._load()
        except StoreUnavailableError:
            # It was done. What others have done besides is heard of later.
            moves = {other: move for other, move in self.known.items() if other != name}
            await self._obey(moves if new is None else moves | {name: new})
        return True

    async def _load(self) -> None:
        agreed = await self._store.load()
        there = 0 if agreed is None else agreed.generation
        # A store that has lost its state is told again: without this, the fleet would go back to
        # the old models. It may have been told by one who missed the last moves. Nothing that was
        # kept from before the start takes the place of what the store has.
        if there < self._generation and (agreed is None or self._is_shared):
            await self._store.save(Moves(self._generation, self.known))
            agreed = await self._store.load()
        if agreed is None:
            return
        self._is_shared = True
        self._generation = agreed.generation
        await self._keep(agreed)
        await self._obey(agreed.moves)

    async def _keep(self, agreed: Moves) -> None:
        if self._backup is None:
            return
        try:
            await self._backup.save(agreed)
        except StoreUnavailableError as error:
            if self._are_kept:
                self._are_kept = False
                _log.warning("moves of models are not kept", reason=str(error))
        else:
            if not self._are_kept:
                self._are_kept = True
                _log.info("moves of models are kept again")

    async def _obey(self, moves: Mapping[str, Move]) -> None:
        self.known = moves
        before = self._router.moved
        moved = {}
        self._agreed &= {(name, move.to) for name, move in moves.items()}
        for name, move in moves.items():
            if not move.to:
                continue
            reason = await self._refusal(name, move)
            if not reason:
                moved[name] = move.to
                continue
            if name in before:
                moved[name] = before[name]
            if (name, move.to, reason) not in self._refused:
                self._refused.add((name, move.to, reason))
                _log.warning("a move is not obeyed", model=name, to=move.to, reason=reason)
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
        target = self._router.own(move.to)
        if target is None:
            return "the model is not served here: add it to model.packs"
        if (name, move.to) in self._agreed:
            return ""
        present = {self._router.own(name), self._router.resolve(name)} - {target, None}
        try:
            copy = move.copies.get(self._index.identity)
            is_copied = copy is not None and not copy.ended and copy.target[0] == move.to
            if not is_copied and await self._has_documents(present):
                return "its index has documents that were not copied: ask it to migrate as well"
        except IndexUnavailableError:
            # Nothing can be searched now, and Embed must not give vectors of the old model.
            return ""
        self._agreed.add((name, move.to))
        return ""

    async def _has_documents(self, models: Iterable[Embedder | None]) -> bool:
        """Whether the index has documents of one of the models, as they are now."""
        versions = set()
        for model in models:
            with contextlib.suppress(ModelUnavailableError):
                if model is not None:
                    versions.add((model.info.name, model.info.version))
        there = {(place.model, place.version) for place in await self._index.collections()}
        return not versions.isdisjoint(there)


def _unavailable(error: StoreUnavailableError) -> CallError:
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        f"which model a name means cannot be agreed on with other sidecars ({error}): retry",
    )
