"""The HTTP server of the OpenAI-compatible API: routes and life."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.transport.listening import ListenError, TurnedAway, listen, make_room
from sidecar.transport.openai.bad_requests import BadRequestsInBrief
from sidecar.transport.openai.completions import Completions
from sidecar.transport.openai.embeddings import Embeddings
from sidecar.transport.openai.errors import ApiError, too_large
from sidecar.transport.openai.fields import Fields, read_object
from sidecar.transport.openai.forms import ChatForm, CompletionForm
from sidecar.transport.openai.guard import guard
from sidecar.transport.openai.models import Models
from sidecar.transport.openai.prompts import read_chat, read_completion

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Handler

    from sidecar.config import ServerSettings
    from sidecar.transport.certificate import ServerCertificate
    from sidecar.transport.openai.counted import CountedCalls
    from sidecar.transport.openai.methods import Methods

    Endpoint = Callable[[Fields, web.Request], Awaitable[web.StreamResponse]]

_LEAST_SECONDS = 0.001
_BODY_SECONDS = 30.0


class OpenAIFront:
    """Serves the API on ``server.openai_address``, encrypted if there is a ``certificate``."""

    def __init__(
        self,
        settings: ServerSettings,
        methods: Methods,
        calls: CountedCalls,
        certificate: ServerCertificate | None = None,
    ) -> None:
        self._settings = settings
        self._certificate = certificate
        self._methods = calls.methods(methods)
        self._calls = calls
        self._host, _, port = settings.openai_address.rpartition(":")
        self._port = int(port)
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._busy: set[web.RequestHandler] = set()
        # What clients call base_url, once it listens.
        self.url = ""

    async def start(self) -> None:
        """Listens. Raises `ListenError`."""
        runner = web.AppRunner(
            self._application(),
            # A call whose client has gone is ended, and with it what it had generated.
            handler_cancellation=True,
            access_log=None,
            logger=BadRequestsInBrief("server.openai_address"),
            # What would be 16 MiB compressed is refused: see `guard`.
            auto_decompress=False,
            # A drain waits for so long twice: before and after it breaks off bodies. 0 is for ever.
            shutdown_timeout=max(self._settings.drain_timeout / 2, _LEAST_SECONDS),
        )
        await runner.setup()
        self._runner = runner
        try:
            self._listener = await listen(self._connection, self._host, self._port, self._context())
        except (OSError, UnicodeError):
            # The latter is of a host that can be no name.
            self._runner = None
            await runner.cleanup()
            raise ListenError(
                f"cannot listen on {self._settings.openai_address}: is there such a host, or is"
                " another process using it? Set server.openai_address"
            ) from None
        scheme = "http" if self._certificate is None else "https"
        self.url = f"{scheme}://{self._host}:{self._listener.sockets[0].getsockname()[1]}/v1"

    async def drain(self, *, at_once: bool = False) -> None:
        """Ends so that no call fails: waits, takes no more calls, lets those in progress end.

        ``at_once`` is for one that nobody knows of yet: it does not wait.
        """
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        if not at_once:
            await asyncio.sleep(self._settings.drain_delay)
        if self._listener is not None:
            self._listener.close()
        await runner.cleanup()

    def _connection(self) -> asyncio.Protocol:
        """What serves a new connection. The oldest idle one goes if there are too many.

        One whose body is still to come counts as idle, else strangers would take all there are.
        If none is idle, the new one is ended.
        """
        assert self._runner is not None  # noqa: S101 - set before it listens
        server = self._runner.server
        assert server is not None  # noqa: S101
        has_room = make_room(server, self._settings.most_connections, self._busy)
        return server() if has_room else TurnedAway()

    async def _with_fields(self, endpoint: Endpoint, request: web.Request) -> web.StreamResponse:
        fields = read_object(await _body_of(request))
        return await self._while_busy(partial(endpoint, fields), request)

    async def _while_busy(self, handle: Handler, request: web.Request) -> web.StreamResponse:
        self._busy.add(request.protocol)
        try:
            return await handle(request)
        finally:
            self._busy.discard(request.protocol)

    def _context(self) -> ssl.SSLContext | None:
        certificate = self._certificate
        return certificate.context("server.openai_address") if certificate else None

    def _application(self) -> web.Application:
        limit = self._settings.max_message_bytes
        application = web.Application(
            middlewares=[_errors_as_json, guard(self._host)],
            client_max_size=limit,
        )
        methods, models = self._methods, Models(self._methods)
        texts = Completions(methods, models, read_completion, CompletionForm())
        turns = Completions(methods, models, read_chat, ChatForm())
        embeddings = Embeddings(methods, models, limit, self._settings.max_batch_items)
        for name, endpoint in (
            ("embeddings", embeddings.answer),
            ("completions", texts.answer),
            ("chat/completions", turns.answer),
        ):
            handle = partial(self._with_fields, endpoint)
            handler = self._calls.of(f"openai/{name}", f"POST /v1/{name}", handle)
            application.router.add_post(f"/v1/{name}", handler)
        listing = self._calls.of(
            "openai/models", "GET /v1/models", partial(self._while_busy, models.list_all)
        )
        application.router.add_get("/v1/models", listing)
        retrieval = self._calls.of(
            "openai/models/retrieve",
            "GET /v1/models/{name}",
            partial(self._while_busy, models.retrieve),
        )
        application.router.add_get("/v1/models/{name:.+}", retrieval)
        return application


async def _body_of(request: web.Request) -> bytes:
    """Raises `ApiError`."""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise ApiError(408, f"the body has not come within {_BODY_SECONDS:g} s") from None
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(request.client_max_size) from error
    except web.RequestPayloadError:
        raise ApiError(400, "the body ends early, or is not framed as HTTP says") from None


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers what is refused before it reaches an endpoint."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPNotFound:
        return ApiError(404, "there is no such path here", code="unknown_url").response()
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        return ApiError(405, f"this path takes only {allowed}").response()
