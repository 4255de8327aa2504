"""Calls to an OpenAI-compatible service, through the SDK of OpenAI, and what their errors mean."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any, TypeVar

import openai
import structlog

from sidecar import __version__
from sidecar.models.openai_bounds import UnboundedAnswerError, bound, bound_of, most_bytes
from sidecar.models.openai_repeats import Repeats, asked_pause
from sidecar.models.openai_tls import OpenAITls, tls_fault
from sidecar.models.replaceable import Replaceable
from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
)
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from sidecar.models.openai_key import OpenAIKey
    from sidecar.models.openai_target import OpenAITarget

T = TypeVar("T")

_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 5.0

# Of the headers that the SDK and its HTTP client make up, those that are sent.
_KEPT_HEADERS = frozenset({"connection", "content-length"})

_LOGGERS = ("openai", "httpx", "httpcore", "httpx2", "httpcore2")

# What may be shown of a service's error: its message may quote the input.
_IDENTIFIER = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_log = structlog.get_logger()


class RefusedError(InputRejectedError):
    """The service refuses a request. ``code`` and ``param`` are what it says of that, or empty."""

    def __init__(self, message: str, code: str, param: str) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class OpenAIClient:
    """Calls to one service; used from one event loop only.

    A call that may succeed later is repeated up to ``retries`` times, as the service asks for or
    with growing pauses, but not once an answer has begun. Repetitions are few beside the calls, and
    a service that fails again and again is left alone for a while: see `Repeats`. ``timeout`` is
    the longest wait for the next byte, in seconds; an answer has a largest size. Of the
    environment, only ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` count, if ``tls`` is None: no proxy,
    nothing that begins with ``OPENAI_``.
    """

    def __init__(
        self,
        target: OpenAITarget,
        key: OpenAIKey,
        *,
        timeout: float,
        retries: int,
        tls: OpenAITls | None = None,
    ) -> None:
        self.target = target
        self._key = key
        self._timeout = timeout
        self._tls = tls or OpenAITls()
        self._fault = ""
        self._repeats = Repeats(target.host, retries, self._answers)
        self._sdks = Replaceable(self._open(), openai.AsyncOpenAI.close)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Makes a call and returns the JSON value that is the answer.

        Raises `RefusedError` if the service does not take what is in ``body``, else `ModelError`.
        """
        most_bytes.set(bound_of(body))
        try:
            with (
                current().call("http", f"POST {path}", self.target.base_url),
                self._sdks.use() as sdk,
            ):
                answer = await self._authorised(
                    lambda: sdk.post(path, cast_to=object, body=dict(body))
                )
        except (openai.OpenAIError, ValueError) as error:
            raise self._explain(error, str(body["model"])) from None
        self._repeats.succeeded()
        return answer

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Makes a call and yields the JSON values of its events. Raises as `post` does.

        To be closed: that ends the call.
        """
        most_bytes.set(bound_of(body))
        try:
            with (
                current().call("http", f"POST {path}", self.target.base_url),
                self._sdks.use() as sdk,
            ):
                events = await self._authorised(
                    lambda: sdk.post(
                        path,
                        cast_to=object,
                        body=dict(body),
                        stream=True,
                        stream_cls=openai.AsyncStream[object],
                    )
                )
                try:
                    async with events:
                        async for event in events:
                            yield event
                except openai.OpenAIError as error:
                    self._repeats.failed(error)
                    raise
        except (openai.OpenAIError, ValueError) as error:
            raise self._explain(error, str(body["model"])) from None
        self._repeats.succeeded()

    async def close(self) -> None:
        """Closes the connections."""
        await self._repeats.close()
        await self._sdks.close()

    def renew(self) -> None:
        """Makes connections with other certificates from now on; calls under way go on."""
        self._sdks.replace(self._open())
        _log.info("new certificates are in use", target=self.target.host)

    def _open(self) -> openai.AsyncOpenAI:
        limits = openai.Timeout(self._timeout, connect=min(self._timeout, _CONNECT_SECONDS))
        return openai.AsyncOpenAI(
            base_url=self.target.base_url,
            # Without one, the SDK looks for it; what is sent is set below.
            api_key="none",
            timeout=limits,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                # Texts and the key go to this service only, and by no proxy of the environment.
                follow_redirects=False,
                trust_env=False,
                verify=self._tls.value,
                timeout=limits,
                event_hooks={"request": [self._set_headers], "response": [self._note_answer]},
            ),
        )

    async def _authorised(self, call: Callable[[], Awaitable[T]]) -> T:
        """Makes a call, and once more if the key was refused and there is another one by now."""
        sent = self._key.value
        try:
            return await self._repeats.run(call)
        except openai.AuthenticationError:
            if not await self._key.has_changed(since=sent):
                raise
            return await self._repeats.run(call)

    async def _answers(self) -> bool:
        """Whether the service answers a call that costs it nothing; it need not know the path."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                with self._sdks.use() as sdk:
                    await sdk.get("/models", cast_to=object)
        except openai.APIStatusError as error:
            return error.status_code < 500
        except (TimeoutError, openai.OpenAIError) as error:
            # A long list of models is an answer, too.
            return isinstance(error.__cause__, UnboundedAnswerError)
        except ValueError:
            # Whatever it is, it is an answer.
            return True
        return True

    async def _note_answer(self, response: Any) -> None:
        self._fault = ""
        bound(response)
        current().answered(response.status_code)

    async def _set_headers(self, request: Any) -> None:
        # The SDK would add what its environment variables say, and what the machine is.
        for name in set(request.headers) - _KEPT_HEADERS:
            del request.headers[name]
        request.headers.update(
            {
                "Host": self.target.host,
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": f"embercache/{__version__}",
            }
        )
        # A caller's tracestate is for our own servers only; and calls of several callers may share
        # this one.
        if traceparent := dict(current().headers()).get("traceparent"):
            request.headers["traceparent"] = traceparent
        if self._key.value:
            request.headers["Authorization"] = f"Bearer {self._key.value}"

    def _explain(self, error: Exception, model: str) -> ModelError:
        host = self.target.host
        unbounded = error.__cause__ or error
        if isinstance(unbounded, UnboundedAnswerError):
            return ModelError(f"{host} sent {unbounded}: is it what it should be?")
        match error:
            case openai.APITimeoutError():
                return ModelUnavailableError(
                    f"{host} sent nothing for openai.timeout, {self._timeout:g} s"
                )
            case openai.APIConnectionError():
                return ModelUnavailableError(
                    f"{host} cannot be reached, or broke off{self._tls_fault(error)}: try again"
                    " later"
                )
            case openai.APIStatusError():
                return self._explain_status(error, model)
            case openai.APIError():
                return ModelUnavailableError(
                    f"{host} broke off its answer with an error{_shown(error.code or error.type)}:"
                    " try again later"
                )
            case _:
                return ModelError(f"{host} answered with what is not JSON: is its path right?")

    def _tls_fault(self, error: Exception) -> str:
        """What TLS has against the connection, in brackets; logged once, until it is answered."""
        found = tls_fault(error)
        if found and found != self._fault:
            self._fault = found
            _log.warning("calls to an upstream fail", target=self.target.host, reason=found)
        return f" ({found})" if found else ""

    def _explain_status(self, error: openai.APIStatusError, model: str) -> ModelError:
        status, said = error.status_code, _shown(error.code or error.type, error.param)
        what = f"{self.target.host} answered with status {status}{said}"
        match status:
            case 400 | 413 | 422:
                return RefusedError(
                    f"{what}: it does not take this input, or an option of the call",
                    _identifier(error.code),
                    _identifier(error.param),
                )
            case 403 if error.code == "host":
                # Another sidecar, which takes no names: see `sidecar.transport.openai.guard`.
                return ModelError(f"{what}: write its IP address into the target, or localhost")
            case 401 | 403:
                return ModelError(f"{what}: check openai.key, or the file openai.key_file")
            case 404:
                return ModelError(f"{what}: check its path, and whether it has a model {model}")
            case 429:
                return QueueFullError(
                    f"{what}, too many calls: try again later", retry_after=asked_pause(error)
                )
            case 408 | 409:
                return ModelUnavailableError(f"{what}: try again later")
            case _ if status >= 500:
                return ModelUnavailableError(f"{what}: try again later")
            case _ if status < 400:
                return ModelError(f"{what}: it is elsewhere; set its address to where it leads")
            case _:
                return ModelError(what)


def _identifier(value: object) -> str:
    text = "" if value is None else str(value)
    return text if _IDENTIFIER.fullmatch(text) else ""


def _shown(*values: object) -> str:
    shown = ", ".join(text for value in values if (text := _identifier(value)))
    return f" ({shown})" if shown else ""
