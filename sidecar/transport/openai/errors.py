"""Errors as OpenAI writes them: an HTTP status and ``{"error": {...}}``."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import grpc

from sidecar.services.errors import CallError, as_call_error
from sidecar.transport.openai.answers import dump, respond

if TYPE_CHECKING:
    from aiohttp import web

_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_RETRY_AFTER_SECONDS = 1.0
# Models are looked up before a service is called: what it does not find is an entry.
_CODES = {
    grpc.StatusCode.NOT_FOUND: "not_cached",
    grpc.StatusCode.UNAUTHENTICATED: "invalid_api_key",
    grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
}
# The services name fields as their own requests have them.
_SAMPLING = re.compile(r"sampling\.([a-z_]+)")
_OTHER_NAMES = {"stop_tokens": "stop_token_ids"}


class ApiError(Exception):
    """The end of a call with an HTTP status of 400 or more.

    ``param`` names the field that is wrong, ``code`` is for programs, and ``reason`` is the status
    under which the call is counted. ``retry_after`` is when to try again, in seconds.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        reason: str = grpc.StatusCode.INVALID_ARGUMENT.name,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self._retry_after = retry_after
        self._body = {"message": message, "type": _kind(status), "param": param, "code": code}

    def body(self) -> dict[str, object]:
        """The error as JSON."""
        return {"error": self._body}

    def response(self) -> web.Response:
        """The error as a response."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        again = self._retry_after
        if again is None and self.status == 429:
            again = _RETRY_AFTER_SECONDS
        if again is not None:
            # In whole seconds, and not 0, which clients take for no answer.
            headers["Retry-After"] = str(max(1, math.ceil(again)))
        return respond(dump(self.body()), status=self.status, headers=headers)


def bad_field(param: str, message: str) -> ApiError:
    """A field of the request is wrong; trying again is of no use."""
    return ApiError(400, f"{param}: {message}", param=param)


def model_not_found(names: str) -> ApiError:
    """The model that the call names is none of ``names``."""
    choice = f"choose one of {names}" if names else "there is none of this kind"
    return ApiError(
        404,
        f"no such model here: {choice}",
        param="model",
        code="model_not_found",
        reason=grpc.StatusCode.NOT_FOUND.name,
    )


def too_large(limit: int) -> ApiError:
    """The request has more bytes than are taken."""
    return ApiError(
        413,
        f"the request has more than the {limit} bytes allowed: split it, or raise"
        " server.max_message_bytes",
        reason=grpc.StatusCode.RESOURCE_EXHAUSTED.name,
    )


def as_api_error(error: Exception) -> ApiError:
    """Any error of a call, or of the services, as an answer."""
    if isinstance(error, ApiError):
        return error
    failure = as_call_error(error)
    status, code = _STATUSES.get(failure.code, 500), _CODES.get(failure.code)
    message, param = failure.message, None
    if field := _SAMPLING.match(message):
        param = _OTHER_NAMES.get(field[1], field[1])
        message = param + message[field.end() :]
    return ApiError(
        status,
        message,
        param=param,
        code=code,
        reason=failure.code.name,
        retry_after=failure.retry_after,
    )


def item_error(number: int, message: str) -> ApiError:
    """The error of one item, whose code is numbered as ``google.rpc.Code``."""
    return as_api_error(CallError(_BY_NUMBER.get(number, grpc.StatusCode.UNKNOWN), message))


def _kind(status: int) -> str:
    if status >= 500:
        return "server_error"
    return "rate_limit_error" if status == 429 else "invalid_request_error"
