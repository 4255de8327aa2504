"""A model that embeds behind an OpenAI-compatible service."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.cells import model_changed
from sidecar.demand import Demand, act_for, demand
from sidecar.models.openai_client import RefusedError
from sidecar.models.openai_embeddings import read_vectors, share_tokens
from sidecar.models.pack_files import digest
from sidecar.models.types import (
    Embedded,
    InputRejectedError,
    ModelCounters,
    ModelError,
    ModelInfo,
    ModelInput,
    ModelUnavailableError,
    QueueFullError,
    RerankerInfo,
)
from sidecar.spans import current, enter

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from sidecar.models.openai_client import OpenAIClient
    from sidecar.spans import Span

INPUTS_A_CALL = 128
CHARACTERS_A_CALL = 200_000
CALLS_AT_ONCE = 4
# Inputs of a refused call that are asked for alone to see whether any is taken.
_PROBES = 8
_START_SECONDS = 5.0
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.1, 5.0

_log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Job:
    text: str
    future: asyncio.Future[Embedded]
    span: Span
    demand: Demand


class OpenAIEmbedder:
    """An `Embedder` whose model is behind a service. Used from one event loop only.

    ``theirs`` is the service's name of the model. Inputs of all callers share calls; while
    `CALLS_AT_ONCE` are under way, up to ``queue_inputs`` inputs wait.
    """

    def __init__(self, name: str, theirs: str, client: OpenAIClient, *, queue_inputs: int) -> None:
        self.counters = ModelCounters()
        self._name = name
        self._theirs = theirs
        self._client = client
        self._capacity = queue_inputs
        self._info: ModelInfo | None = None
        self._is_told = False
        self._unknown = "it has not answered yet"
        self._has_tried = asyncio.Event()
        self._waiting: deque[_Job] = deque()
        self._calls = 0
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def info(self) -> ModelInfo:
        """The model, once its first vector has shown how long they are."""
        if self._info is None:
            raise ModelUnavailableError(
                f"the model {self._name} cannot be used yet, as {self._client.target.host} has to"
                f" be asked for one vector first, and: {self._unknown}"
            )
        return self._info

    @property
    def identity(self) -> tuple[str, ...]:
        """See `Recallable.identity`."""
        return "openai", self._client.target.base_url, self._theirs, self._name

    @property
    def told(self) -> ModelInfo | None:
        """See `Recallable.told`."""
        return self._info if self._is_told else None

    def assume(self, info: ModelInfo | RerankerInfo) -> None:
        """See `Recallable.assume`."""
        if self._info is None and isinstance(info, ModelInfo) and info.name == self._name:
            self._info = replace(info, runs_on=self._client.target.host)
            model_changed()
            _log.warning(
                "the service has not answered: what is cached of its model is served",
                model=info.name,
                version=info.version,
            )

    @property
    def queued(self) -> int:
        """Inputs that wait for a call."""
        return len(self._waiting)

    @property
    def queue_seconds(self) -> float:
        """Not known."""
        return 0.0

    async def start(self) -> None:
        """Asks for one vector; if that takes long or fails, goes on in the background."""
        self._spawn(self._describe_until_known())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await self._has_tried.wait()
        if self._info is None:
            _log.warning("a model cannot be used yet", model=self._name, reason=self._unknown)

    def submit(self, inputs: Sequence[ModelInput]) -> list[asyncio.Future[Embedded]]:
        """Queues inputs and returns at once; see `Embedder.submit`."""
        if self._closed:
            raise ModelUnavailableError("the sidecar is shutting down; try another")
        _ = self.info  # unavailable without it
        if not self._is_told:
            raise ModelUnavailableError(
                f"{self._client.target.host} has not answered yet, and is asked again in the"
                f" background ({self._unknown}): try again later"
            )
        if len(self._waiting) + len(inputs) > self._capacity:
            self._drop_unwanted()
        if len(self._waiting) + len(inputs) > self._capacity:
            self.counters.shed += len(inputs)
            raise QueueFullError(
                f"{len(self._waiting)} inputs wait for {self._client.target.host} already: try"
                " again later, or raise encoder.queue_inputs"
            )
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Embedded]] = []
        for item in inputs:
            future: asyncio.Future[Embedded] = loop.create_future()
            futures.append(future)
            if isinstance(item, str):
                self._waiting.append(_Job(item, future, current(), demand()))
            else:
                future.set_exception(
                    InputRejectedError(f"model {self._name} takes text, not tensors")
                )
        # Later, so that callers that come together share a call.
        loop.call_soon(self._begin_calls)
        return futures

    async def close(self) -> None:
        """Ends the calls under way, and fails what waits."""
        self._closed = True
        _fail(self._waiting, ModelUnavailableError("the sidecar is shutting down; try another"))
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin_calls(self) -> None:
        while self._calls < CALLS_AT_ONCE and (jobs := self._take()):
            self._calls += 1
            task = self._spawn(self._call(jobs))
            task.add_done_callback(partial(self._end_call, jobs))
            for job in jobs:
                job.future.add_done_callback(partial(_cancel_unwanted, task, jobs))

    def _take(self) -> list[_Job]:
        """The next inputs that may share a call; none if none wait."""
        self._drop_unwanted()
        jobs: list[_Job] = []
        characters = 0
        while self._waiting and len(jobs) < INPUTS_A_CALL:
            text = self._waiting[0].text
            characters += len(text)
            # Many services refuse an empty text, and all that is with it.
            if jobs and (characters > CHARACTERS_A_CALL or not text or not jobs[-1].text):
                break
            jobs.append(self._waiting.popleft())
        return jobs

    def _drop_unwanted(self) -> None:
        wanted = deque(job for job in self._waiting if not job.future.cancelled())
        self.counters.abandoned += len(self._waiting) - len(wanted)
        self._waiting = wanted

    async def _call(self, jobs: Sequence[_Job]) -> None:
        """Computes inputs. If the service refuses some, the others are asked for without them."""
        # A call has one trace: that of the first job that has any.
        enter(next((job.span for job in jobs if job.span.is_recorded), jobs[0].span))
        # It goes on for who waits longest.
        act_for(max((job.demand for job in jobs), key=lambda each: each.deadline))
        refusal = await self._try(jobs)
        if refusal is None:
            return
        if await self._takes_none(jobs):
            _fail(jobs, refusal)
        else:
            await self._halve(jobs)

    async def _takes_none(self, jobs: Sequence[_Job]) -> bool:
        """Asks for inputs from all over a call alone, until one of them is not refused.

        If all are, they are not what the service minds. That is told at the cost of a few calls;
        halving on would cost two for every input.
        """
        for job in jobs[:: -(-len(jobs) // _PROBES)]:
            await self._try([job])
            fault = None if job.future.cancelled() else job.future.exception()
            if not isinstance(fault, RefusedError):
                return False
        return True

    async def _halve(self, jobs: Sequence[_Job]) -> None:
        middle = len(jobs) // 2
        for half in (jobs[:middle], jobs[middle:]):
            if await self._try(half) is not None:
                await self._halve(half)

    async def _try(self, jobs: Sequence[_Job]) -> RefusedError | None:
        """Computes those of the inputs that are still wanted, in one call.

        Returns the refusal, if the service refuses the call and a part of it may do better.
        """
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return None
        try:
            self._deliver(jobs, await self._compute([job.text for job in jobs]))
        except RefusedError as error:
            if len(jobs) > 1 and error.param.partition(".")[0] in ("", "input"):
                return error
            _fail(jobs, error)
        except ModelError as error:
            if isinstance(error, QueueFullError):
                self.counters.shed += len(jobs)
            _fail(jobs, error)
        return None

    async def _compute(self, texts: Sequence[str]) -> list[Embedded | ModelError]:
        answer = await self._ask(texts)
        vectors = read_vectors(answer, len(texts))
        self.counters.batches += 1
        tokens = share_tokens(answer, texts)
        return [
            self._refusal(vector.size) or Embedded(vector, count, truncated=False)
            if not isinstance(vector, ModelError)
            else vector
            for vector, count in zip(vectors, tokens, strict=True)
        ]

    def _refusal(self, dimensions: int) -> ModelError | None:
        expected = self.info.dimensions
        if dimensions == expected:
            return None
        return ModelError(
            f"the service answered with a vector of {dimensions} dimensions, and with {expected} at"
            " first: if there is another model behind the name now, start the sidecar again"
        )

    async def _ask(self, texts: Sequence[str]) -> Any:
        return await self._client.post(
            "/embeddings",
            {"model": self._theirs, "input": list(texts), "encoding_format": "base64"},
        )

    def _deliver(self, jobs: Sequence[_Job], results: Sequence[Embedded | ModelError]) -> None:
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, ModelError):
                job.future.set_exception(result)
            else:
                self.counters.computed += 1
                self.counters.tokens += result.tokens
                job.future.set_result(result)

    def _end_call(self, jobs: Sequence[_Job], call: asyncio.Task[None]) -> None:
        """Sees to it that futures end with their call, even one that was never begun."""
        self._calls -= 1
        if call.cancelled():
            self.counters.abandoned += sum(job.future.cancelled() for job in jobs)
            _fail(jobs, ModelUnavailableError("the sidecar is shutting down; try another"))
        elif call.exception() is not None:
            _fail(jobs, ModelError("an error in the sidecar's call; its log has the details"))
        self._begin_calls()

    async def _describe_until_known(self) -> None:
        delay = _FIRST_RETRY_SECONDS
        while True:
            try:
                self._describe(await self._ask(["a"]))
            except ModelError as error:
                self._unknown = str(error)
            else:
                return
            finally:
                self._has_tried.set()
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_RETRY_SECONDS)

    def _describe(self, answer: Any) -> None:
        (vector,) = read_vectors(answer, 1)
        if isinstance(vector, ModelError):
            raise vector
        target = self._client.target
        # A service tells of no version; what it does tell is in here.
        parts = [target.base_url, self._theirs, str(vector.size)]
        info = ModelInfo(
            name=self._name,
            version=digest([b"openai-embeddings", *(part.encode() for part in parts)]),
            dimensions=vector.size,
            max_tokens=0,
            accepts_text=True,
            accepts_tensor=False,
            runs_on=target.host,
        )
        # The same object while nothing changed: stored responses are checked by identity.
        if info != self._info:
            self._info = info
            model_changed()
        self._is_told = True
        _log.info("the service embeds", model=self._name, version=info.version)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("a call to a service failed unexpectedly", exc_info=fault)


def _cancel_unwanted(
    call: asyncio.Task[None], jobs: Sequence[_Job], _: asyncio.Future[Embedded]
) -> None:
    if all(job.future.cancelled() for job in jobs):
        call.cancel()


def _fail(jobs: Iterable[_Job], error: ModelError) -> None:
    for job in jobs:
        if not job.future.done():
            job.future.set_exception(error)
