"""A model of the encoder pool that embeds, spoken to in the protocol that we serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from embercache.v1 import embed_pb2, embed_pb2_grpc

from sidecar.models.pool_channel import UNCACHED, item_error
from sidecar.models.remote_model import RemoteModel
from sidecar.models.types import Embedded, ModelError, ModelInfo, ModelInput
from sidecar.models.upstream_channel import UpstreamAccess
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Sequence

_DTYPES: dict[str, embed_pb2.DType.ValueType] = {
    "<f4": embed_pb2.DTYPE_FLOAT32,
    "<f2": embed_pb2.DTYPE_FLOAT16,
    "|i1": embed_pb2.DTYPE_INT8,
    "|u1": embed_pb2.DTYPE_UINT8,
    "<i4": embed_pb2.DTYPE_INT32,
    "<i8": embed_pb2.DTYPE_INT64,
}


class RemoteEmbedder(RemoteModel[ModelInput, Embedded, ModelInfo]):
    """An `Embedder` whose model runs in other sidecars."""

    setting = "model.packs"
    kind = ModelInfo

    def __init__(
        self,
        name: str,
        target: str,
        *,
        queue_inputs: int,
        timeout: float,
        access: UpstreamAccess = UpstreamAccess(),  # noqa: B008 - it never changes
    ) -> None:
        super().__init__(name, target, queue_inputs=queue_inputs, timeout=timeout, access=access)
        self._stub = embed_pb2_grpc.EmbedServiceStub(self._channel.for_stubs())

    async def _ask(self) -> ModelInfo | None:
        request = embed_pb2.ListModelsRequest()
        response = await self._stub.ListModels(request, timeout=self._ask_seconds)
        models = {model.name: model for model in response.models}
        model = models.get(self._name)
        if model is None:
            return None
        return ModelInfo(
            name=model.name,
            version=model.version,
            dimensions=model.dimensions,
            max_tokens=model.max_tokens,
            accepts_text=model.accepts_text,
            accepts_tensor=model.accepts_tensor,
            runs_on=self._target,
            prompts=dict(model.prompts),
        )

    @property
    def _trial(self) -> ModelInput | None:
        return "a" if self.info.accepts_text else None

    async def _compute(
        self, inputs: Sequence[ModelInput], version: str
    ) -> list[Embedded | ModelError]:
        request = embed_pb2.EmbedRequest(
            inputs=[_input(item) for item in inputs],
            model=self._name,
            model_version=version,
            cache=UNCACHED,
        )
        with current().call("grpc", "embercache.v1.EmbedService/Embed", self._target) as span:
            response = await self._stub.Embed(
                request, timeout=self._time_left(), metadata=span.headers()
            )
            span.answered("OK")
        return [self._result(embedding) for embedding in response.embeddings]

    def _result(self, embedding: embed_pb2.Embedding) -> Embedded | ModelError:
        if embedding.HasField("error"):
            return item_error(embedding.error)
        vector = np.frombuffer(embedding.vector, dtype="<f4", count=len(embedding.vector) // 4)
        expected = 4 * self.info.dimensions
        if len(embedding.vector) != expected or not np.isfinite(vector).all():
            return ModelError("the encoder answered with a vector that is none")
        self.counters.tokens += embedding.tokens
        return Embedded(vector, embedding.tokens, embedding.truncated)

    def _size(self, item: ModelInput) -> int:
        return len(item.encode()) if isinstance(item, str) else item.nbytes


def _input(item: ModelInput) -> embed_pb2.Input:
    if isinstance(item, str):
        return embed_pb2.Input(text=item)
    tensor = embed_pb2.Tensor(dtype=_DTYPES[item.dtype.str], shape=item.shape, data=item.tobytes())
    return embed_pb2.Input(tensor=tensor)
