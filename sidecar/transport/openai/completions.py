"""``/v1/completions`` and ``/v1/chat/completions``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from embercache.v1 import generate_pb2

from sidecar.transport.openai.answers import cache_headers, dump, respond
from sidecar.transport.openai.events import send_events
from sidecar.transport.openai.forms import finish_reason, head, usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from sidecar.transport.openai.fields import Fields
    from sidecar.transport.openai.forms import Form
    from sidecar.transport.openai.methods import Methods
    from sidecar.transport.openai.models import Models
    from sidecar.transport.openai.prompts import Asked


class Completions:
    """Answers with texts of GenerateService; ``read`` and ``form`` make one endpoint of it."""

    def __init__(
        self,
        methods: Methods,
        models: Models,
        read: Callable[[Fields], Asked],
        form: Form,
    ) -> None:
        self._methods = methods
        self._models = models
        self._read = read
        self._form = form

    async def answer(self, fields: Fields, request: web.Request) -> web.StreamResponse:
        """Answers a POST. Raises `ApiError`, and what the service raises."""
        asked = self._read(fields)
        # They are smaller than the body, whose size is bounded already.
        raws = [message.SerializeToString(deterministic=True) for message in asked.requests]
        if asked.streams:
            return await self._stream(asked, raws[0], request)
        return await self._whole(asked, raws)

    async def _whole(self, asked: Asked, raws: list[bytes]) -> web.Response:
        calls = [asyncio.ensure_future(self._generate(asked.model, raw)) for raw in raws]
        try:
            answers = await asyncio.gather(*calls)
        finally:
            for call in calls:
                call.cancel()
        summaries = [answer.summary for answer in answers]
        body = head(self._form, self._form.kind, summaries[0].model) | {
            "choices": [
                self._form.choice(i, answer.text, finish_reason(answer.summary))
                for i, answer in enumerate(answers)
            ],
            "usage": usage(summaries),
        }
        headers = cache_headers(summaries)
        similarities = [s.similarity for s in summaries if s.HasField("similarity")]
        if similarities:
            headers["x-embercache-similarity"] = f"{min(similarities):.4f}"
        return respond(dump(body), headers=headers)

    async def _generate(self, model: str, raw: bytes) -> generate_pb2.GenerateResponse:
        data = self._methods.stored_generate(raw)
        if data is None:
            await self._models.check_generator(model)
            data = await self._methods.generate(raw)
        return generate_pb2.GenerateResponse.FromString(data)

    async def _stream(self, asked: Asked, raw: bytes, request: web.Request) -> web.StreamResponse:
        await self._models.check_generator(asked.model)
        stream = self._methods.open_stream(raw)
        try:
            return await send_events(request, stream, self._form, asked)
        finally:
            await stream.close()
