"""CacheService.MigrateModel and RollbackModel: another model under the same name, without a gap.

1. The documents of every collection are embedded with the other model, beside the old ones.
2. Popular queries are asked of the other model, so that their answers are in the cache.
3. The name means the other model, on every sidecar.
4. What sidecars that had not heard of it yet have put into the old collections is brought over.

Until the third step the old model answers, and whoever cuts the call short loses nothing: what is
there is not embedded again. A rollback moves the name back first and brings documents back after.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc
import structlog
from embercache.v1 import cache_pb2

from sidecar.cache.lease import LeaseLostError, LeaseTakenError
from sidecar.cache.model_moves import Move
from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.services.document_copy import DocumentCopy
from sidecar.services.errors import CallError
from sidecar.services.model_moves import POLL_SECONDS
from sidecar.services.pace import reports
from sidecar.services.requests import decode
from sidecar.services.warming import Warmed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from sidecar.cache.lease import Leases
    from sidecar.cache.popular import PopularQueries
    from sidecar.index.types import Index
    from sidecar.models.router import ModelRouter
    from sidecar.models.types import Embedder
    from sidecar.services.document_copy import DocumentStore
    from sidecar.services.ledger import Ledger
    from sidecar.services.model_moves import ModelMoves
    from sidecar.services.pace import Pace
    from sidecar.services.warming import Warmer

# Others hear of a move within a poll; calls that they had begun before may take a little longer.
SETTLE_SECONDS = 2 * POLL_SECONDS + 1
_RETRY_SECONDS = 30.0
_ATTEMPTS = 10
_CLOSE_SECONDS = 10.0
_MOST_PASSES = 10

_Progress = cache_pb2.MigrateModelProgress

_log = structlog.get_logger()


@dataclass(slots=True)
class _Migration:
    """A migration in progress. ``old`` is the move that it replaces, if there is one."""

    name: str
    source: Embedder
    target: Embedder
    old: Move | None
    popular: int
    pace: Pace
    copy: DocumentCopy
    warmed: Warmed = field(default_factory=Warmed)
    stage: cache_pb2.MigrateModelProgress.Stage.ValueType = _Progress.STAGE_DOCUMENTS
    # The name may have moved: the rest must be done whether or not anybody looks on.
    committed: bool = False

    def report(self) -> bytes:
        """As a MigrateModelProgress."""
        progress = _Progress(stage=self.stage)
        if self.stage == _Progress.STAGE_DOCUMENTS:
            copied = self.copy.progress
            progress.done, progress.total, progress.failed = (
                copied.done,
                copied.total,
                copied.failed,
            )
        elif self.stage == _Progress.STAGE_QUERIES:
            warmed = self.warmed
            progress.done = warmed.cached + warmed.computed + warmed.failed
            progress.total, progress.failed = warmed.total, warmed.failed
        return progress.SerializeToString()


class ModelMigration:
    """Answers MigrateModel and RollbackModel of cache.proto; `run` is a task beside it.

    One migration at a time goes on in the fleet. Raises what
    `sidecar.services.errors.as_call_error` turns into a status.

    Args:
        popular: None where popular queries are not tracked: a migration goes on without them.
        settle_seconds: how long other sidecars may take to obey a move; 0 if there are none.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        *,
        router: ModelRouter,
        moves: ModelMoves,
        index: Index,
        documents: DocumentStore,
        warmer: Warmer,
        popular: PopularQueries | None,
        leases: Leases,
        settle_seconds: float = SETTLE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._router = router
        self._moves = moves
        self._index = index
        self._documents = documents
        self._warmer = warmer
        self._popular = popular
        self._leases = leases
        self._settle_seconds = settle_seconds
        self._sleep = sleep
        self._finishing: set[asyncio.Task[None]] = set()
        # What the last migration has copied, should it be asked for again.
        self._copied: tuple[object, dict[tuple[str, str], Ledger]] = (None, {})
        self._ended_here: set[str] = set()
        self._wake = asyncio.Event()

    async def migrate(self, raw: bytes) -> AsyncIterator[bytes]:
        """MigrateModel."""
        request = decode(cache_pb2.MigrateModelRequest, raw)
        job = self._plan(request, await self._moves.refresh())
        work = asyncio.create_task(self._alone(job))
        try:
            async with contextlib.aclosing(reports(work, job.report)) as progress:
                async for message in progress:
                    yield message
        finally:
            if job.committed and not work.done():
                self._finishing.add(work)
                work.add_done_callback(self._finished)
            else:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    async def rollback(self, raw: bytes) -> bytes:
        """RollbackModel."""
        name = decode(cache_pb2.RollbackModelRequest, raw).model or self._router.names()[0]
        move = (await self._moves.refresh()).get(name)
        if self._router.own(name) is None:
            raise self._not_served()
        if move is not None and not move.ended:
            self._ended_here.add(name)
            try:
                await self._moves.replace(name, move, replace(move, ended=True))
            except BaseException:
                self._ended_here.discard(name)
                raise
            self._wake.set()
        return cache_pb2.RollbackModelResponse().SerializeToString()

    async def run(self) -> None:
        """Brings documents back after rollbacks, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
            self._wake.clear()
            for name, move in list(self._moves.known.items()):
                own = self._router.own(name)
                if move.ended and own is not None:
                    await self._try_to_bring_back(name, move, own)

    async def close(self) -> None:
        """Gives migrations that have switched a while to be done."""
        if self._finishing:
            _, late = await asyncio.wait(self._finishing, timeout=_CLOSE_SECONDS)
            for work in late:
                work.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _finished(self, work: asyncio.Task[None]) -> None:
        self._finishing.discard(work)
        if not work.cancelled() and work.exception() is not None:
            _log.error("a migration has failed after its switch", exc_info=work.exception())

    def _plan(
        self, request: cache_pb2.MigrateModelRequest, moves: Mapping[str, Move]
    ) -> _Migration:
        name = request.model or self._router.names()[0]
        source, target = self._router.resolve(name), self._router.own(request.to)
        if source is None or target is None:
            raise self._not_served()
        if source is target:
            raise _refused(f"{name} means {request.to} already")
        if request.to == name:
            raise _refused(f"to let {name} mean its own model again, roll it back")
        if request.to in self._router.moved:
            raise _refused(f"{request.to} itself means another model: roll it back first")
        old = moves.get(name)
        if old is not None and old.ended and self._index.identity in old.indexes:
            raise _refused(
                f"documents are still being brought back after {name} was rolled back: retry later"
            )
        pace = self._warmer.pace(request.per_second)
        copied = (
            name,
            source.info.name,
            source.info.version,
            target.info.name,
            target.info.version,
        )
        if self._copied[0] != copied:
            self._copied = (copied, {})
        copy = DocumentCopy(
            self._index,
            self._documents,
            (source.info.name, source.info.version),
            target,
            pace,
            self._copied[1],
        )
        return _Migration(name, source, target, old, request.popular, pace, copy)

    def _not_served(self) -> CallError:
        return CallError(
            grpc.StatusCode.NOT_FOUND,
            f"no such model here: choose one of {', '.join(self._router.names())}, or add it to"
            " model.packs",
        )

    async def _alone(self, job: _Migration) -> None:
        try:
            await self._leases.run("migration", lambda: self._migrate(job))
        except LeaseTakenError:
            raise _refused("another migration is going on: retry when it has ended") from None
        except LeaseLostError:
            if not job.committed:
                raise CallError(
                    grpc.StatusCode.ABORTED, "Redis was away for too long: ask again"
                ) from None
            await self._finish(job)
        except WarmUnavailableError as error:
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"{error}: retry") from error

    async def _migrate(self, job: _Migration) -> None:
        version = job.target.info.version
        await job.copy.count()
        await _copy_all(job.copy, target_wins=False)
        if failed := job.copy.progress.failed:
            raise CallError(
                grpc.StatusCode.ABORTED,
                f"{failed} documents cannot be embedded with {job.target.info.name}, so {job.name}"
                " was left as it is: change or delete them, then ask again",
            )
        job.stage = _Progress.STAGE_QUERIES
        await self._warm(job)
        if job.target.info.version != version:
            raise CallError(
                grpc.StatusCode.ABORTED, "the model has become another version: ask again"
            )
        await self._switch(job)
        await self._finish(job)

    async def _switch(self, job: _Migration) -> None:
        new = self._move(job)
        job.committed = True
        for attempt in range(_ATTEMPTS):
            try:
                await self._moves.replace(job.name, job.old, new)
            except CallError as error:
                # It may have been done all the same, unless it was refused.
                if error.code is not grpc.StatusCode.UNAVAILABLE or attempt == _ATTEMPTS - 1:
                    job.committed = False
                    raise
                await self._sleep(POLL_SECONDS)
            else:
                return

    async def _finish(self, job: _Migration) -> None:
        """Brings over what came in between, for the name has moved."""
        job.stage = _Progress.STAGE_SWITCHED
        await self._sleep(self._settle_seconds)
        for _ in range(_ATTEMPTS):
            try:
                await _copy_all(job.copy, target_wins=True)
                break
            except Exception as error:
                _log.warning("documents could not be brought over yet", reason=str(error))
                await self._sleep(_RETRY_SECONDS)
        self._copied = (None, {})

    async def _warm(self, job: _Migration) -> None:
        """Asks popular queries of the old model of the new one."""
        if self._popular is None or not job.popular:
            return
        for name in await self._popular.namespaces():
            requests = [
                request
                for request in await self._warmer.popular(name, job.popular)
                if self._router.resolve(request.model) is job.source
            ]
            for request in requests:
                request.model = job.target.info.name
                request.model_version = ""
            await self._warmer.repeat(requests, job.pace, job.warmed)

    def _move(self, job: _Migration) -> Move:
        """What is to be agreed on."""
        info, old = job.target.info, job.old
        indexes: tuple[str, ...] = (self._index.identity,)
        if old is not None and (old.to, old.version) == (info.name, info.version):
            # It was made by a sidecar with another index.
            indexes += old.indexes
        return Move(info.name, info.version, indexes)

    async def _try_to_bring_back(self, name: str, move: Move, own: Embedder) -> None:
        try:
            index = self._index.identity
            if index in move.indexes:
                await self._leases.run(
                    f"rollback:{name}:{index}", lambda: self._bring_back(name, move, own)
                )
        except LeaseTakenError:
            return
        except Exception as error:
            _log.warning("documents could not be brought back yet", model=name, reason=str(error))
            await self._sleep(_RETRY_SECONDS)

    async def _bring_back(self, name: str, move: Move, own: Embedder) -> None:
        """Copies what came or changed while the name meant the other model."""
        copy = DocumentCopy(
            self._index, self._documents, (move.to, move.version), own, self._warmer.pace(0), {}
        )
        if name in self._ended_here:
            # Later, nobody can tell any more who changed a document. Then only those come back
            # that are missing.
            self._ended_here.discard(name)
            await copy.remember_target()
        await self._sleep(self._settle_seconds)
        await _copy_all(copy, target_wins=True)
        if copy.progress.failed:
            _log.error("documents were left behind", model=name, documents=copy.progress.failed)
        left = tuple(index for index in move.indexes if index != self._index.identity)
        await self._moves.replace(name, move, replace(move, indexes=left) if left else None)
        _log.info("documents were brought back", model=name)


async def _copy_all(copy: DocumentCopy, *, target_wins: bool) -> None:
    for _ in range(_MOST_PASSES):
        if not await copy.run(target_wins=target_wins):
            return


def _refused(message: str) -> CallError:
    return CallError(grpc.StatusCode.FAILED_PRECONDITION, message)
