"""Statuses and headers of errors of the OpenAI-compatible API."""

from __future__ import annotations

import grpc
import pytest

from sidecar.models.types import QueueFullError
from sidecar.services.errors import CallError
from sidecar.transport.openai.errors import as_api_error

EXHAUSTED, AWAY = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (CallError(EXHAUSTED, "", retry_after=3.2), "4"),
        (CallError(EXHAUSTED, "", retry_after=0.05), "1"),
        (CallError(EXHAUSTED, "", retry_after=0.0), "1"),
        (CallError(EXHAUSTED, ""), "1"),
        (QueueFullError("", retry_after=7), "7"),
        (CallError(AWAY, "", retry_after=2), "2"),
        (CallError(AWAY, ""), None),
        (CallError(grpc.StatusCode.INVALID_ARGUMENT, ""), None),
    ],
)
def test_a_client_is_told_in_whole_seconds_when_to_try_again(
    error: Exception, says: str | None
) -> None:
    assert as_api_error(error).response().headers.get("Retry-After") == says


def test_who_is_not_known_is_told_how_to_show_who_he_is() -> None:
    failure = as_api_error(CallError(grpc.StatusCode.UNAUTHENTICATED, "why"))
    response = failure.response()
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert failure.body() == {
        "error": {
            "message": "why",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }


def test_who_may_not_do_something_is_not_asked_to_show_who_he_is() -> None:
    response = as_api_error(CallError(grpc.StatusCode.PERMISSION_DENIED, "")).response()
    assert response.status == 403
    assert "WWW-Authenticate" not in response.headers
