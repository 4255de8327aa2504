"""What is to be done after a name has moved: documents are brought over, or back after a rollback.

What has to be done is kept with the move, so any sidecar with the same index does it: that which
was asked, another, or itself after a restart. One at a time, and again until it has been done.

One thing is given up: where a name has gone on from a second model to a third and is rolled back
within the seconds until that is complete, what sidecars that had not heard of the third one wrote
to the collections of the second in between stays there.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import structlog

from sidecar.access.caller import enter_nobody
from sidecar.cache.lease import LeaseTakenError
from sidecar.cache.model_moves import Copy, Move
from sidecar.demand import in_background
from sidecar.services.document_copy import DocumentCopy
from sidecar.services.errors import CallError
from sidecar.services.ledger import pair
from sidecar.services.model_moves import POLL_SECONDS
from sidecar.services.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.lease import Leases
    from sidecar.index.types import Index
    from sidecar.models.router import ModelRouter
    from sidecar.models.types import Embedder
    from sidecar.services.document_copy import DocumentStore
    from sidecar.services.model_moves import ModelMoves

# Others hear of a move within a poll; calls that they had begun before may take a little longer.
SETTLE_SECONDS = 2 * POLL_SECONDS + 1
_RETRY_SECONDS = 30.0
_MOST_PASSES = 10

_log = structlog.get_logger()


class MoveCompletion:
    """Completes moves and rollbacks; `run` is a task of the sidecar.

    ``failures`` says of each name what went wrong here at the last attempt, until one succeeds.

    Args:
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
        leases: Leases,
        settle_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.failures: dict[str, str] = {}
        self._router = router
        self._moves = moves
        self._index = index
        self._documents = documents
        self._leases = leases
        self._settle_seconds = settle_seconds
        self._sleep = sleep
        self._busy: set[str] = set()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Looks at once, for a name has just been moved."""
        self._wake.set()

    def copy(self, name: str) -> Copy | None:
        """What is known of the documents of a name in the index of this sidecar."""
        move = self._moves.known.get(name)
        return None if move is None else move.copies.get(self._index.identity)

    async def run(self) -> None:
        """Completes what is incomplete, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for name in self._moves.known:
                    copy = self.copy(name)
                    if name not in self._busy and copy is not None and is_incomplete(copy):
                        self._busy.add(name)
                        tasks.create_task(self._attempt(name))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_SECONDS)
                self._wake.clear()

    async def _attempt(self, name: str) -> None:
        try:
            lease = f"documents:{name}:{self._index.identity}"
            await self._leases.run(lease, lambda: self._complete(name))
            self.failures.pop(name, None)
        except LeaseTakenError:
            pass
        except Exception as error:
            self.failures[name] = str(error)
            _log.warning("a move could not be completed yet", model=name, reason=str(error))
            await self._sleep(_RETRY_SECONDS)
        finally:
            self._busy.discard(name)

    async def _complete(self, name: str) -> None:
        await self._moves.refresh()
        copy, own = self.copy(name), self._router.own(name)
        if copy is None or own is None:
            return
        await self._sleep(self._settle_seconds)
        await self._moves.refresh()
        if self.copy(name) != copy:
            # It was rolled back meanwhile: others have to hear of that too.
            return
        if copy.ended:
            left = await self._bring_back(copy, own)
            await self._record(name, copy, None)
        else:
            left = await self._bring_over(copy)
            await self._record(name, copy, replace(copy, finished=True, left=left))
        if left:
            _log.error("documents were left behind", model=name, documents=left)
        _log.info("a move is complete", model=name, back=copy.ended)

    async def _bring_over(self, copy: Copy) -> int:
        """Copies what came to the source after the last look; returns how many could not be."""
        target = self._router.own(copy.target[0])
        if target is None or target.info.version != copy.target[1]:
            raise CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"{copy.target[0]} is not served here in the version that it had",
            )
        return await self._copy_all(copy.source, target, pair(copy.source, copy.target))

    async def _bring_back(self, copy: Copy, own: Embedder) -> int:
        """Copies what came to the target, or changed there; returns how many could not be."""
        home = (own.info.name, own.info.version)
        ledgers = dict.fromkeys([pair(home, copy.first), pair(home, copy.target)])
        return await self._copy_all(copy.target, own, *ledgers)

    async def _copy_all(self, source: tuple[str, str], target: Embedder, *ledgers: str) -> int:
        copy = DocumentCopy(self._index, self._documents, source, target, Pace(0), ledgers)
        await copy_all(copy, target_wins=True)
        return copy.progress.failed

    async def _record(self, name: str, before: Copy, after: Copy | None) -> None:
        """Puts ``after`` in the place of ``before``, if that is still what is known."""
        index = self._index.identity

        def change(move: Move | None) -> Move | None:
            if move is None or move.copies.get(index) != before:
                return move
            copies = {other: copy for other, copy in move.copies.items() if other != index}
            if after is not None:
                copies[index] = after
            return Move(move.to, copies) if move.to or copies else None

        await self._moves.change(name, change)


def is_incomplete(copy: Copy) -> bool:
    """Whether there is something to be done."""
    return copy.ended or not copy.finished


async def copy_all(copy: DocumentCopy, *, target_wins: bool) -> None:
    """Makes passes until one finds nothing to do, or there were many; callers come first."""
    enter_nobody()
    in_background()
    for _ in range(_MOST_PASSES):
        if not await copy.run(target_wins=target_wins):
            return
