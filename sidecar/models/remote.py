"""A model behind other sidecars: the encoder pool, spoken to in the protocol that we serve."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING

import grpc
import numpy as np
import structlog
from embercache.v1 import common_pb2, embed_pb2, embed_pb2_grpc

from sidecar.models.types import (
    Embedded,
    InputRejectedError,
    ModelCounters,
    ModelError,
    ModelInfo,
    ModelUnavailableError,
    QueueFullError,
    VersionChangedError,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Sequence
    from typing import Any

    from sidecar.models.types import ModelInput

INPUTS_A_CALL = 256
BYTES_A_CALL = 4 * 2**20
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.1, 5.0
_MAX_MESSAGE_BYTES = 64 * 2**20

_DTYPES: dict[str, embed_pb2.DType.ValueType] = {
    "<f4": embed_pb2.DTYPE_FLOAT32,
    "<f2": embed_pb2.DTYPE_FLOAT16,
    "|i1": embed_pb2.DTYPE_INT8,
    "|u1": embed_pb2.DTYPE_UINT8,
    "<i4": embed_pb2.DTYPE_INT32,
    "<i8": embed_pb2.DTYPE_INT64,
}

# Embedding changes nothing on the other side, so a call may be repeated. Not when the encoder is
# overloaded: the caller must hear of that. A replica with another version of the model may stand
# beside one with the right version while a pool is being updated.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "embercache.v1.EmbedService"}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # An encoder that ends may cancel what has just arrived.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED", "FAILED_PRECONDITION"],
            },
        }
    ],
}

_log = structlog.get_logger()


class RemoteEmbedder:
    """An `Embedder` whose model runs in other sidecars.

    ``target`` is a gRPC address (``dns:///encoders:50551`` for all replicas behind a name) or
    numeric addresses with commas between. Calls go to the replicas in turn. ``queue_inputs``
    bounds the inputs under way; ``timeout`` is in seconds, for one call.
    """

    def __init__(self, name: str, target: str, *, queue_inputs: int, timeout: float) -> None:
        self.counters = ModelCounters()
        self._name = name
        self._target = target
        self._queue_inputs = queue_inputs
        self._timeout = timeout
        self._info: ModelInfo | None = None
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel = grpc.aio.insecure_channel(
            _grpc_target(target),
            options=[
                ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                # A request that does not fit in here is never sent again; the default is 256 KiB.
                ("grpc.per_rpc_retry_buffer_size", _MAX_MESSAGE_BYTES),
                # Replicas that come or go must be noticed within seconds, not minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 2000),
                ("grpc.min_reconnect_backoff_ms", 100),
                ("grpc.dns_min_time_between_resolutions_ms", 5000),
            ],
        )
        self._stub = embed_pb2_grpc.EmbedServiceStub(self._channel)

    @property
    def info(self) -> ModelInfo:
        """The model as the encoder described it last."""
        if self._info is None:
            raise ModelUnavailableError(
                f"the encoder at {self._target} has not answered yet: is it running, and does it"
                f" serve {self._name}? Try again later"
            )
        return self._info

    @property
    def queued(self) -> int:
        """Inputs under way to and from the encoder."""
        return self._under_way

    async def start(self) -> None:
        """Asks for the model; if the encoder does not answer, goes on asking in the background."""
        try:
            await self._describe()
        except ModelError as error:
            _log.warning("the encoder does not answer yet", model=self._name, reason=str(error))
            self._spawn(self._describe_until_known())

    def submit(self, inputs: Sequence[ModelInput]) -> list[asyncio.Future[Embedded]]:
        """Sends inputs off and returns at once; see `Embedder.submit`."""
        if self._under_way and self._under_way + len(inputs) > self._queue_inputs:
            self.counters.shed += len(inputs)
            raise QueueFullError(
                f"{self._under_way} inputs are under way to the encoder already: try again later,"
                " add encoders, or raise encoder.queue_inputs"
            )
        version = self.info.version
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Embedded]] = [loop.create_future() for _ in inputs]
        self._under_way += len(inputs)
        for part in _parts(inputs):
            task = self._spawn(self._call(inputs[part], futures[part], version))
            task.add_done_callback(partial(self._end, futures[part]))
        return futures

    async def close(self) -> None:
        """Ends the calls under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _call(
        self, inputs: Sequence[ModelInput], futures: list[asyncio.Future[Embedded]], version: str
    ) -> None:
        """Embeds inputs with one call, which ends early if all of its futures are cancelled."""
        request = embed_pb2.EmbedRequest(
            inputs=[_input(item) for item in inputs],
            model=self._name,
            model_version=version,
            cache=common_pb2.CacheOptions(mode=common_pb2.CACHE_MODE_BYPASS),
        )
        call = self._stub.Embed(request, timeout=self._timeout)
        _cancel_with_all(call, futures)
        try:
            response = await call
            if len(response.embeddings) != len(inputs):
                raise ModelError("the encoder answered with the wrong number of vectors")
            self.counters.batches += 1
            for future, embedding in zip(futures, response.embeddings, strict=True):
                self._deliver(future, embedding)
        except asyncio.CancelledError:
            if not all(future.cancelled() for future in futures):
                raise
            self.counters.abandoned += len(futures)
        except grpc.aio.AioRpcError as error:
            reason = await self._explain(error)
            if isinstance(reason, QueueFullError):
                self.counters.shed += len(inputs)
            _fail(futures, reason)
        except ModelError as error:
            _fail(futures, error)

    def _end(self, futures: Sequence[asyncio.Future[Embedded]], call: asyncio.Task[None]) -> None:
        """Sees to it that futures end with their call, even one that was never begun."""
        self._under_way -= len(futures)
        if call.cancelled():
            _fail(futures, ModelUnavailableError("the sidecar is shutting down; try another"))
        elif (fault := call.exception()) is not None:
            _log.error("a call to the encoder failed unexpectedly", exc_info=fault)
            _fail(
                futures,
                ModelError(
                    "an error in the sidecar's call to the encoder; its log has the details"
                ),
            )

    def _deliver(self, future: asyncio.Future[Embedded], embedding: embed_pb2.Embedding) -> None:
        if future.done():
            return
        if embedding.HasField("error"):
            future.set_exception(_item_error(embedding.error))
            return
        vector = np.frombuffer(embedding.vector, dtype="<f4", count=len(embedding.vector) // 4)
        expected = 4 * self.info.dimensions
        if len(embedding.vector) != expected or not np.isfinite(vector).all():
            future.set_exception(ModelError("the encoder answered with a vector that is none"))
            return
        self.counters.computed += 1
        self.counters.tokens += embedding.tokens
        future.set_result(Embedded(vector, embedding.tokens, embedding.truncated))

    async def _explain(self, error: grpc.aio.AioRpcError) -> ModelError:
        details = error.details() or ""
        match error.code():
            case grpc.StatusCode.FAILED_PRECONDITION:
                # Known before the callers hear of it, so that they can ask for the new version.
                try:
                    await self._describe()
                except ModelError as unknown:
                    return unknown
                return VersionChangedError(details)
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return QueueFullError(details)
            # An encoder that ends before its calls do cancels them.
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
                return ModelUnavailableError(
                    f"the encoder at {self._target} cannot be reached: try again later"
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return ModelUnavailableError(
                    f"the encoder took longer than encoder.timeout, {self._timeout:g} s"
                )
            case code:
                return ModelError(f"the encoder failed with {code.name}: {details}")

    async def _describe(self) -> None:
        """Learns what the model is now. Raises `ModelError`."""
        try:
            response = await self._stub.ListModels(
                embed_pb2.ListModelsRequest(), timeout=self._timeout
            )
        except grpc.aio.AioRpcError as error:
            raise ModelUnavailableError(
                f"the encoder at {self._target} cannot be asked for its models"
                f" ({error.code().name}): try again later"
            ) from error
        for model in response.models:
            if model.name == self._name:
                self._learn(model)
                return
        raise ModelUnavailableError(
            f"the encoder at {self._target} does not serve {self._name}: add it to its model.packs"
        )

    async def _describe_until_known(self) -> None:
        delay = _FIRST_RETRY_SECONDS
        while self._info is None:
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_RETRY_SECONDS)
            try:
                await self._describe()
            except ModelError:
                continue

    def _learn(self, model: embed_pb2.Model) -> None:
        info = ModelInfo(
            name=model.name,
            version=model.version,
            dimensions=model.dimensions,
            max_tokens=model.max_tokens,
            accepts_text=model.accepts_text,
            accepts_tensor=model.accepts_tensor,
            runs_on=self._target,
            prompts=dict(model.prompts),
        )
        # The same object while nothing changed: stored responses are checked by identity.
        if info != self._info:
            _log.info("the encoder serves", model=info.name, version=info.version)
            self._info = info

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _grpc_target(target: str) -> str:
    addresses = [address.strip() for address in target.split(",")]
    if len(addresses) == 1:
        return addresses[0]
    family = "ipv6" if addresses[0].startswith("[") else "ipv4"
    return f"{family}:{','.join(addresses)}"


def _parts(inputs: Sequence[ModelInput]) -> Iterator[slice]:
    """Cuts inputs into calls of bounded size."""
    start = size = 0
    for end, item in enumerate(inputs):
        more = len(item.encode()) if isinstance(item, str) else item.nbytes
        if end > start and (end - start == INPUTS_A_CALL or size + more > BYTES_A_CALL):
            yield slice(start, end)
            start, size = end, 0
        size += more
    if len(inputs) > start:
        yield slice(start, len(inputs))


def _input(item: ModelInput) -> embed_pb2.Input:
    if isinstance(item, str):
        return embed_pb2.Input(text=item)
    tensor = embed_pb2.Tensor(dtype=_DTYPES[item.dtype.str], shape=item.shape, data=item.tobytes())
    return embed_pb2.Input(tensor=tensor)


def _item_error(error: common_pb2.ItemError) -> ModelError:
    kinds: dict[int, type[ModelError]] = {
        grpc.StatusCode.INVALID_ARGUMENT.value[0]: InputRejectedError,
        grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]: QueueFullError,
        grpc.StatusCode.UNAVAILABLE.value[0]: ModelUnavailableError,
    }
    return kinds.get(error.code, ModelError)(error.message)


def _fail(futures: Iterable[asyncio.Future[Embedded]], error: ModelError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _cancel_with_all(
    call: grpc.aio.UnaryUnaryCall[embed_pb2.EmbedRequest, embed_pb2.EmbedResponse],
    futures: Sequence[asyncio.Future[Embedded]],
) -> None:
    wanted = len(futures)

    def done(future: asyncio.Future[Embedded]) -> None:
        nonlocal wanted
        wanted -= future.cancelled()
        if wanted == 0:
            call.cancel()

    for future in futures:
        future.add_done_callback(done)
