"""CacheService.MigrateModel and RollbackModel: another model under the same name, without a gap.

1. The documents of every collection are embedded with the other model, beside the old ones.
2. Popular queries are asked of the other model, so that their answers are in the cache.
3. The name means the other model, on every sidecar.
4. What sidecars that had not heard of it yet have put into the old collections is brought over.

Until the third step the old model answers, and a migration that was cut short, by its caller or
with its sidecar, can be begun again anywhere: what was copied is known. The fourth step is left to
`MoveCompletion`, which does it whatever becomes of the caller; so is what follows a rollback.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import cache_pb2

from sidecar.access.caller import enter_nobody
from sidecar.cache.lease import LeaseLostError, LeaseTakenError
from sidecar.cache.model_moves import Copy, Move
from sidecar.cache.redis_link import WarmUnavailableError
from sidecar.services.document_copy import DocumentCopy
from sidecar.services.errors import CallError
from sidecar.services.ledger import pair
from sidecar.services.model_moves import POLL_SECONDS
from sidecar.services.move_completion import copy_all, is_incomplete
from sidecar.services.pace import reports
from sidecar.services.requests import decode
from sidecar.services.warming import Warmed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from sidecar.cache.lease import Leases
    from sidecar.cache.model_moves import ModelVersion
    from sidecar.cache.popular import PopularQueries
    from sidecar.index.types import Index
    from sidecar.models.router import ModelRouter
    from sidecar.models.types import Embedder
    from sidecar.services.document_copy import DocumentStore
    from sidecar.services.model_moves import ModelMoves
    from sidecar.services.move_completion import MoveCompletion
    from sidecar.services.pace import Pace
    from sidecar.services.warming import Warmer

_ATTEMPTS = 10
_LOOK_SECONDS = 0.05

_Progress = cache_pb2.MigrateModelProgress


@dataclass(slots=True)
class _Migration:
    """A migration in progress. ``old_to`` and ``old_copy`` are of the move that it replaces."""

    name: str
    source: Embedder
    target: Embedder
    old_to: str
    old_copy: Copy | None
    new_copy: Copy
    popular: int
    pace: Pace
    copy: DocumentCopy
    warmed: Warmed = field(default_factory=Warmed)
    stage: cache_pb2.MigrateModelProgress.Stage.ValueType = _Progress.STAGE_DOCUMENTS
    # Documents that came in between and cannot be embedded with the target.
    left: int = 0

    def report(self) -> bytes:
        """As a MigrateModelProgress."""
        progress = _Progress(stage=self.stage)
        if self.stage == _Progress.STAGE_DOCUMENTS:
            copied = self.copy.progress
            progress.done, progress.total = copied.done, copied.total
            progress.failed = copied.failed
        elif self.stage == _Progress.STAGE_QUERIES:
            warmed = self.warmed
            progress.done = warmed.cached + warmed.computed + warmed.failed
            progress.total, progress.failed = warmed.total, warmed.failed
        else:
            progress.failed = self.left
        return progress.SerializeToString()


class ModelMigration:
    """Answers MigrateModel and RollbackModel of cache.proto.

    One migration at a time goes on in the fleet. Raises what
    `sidecar.services.errors.as_call_error` turns into a status.

    Args:
        popular: None where popular queries are not tracked: a migration goes on without them.
        completion: does what is left to be done after a move; it runs beside this.
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
        completion: MoveCompletion,
    ) -> None:
        self._router = router
        self._moves = moves
        self._index = index
        self._documents = documents
        self._warmer = warmer
        self._popular = popular
        self._leases = leases
        self._completion = completion

    async def migrate(self, raw: bytes) -> AsyncIterator[bytes]:
        """MigrateModel."""
        request = decode(cache_pb2.MigrateModelRequest, raw)
        job = self._plan(request, await self._moves.refresh())
        work = asyncio.create_task(self._migrate(job))
        try:
            async with contextlib.aclosing(reports(work, job.report)) as progress:
                async for message in progress:
                    yield message
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def rollback(self, raw: bytes) -> bytes:
        """RollbackModel."""
        name = decode(cache_pb2.RollbackModelRequest, raw).model or self._router.names()[0]
        if self._router.own(name) is None:
            raise self._not_served()

        def end(move: Move | None) -> Move | None:
            if move is None or not move.to:
                return move
            copies = {index: replace(copy, ended=True) for index, copy in move.copies.items()}
            return Move("", copies) if copies else None

        await self._moves.change(name, end)
        self._completion.wake()
        return cache_pb2.RollbackModelResponse().SerializeToString()

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
        before = self._completion.copy(name)
        if before is not None and is_incomplete(before):
            raise _refused(
                f"documents are still being brought {'back' if before.ended else 'over'} after"
                f" {name} was {'rolled back' if before.ended else 'moved'}: retry later"
            )
        pace = self._warmer.pace(request.per_second)
        here, there = _version(source), _version(target)
        old = moves.get(name)
        copied = Copy(here, there, there if before is None else before.first)
        copy = DocumentCopy(self._index, self._documents, here, target, pace, [pair(here, there)])
        return _Migration(
            name,
            source,
            target,
            "" if old is None else old.to,
            before,
            copied,
            request.popular,
            pace,
            copy,
        )

    def _not_served(self) -> CallError:
        return CallError(
            grpc.StatusCode.NOT_FOUND,
            f"no such model here: choose one of {', '.join(self._router.names())}, or add it to"
            " model.packs",
        )

    async def _migrate(self, job: _Migration) -> None:
        # It concerns every namespace, whichever are those of the administrator who asks for it.
        enter_nobody()
        try:
            await self._leases.run("migration", lambda: self._prepare_and_switch(job))
        except LeaseTakenError:
            raise _refused("another migration is going on: retry when it has ended") from None
        except LeaseLostError:
            raise CallError(
                grpc.StatusCode.ABORTED, "Redis was away for too long: ask again"
            ) from None
        except WarmUnavailableError as error:
            raise CallError(grpc.StatusCode.UNAVAILABLE, f"{error}: retry") from error
        job.stage = _Progress.STAGE_SWITCHED
        await self._wait_until_complete(job)

    async def _prepare_and_switch(self, job: _Migration) -> None:
        version = job.target.info.version
        await job.copy.count()
        await copy_all(job.copy, target_wins=False)
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

    async def _switch(self, job: _Migration) -> None:
        index = self._index.identity

        def switch(move: Move | None) -> Move:
            to, copies = ("", {}) if move is None else (move.to, dict(move.copies))
            copy = copies.get(index)
            if move is not None and to == job.target.info.name and _is_same(copy, job.new_copy):
                # It was done before, but the answer was lost. It may be complete by now.
                return move
            if (to, copy) != (job.old_to, job.old_copy):
                raise CallError(
                    grpc.StatusCode.ABORTED,
                    f"somebody else has just moved {job.name}: look, then retry",
                )
            return Move(job.target.info.name, copies | {index: job.new_copy})

        self._completion.failures.pop(job.name, None)
        for attempt in range(_ATTEMPTS):
            try:
                await self._moves.change(job.name, switch)
                break
            except CallError as error:
                if error.code is not grpc.StatusCode.UNAVAILABLE or attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(POLL_SECONDS)
        self._completion.wake()

    async def _wait_until_complete(self, job: _Migration) -> None:
        """Raises `CallError` if it has failed here, though it is tried again."""
        while True:
            copy = self._completion.copy(job.name)
            if copy is None or copy.ended:
                raise CallError(
                    grpc.StatusCode.ABORTED, f"{job.name} was rolled back when it had just moved"
                )
            if copy.finished:
                job.left = copy.left
                return
            if reason := self._completion.failures.get(job.name):
                raise CallError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"{job.name} means {job.target.info.name} now, but what other sidecars wrote"
                    f" until they heard of it could not be brought over yet ({reason}): it is"
                    " tried again by itself",
                )
            await asyncio.sleep(_LOOK_SECONDS)


def _version(model: Embedder) -> ModelVersion:
    return model.info.name, model.info.version


def _is_same(copy: Copy | None, other: Copy) -> bool:
    """Whether it is the same copy, at whatever stage."""
    return copy is not None and replace(copy, finished=False, left=0) == other


def _refused(message: str) -> CallError:
    return CallError(grpc.StatusCode.FAILED_PRECONDITION, message)
