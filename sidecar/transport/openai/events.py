"""Answers that are streamed: server-sent events, a piece of text each."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from aiohttp import web
from embercache.v1 import generate_pb2

from sidecar.transport.openai.answers import TIER, dump
from sidecar.transport.openai.errors import ApiError
from sidecar.transport.openai.forms import finish_reason, head, usage

if TYPE_CHECKING:
    from sidecar.transport.openai.forms import Form
    from sidecar.transport.openai.methods import Stream
    from sidecar.transport.openai.prompts import Asked

STARTED = web.RequestKey("started", web.StreamResponse)
"""The response of a request, once its status is sent: then an error can only be an event."""

_PIECES_AT_ONCE = 32


async def send_events(
    request: web.Request, stream: Stream, form: Form, asked: Asked
) -> web.StreamResponse:
    """Sends a stream to its end. Raises what it fails with, before its first event or after."""
    # Nothing is sent before it is known what answers, so that a call that fails has its status.
    tier = await stream.tier()
    response = web.StreamResponse(headers={TIER: tier.value, "Cache-Control": "no-cache"})
    response.content_type = "text/event-stream"
    await response.prepare(request)
    request[STARTED] = response
    chunk = head(form, form.chunk_kind, asked.model)
    opening, summary, told = form.opening(), None, 0
    if opening is not None:
        await response.write(_event(_chunk(chunk, asked, opening)))
    async with aclosing(stream.messages()) as messages:
        async for data in messages:
            told += 1
            if not told % _PIECES_AT_ONCE:
                # What is stored is all there: other calls come in between.
                await asyncio.sleep(0)
            message = generate_pb2.GenerateStreamResponse.FromString(data)
            if message.text:
                choice = form.piece(message.text, None)
                await response.write(_event(_chunk(chunk, asked, choice)))
            if message.HasField("summary"):
                summary = message.summary
    if summary is None:
        raise ApiError(500, "the answer was cut short: try again")
    ending = [_event(_chunk(chunk, asked, form.piece("", finish_reason(summary))))]
    if asked.include_usage:
        ending.append(_event(chunk | {"choices": [], "usage": usage([summary])}))
    ending.append(b"data: [DONE]\n\n")
    await response.write(b"".join(ending))
    await response.write_eof()
    return response


async def send_error(response: web.StreamResponse, error: ApiError) -> None:
    """Ends a stream with an error in place of what it lacks."""
    await response.write(b"event: error\n" + _event(error.body()))
    await response.write_eof()


def _chunk(head: dict[str, object], asked: Asked, choice: dict[str, object]) -> dict[str, object]:
    # Whoever asked for usage is told in every chunk that it is yet to come.
    late = {"usage": None} if asked.include_usage else {}
    return head | {"choices": [choice]} | late


def _event(value: object) -> bytes:
    return b"data: " + dump(value) + b"\n\n"
