"""A model that generates text behind an OpenAI-compatible service."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.models.generation import Completion, GeneratorCounters, GeneratorInfo, Piece
from sidecar.models.openai_client import RefusedError
from sidecar.models.openai_stream import CompletionReader
from sidecar.models.pack_files import digest
from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
)

if TYPE_CHECKING:
    from sidecar.models.generation import Generation, GenerationRequest, Sampling
    from sidecar.models.openai_client import OpenAIClient

LONGEST_SECONDS = 600.0
"""The most time that a service has for one answer, repetitions of the call included."""

_EVENTS_AT_ONCE = 32

_log = structlog.get_logger()


class OpenAIGenerator:
    """A `Generator` whose model is behind a service. Used from one event loop only.

    ``theirs`` is the service's name of the model. Up to ``parallel`` generations are at work, and
    up to ``queue`` wait. One that the service does not end within `LONGEST_SECONDS`, or in which it
    sends far more than ``max_tokens``, fails; the client bounds the wait for the next byte.
    """

    def __init__(
        self, name: str, theirs: str, client: OpenAIClient, *, parallel: int, queue: int
    ) -> None:
        self.counters = GeneratorCounters()
        target = client.target
        # A service tells of no version.
        parts = ["openai-completions", target.base_url, theirs]
        self.info = GeneratorInfo(
            name=name,
            version=digest(part.encode() for part in parts),
            context_tokens=0,
            accepts_chat=True,
            runs_on=target.host,
            is_local=False,
        )
        self._theirs = theirs
        self._client = client
        self._parallel = parallel
        self._queue = queue
        self._slots = asyncio.Semaphore(parallel)
        self._under_way: dict[Generation, asyncio.Task[None]] = {}
        self._limit_name = "max_tokens"
        self._closed = False

    @property
    def queued(self) -> int:
        """Generations that wait for others to end."""
        return max(0, len(self._under_way) - self._parallel)

    @property
    def active(self) -> int:
        """Generations that the service is asked for."""
        return min(len(self._under_way), self._parallel)

    def forget_prompts(self) -> int:
        """Nothing is kept here."""
        return 0

    def prefix_report(self) -> None:
        """None: nothing is kept of prompts here."""

    def start(self, request: GenerationRequest, generation: Generation) -> None:
        """Begins a generation and returns at once; see `Generator.start`."""
        if self._closed:
            raise ModelUnavailableError("the sidecar is shutting down; try another")
        if not self._has_room():
            self.counters.shed += 1
            raise QueueFullError(
                f"{self.queued} generations wait for {self.info.runs_on} already: try again later,"
                " or raise generator.parallel or generator.queue"
            )
        task = asyncio.create_task(self._run(request, generation))
        self._under_way[generation] = task
        task.add_done_callback(partial(self._end, generation))
        generation.add_done_callback(lambda _: task.cancel())

    async def close(self) -> None:
        """Ends the generations under way."""
        self._closed = True
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _has_room(self) -> bool:
        most = self._parallel + self._queue
        if len(self._under_way) < most:
            return True
        # Those that nobody wants any more are about to end.
        return sum(not generation.done() for generation in self._under_way) < most

    async def _run(self, request: GenerationRequest, generation: Generation) -> None:
        arrived = perf_counter()
        async with self._slots:
            began = perf_counter()
            reader = CompletionReader(request.sampling.max_tokens)
            try:
                await self._follow_in_time(request, generation, reader)
                completion = Completion(
                    pieces=tuple(generation.pieces),
                    finish_reason=reader.finish_reason(),
                    prompt_tokens=reader.prompt_tokens,
                    completion_tokens=reader.completion_tokens,
                    queued_seconds=began - arrived,
                )
            except ModelError as error:
                self.counters.shed += isinstance(error, QueueFullError)
                if not generation.done():
                    generation.set_exception(error)
                return
        if not generation.done():
            self._count(completion, began, generation)
            generation.set_result(completion)

    async def _follow_in_time(
        self, request: GenerationRequest, generation: Generation, reader: CompletionReader
    ) -> None:
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                await self._follow(request, generation, reader)
        except TimeoutError:
            raise ModelUnavailableError(
                f"{self.info.runs_on} did not end its answer within {LONGEST_SECONDS:g} s: ask for"
                " fewer tokens, or try again later"
            ) from None
        if rest := reader.rest():
            generation.add([Piece(rest)])

    async def _follow(
        self, request: GenerationRequest, generation: Generation, reader: CompletionReader
    ) -> None:
        limit_name = self._limit_name
        path, body = _call(request, self._theirs, limit_name)
        try:
            async with aclosing(self._client.stream(path, body)) as events:
                told = 0
                async for event in events:
                    told += 1
                    if not told % _EVENTS_AT_ONCE:
                        # A service that has its answer ready sends it all at once.
                        await asyncio.sleep(0)
                    if text := reader.read(event):
                        generation.add([Piece(text)])
        except RefusedError as error:
            # OpenAI's reasoning models only know the newer name, which many others do not.
            if "messages" in body and error.param == limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                await self._follow(request, generation, reader)
                return
            raise _explained(error, body) from None

    def _count(self, completion: Completion, began: float, generation: Generation) -> None:
        now = perf_counter()
        first = generation.first_at or now
        self.counters.generated += 1
        self.counters.prefill_tokens += completion.prompt_tokens
        self.counters.prefill_seconds += first - began
        self.counters.decode_tokens += completion.completion_tokens
        self.counters.decode_seconds += now - first

    def _end(self, generation: Generation, task: asyncio.Task[None]) -> None:
        """Sees to it that a generation ends with its task, even one that was never begun."""
        del self._under_way[generation]
        if generation.cancelled():
            self.counters.abandoned += 1
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            _log.error("a generation failed unexpectedly", exc_info=fault)
        if generation.done():
            return
        if fault is not None:
            error = ModelError("an error in the sidecar's call; its log has the details")
        else:
            error = ModelUnavailableError("the sidecar is shutting down; try another")
        generation.set_exception(error)


def _call(request: GenerationRequest, model: str, limit_name: str) -> tuple[str, dict[str, Any]]:
    """The path and the body of the call. Raises `InputRejectedError`."""
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_options(request.sampling),
    }
    if isinstance(request.prompt, str):
        return "/completions", body | {
            "prompt": request.prompt,
            "max_tokens": request.sampling.max_tokens,
        }
    messages = [{"role": role, "content": text} for role, text in request.prompt]
    return "/chat/completions", body | {
        "messages": messages,
        limit_name: request.sampling.max_tokens,
    }


_EXTENSIONS = ("top_k", "min_p", "repetition_penalty")


def _options(sampling: Sampling) -> dict[str, Any]:
    """The options that are not neutral; what a service does not know must not be sent for that."""
    if sampling.stop_tokens:
        raise InputRejectedError(
            "sampling.stop_tokens cannot be given to an OpenAI-compatible service: use stop"
        )
    options = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.top_p != 1 else None,
        "top_k": sampling.top_k or None,
        "min_p": sampling.min_p or None,
        "repetition_penalty": (
            sampling.repetition_penalty if sampling.repetition_penalty != 1 else None
        ),
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _explained(error: RefusedError, body: dict[str, Any]) -> InputRejectedError:
    extensions = [name for name in _EXTENSIONS if name in body]
    if not extensions:
        return error
    return InputRejectedError(
        f"{error} (not all services know {', '.join(extensions)}: leave that out)"
    )
