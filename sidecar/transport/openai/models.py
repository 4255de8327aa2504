"""``/v1/models``: what is served, and the check that a call names one of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from embercache.v1 import embed_pb2, generate_pb2

from sidecar.transport.openai.answers import dump, respond
from sidecar.transport.openai.errors import model_not_found

if TYPE_CHECKING:
    from aiohttp import web

    from sidecar.transport.openai.methods import Methods


class Models:
    """The models of this sidecar."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        # OpenAI says here when a model was made, which is not known of ours.
        self._created = int(time.time())

    async def embedder(self, name: str) -> embed_pb2.Model:
        """The model of embeddings of that name. Raises `ApiError` if there is none."""
        models = await self._embedders()
        for model in models:
            if model.name == name:
                return model
        raise model_not_found(", ".join(model.name for model in models))

    async def check_generator(self, name: str) -> None:
        """Raises `ApiError` if there is no generator of that name."""
        names = await self._generators()
        if name not in names:
            raise model_not_found(", ".join(names))

    async def list_all(self, _request: web.Request) -> web.Response:
        """``GET /v1/models``."""
        cards = [self._card(name) for name in await self._names()]
        return respond(dump({"object": "list", "data": cards}))

    async def retrieve(self, request: web.Request) -> web.Response:
        """``GET /v1/models/{name}``. Raises `ApiError`."""
        name, names = request.match_info["name"], await self._names()
        if name not in names:
            raise model_not_found(", ".join(names))
        return respond(dump(self._card(name)))

    def _card(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "embercache",
        }

    async def _names(self) -> list[str]:
        embedders = [model.name for model in await self._embedders()]
        return list(dict.fromkeys(embedders + await self._generators()))

    async def _embedders(self) -> list[embed_pb2.Model]:
        request = embed_pb2.ListModelsRequest().SerializeToString()
        data = await self._methods.list_models(request)
        return list(embed_pb2.ListModelsResponse.FromString(data).models)

    async def _generators(self) -> list[str]:
        request = generate_pb2.ListGeneratorsRequest().SerializeToString()
        data = await self._methods.list_generators(request)
        response = generate_pb2.ListGeneratorsResponse.FromString(data)
        return [generator.name for generator in response.generators]
