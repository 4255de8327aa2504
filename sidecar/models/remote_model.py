"""A model behind other sidecars, whatever it computes: calls, bounds, failures."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

import grpc
import structlog

from sidecar.cells import model_changed
from sidecar.demand import demand
from sidecar.models.encoder_watch import EncoderWatch
from sidecar.models.pool_channel import call_error, open_channel
from sidecar.models.types import (
    ModelCounters,
    ModelError,
    ModelInfo,
    ModelUnavailableError,
    QueueFullError,
    RerankerInfo,
    TooLateError,
    VersionChangedError,
)
from sidecar.models.upstream_channel import UpstreamAccess
from sidecar.models.upstream_faults import fault

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Sequence
    from typing import Any

In = TypeVar("In")
Out = TypeVar("Out")
Info = TypeVar("Info", bound=ModelInfo | RerankerInfo)

INPUTS_A_CALL = 256
BYTES_A_CALL = 4 * 2**20
_ASK_SECONDS = 5.0

_log = structlog.get_logger()


class RemoteModel(ABC, Generic[In, Out, Info]):
    """A model that runs in other sidecars. Used from one event loop only.

    After five calls in a row that no encoder answered, inputs are refused at once until one answers
    again, which is tried in the background with one small input.

    ``target`` is an address as `open_channel` takes it. ``queue_inputs`` bounds the inputs under
    way; ``timeout`` is in seconds, for one call.
    """

    setting: ClassVar[str]
    """Where the other sidecars have to name the model."""

    kind: ClassVar[type[ModelInfo] | type[RerankerInfo]]
    """What describes it."""

    def __init__(
        self,
        name: str,
        target: str,
        *,
        queue_inputs: int,
        timeout: float,
        access: UpstreamAccess = UpstreamAccess(),  # noqa: B008 - it never changes
    ) -> None:
        self.counters = ModelCounters()
        self._name = name
        self._target = target
        self._queue_inputs = queue_inputs
        self._timeout = timeout
        self._ask_seconds = min(timeout, _ASK_SECONDS)
        self._info: Info | None = None
        self._is_told = False
        self._refusal = ""
        self._watch = EncoderWatch(name, target, self._describe, self._try, self._ask_seconds)
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel = open_channel(target, access)

    @abstractmethod
    async def _ask(self) -> Info | None:
        """Asks what the model is now; None if it is not there. Raises as a call does."""

    @property
    @abstractmethod
    def _trial(self) -> In | None:
        """A small input that shows whether the model computes; None if none is known."""

    @abstractmethod
    async def _compute(self, inputs: Sequence[In], version: str) -> Sequence[Out | ModelError]:
        """Computes inputs with one call, which is cancelled with this coroutine.

        Raises `ModelError` if the answer as a whole is of no use, or as a call does.
        """

    @abstractmethod
    def _size(self, item: In) -> int:
        """The bytes of an input in a call."""

    def _together(self, inputs: Sequence[In]) -> Iterable[Sequence[int]]:
        """The places of inputs that may share calls; each place once."""
        return [range(len(inputs))]

    @property
    def info(self) -> Info:
        """The model as the encoder described it last."""
        if self._info is None:
            raise ModelUnavailableError(
                self._refusal
                or f"the encoder at {self._target} has not answered yet: is it running, and does it"
                f" serve {self._name}? Try again later"
            )
        return self._info

    @property
    def identity(self) -> tuple[str, ...]:
        """See `Recallable.identity`."""
        return self.setting, self._target, self._name

    @property
    def told(self) -> Info | None:
        """See `Recallable.told`."""
        return self._info if self._is_told else None

    def assume(self, info: ModelInfo | RerankerInfo) -> None:
        """See `Recallable.assume`. While nothing was told the breaker is open."""
        if self._info is None and isinstance(info, self.kind) and info.name == self._name:
            self._info = cast("Info", replace(info, runs_on=self._target))
            model_changed()
            _log.warning(
                "the encoder has not answered: what is cached of its last version is served",
                model=info.name,
                version=info.version,
            )

    @property
    def queued(self) -> int:
        """Inputs under way to and from the encoder."""
        return self._under_way

    @property
    def queue_seconds(self) -> float:
        """Not known: the encoder knows its queue, hears of deadlines, and refuses what is late."""
        return 0.0

    async def start(self) -> None:
        """Asks for the model; if the encoder does not answer, goes on asking in the background."""
        try:
            await self._describe()
        except ModelError as error:
            self._watch.gone(str(error))

    def submit(self, inputs: Sequence[In]) -> list[asyncio.Future[Out]]:
        """Sends inputs off and returns at once; see `Embedder.submit` and `Reranker.submit`."""
        self._watch.refuse_if_away(self._refusal)
        if self._under_way and self._under_way + len(inputs) > self._queue_inputs:
            self.counters.shed += len(inputs)
            raise QueueFullError(
                f"{self._under_way} inputs are under way to the encoder already: try again later,"
                " add encoders, or raise encoder.queue_inputs"
            )
        version = self.info.version
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Out]] = [loop.create_future() for _ in inputs]
        self._under_way += len(inputs)
        for places in self._together(inputs):
            for part in self._parts(inputs, places):
                mine = [futures[place] for place in part]
                task = self._spawn(self._call([inputs[place] for place in part], mine, version))
                task.add_done_callback(partial(self._end, mine))
                _cancel_with_all(task, mine)
        return futures

    async def close(self) -> None:
        """Ends the calls under way."""
        await self._watch.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    def _parts(self, inputs: Sequence[In], places: Sequence[int]) -> Iterator[Sequence[int]]:
        """Cuts places into calls of bounded size."""
        start = size = 0
        for end, place in enumerate(places):
            more = self._size(inputs[place])
            if end > start and (end - start == INPUTS_A_CALL or size + more > BYTES_A_CALL):
                yield places[start:end]
                start, size = end, 0
            size += more
        if len(places) > start:
            yield places[start:]

    async def _call(
        self, inputs: Sequence[In], futures: Sequence[asyncio.Future[Out]], version: str
    ) -> None:
        try:
            results = await self._compute_in_time(inputs, version)
            if len(results) != len(inputs):
                raise ModelError("the encoder answered with the wrong number of results")
            self.counters.batches += 1
            self._watch.answered()
            self._deliver(futures, results)
        except grpc.aio.AioRpcError as error:
            self._watch.ended(error)
            reason = await self._explain(error)
            if isinstance(reason, QueueFullError):
                self.counters.shed += len(inputs)
                self.counters.refused_late += isinstance(reason, TooLateError) * len(inputs)
            _fail(futures, reason)
        except ModelError as error:
            _fail(futures, error)

    async def _compute_in_time(
        self, inputs: Sequence[In], version: str
    ) -> Sequence[Out | ModelError]:
        """Computes inputs before the deadline of who waits for them.

        Once more, if somebody who waits longer has come in between.
        """
        waiting = demand()
        while True:
            began, deadline = time.monotonic(), waiting.deadline
            self._watch.sent()
            try:
                return await self._compute(inputs, version)
            except grpc.aio.AioRpcError as error:
                is_over = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                if not is_over or deadline - began >= self._timeout:
                    raise
                if waiting.deadline <= deadline:
                    self.counters.dropped_late += len(inputs)
                    self._watch.given_up(after=time.monotonic() - began)
                    raise TooLateError(
                        "the deadline passed before the encoder had answered: try again later"
                    ) from error

    def _end(self, futures: Sequence[asyncio.Future[Out]], call: asyncio.Task[None]) -> None:
        """Sees to it that futures end with their call, even one that was never begun."""
        self._under_way -= len(futures)
        if call.cancelled():
            if all(future.cancelled() for future in futures):
                self.counters.abandoned += len(futures)
            _fail(futures, ModelUnavailableError("the sidecar is shutting down; try another"))
        elif (fault := call.exception()) is not None:
            _log.error("a call to the encoder failed unexpectedly", exc_info=fault)
            _fail(
                futures,
                ModelError(
                    "an error in the sidecar's call to the encoder; its log has the details"
                ),
            )

    def _deliver(
        self, futures: Sequence[asyncio.Future[Out]], results: Sequence[Out | ModelError]
    ) -> None:
        for future, result in zip(futures, results, strict=True):
            if future.done():
                continue
            if isinstance(result, ModelError):
                future.set_exception(result)
            else:
                self.counters.computed += 1
                future.set_result(result)

    async def _explain(self, error: grpc.aio.AioRpcError) -> ModelError:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            return call_error(error, self._target, self._timeout)
        # Known before the callers hear of it, so that they can ask for the new version.
        try:
            await self._describe()
        except ModelError as unknown:
            return unknown
        return VersionChangedError(error.details() or "")

    async def _describe(self) -> None:
        """Learns what the model is now. Raises `ModelError`."""
        try:
            info = await self._ask()
        except grpc.aio.AioRpcError as error:
            why = fault(error.code(), error.details() or "")
            words = (
                f"the encoder at {self._target} cannot be asked for its models"
                f" ({why or error.code().name}): try again later"
            )
            self._refusal = words if why else ""
            raise ModelUnavailableError(words) from error
        self._refusal = ""
        if info is None:
            raise ModelUnavailableError(
                f"the encoder at {self._target} does not serve {self._name}: add it to its"
                f" {self.setting}"
            )
        # The same object while nothing changed: stored responses are checked by identity.
        if info != self._info:
            _log.info("the encoder serves", model=info.name, version=info.version)
            self._info = info
            model_changed()
        self._is_told = True

    def _time_left(self) -> float:
        """How long a call may take, in seconds; the encoder hears of it and judges by it, too."""
        return max(0.0, min(self._timeout, demand().deadline - time.monotonic()))

    async def _try(self) -> None:
        """Computes a small input; raises as a call does."""
        if self._trial is not None:
            await self._compute([self._trial], self.info.version)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _fail(futures: Iterable[asyncio.Future[Out]], error: ModelError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _cancel_with_all(call: asyncio.Task[None], futures: Sequence[asyncio.Future[Out]]) -> None:
    wanted = len(futures)

    def done(future: asyncio.Future[Out]) -> None:
        nonlocal wanted
        wanted -= future.cancelled()
        if wanted == 0:
            call.cancel()

    for future in futures:
        future.add_done_callback(done)
