"""From the errors of the inner layers to the statuses that callers see: the only place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import structlog

from sidecar.access.quotas import QuotaExceededError
from sidecar.cache.generations import InvalidationNotSharedError
from sidecar.cache.items import NotCachedError
from sidecar.index.types import IndexFullError, IndexSetupError, IndexUnavailableError
from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
    TooLateError,
    VersionChangedError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = structlog.get_logger()

_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (NotCachedError, grpc.StatusCode.NOT_FOUND),
    (InputRejectedError, grpc.StatusCode.INVALID_ARGUMENT),
    (QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (QuotaExceededError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (ModelUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (VersionChangedError, grpc.StatusCode.FAILED_PRECONDITION),
    (InvalidationNotSharedError, grpc.StatusCode.UNAVAILABLE),
    (IndexSetupError, grpc.StatusCode.FAILED_PRECONDITION),
    (IndexFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (IndexUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (ModelError, grpc.StatusCode.INTERNAL),
)

RETRYABLE = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE})
"""Statuses that say nothing about the input: the same call may succeed later."""


class CallError(Exception):
    """The end of a call, or of one item, with a status other than OK.

    ``retry_after`` is when to try again, in seconds, where that is known. ``is_late`` tells that it
    was refused for its deadline.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        retry_after: float | None = None,
        is_late: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.is_late = is_late

    @property
    def number(self) -> int:
        """The status as ``google.rpc.Code`` numbers it."""
        number: int = self.code.value[0]
        return number


def invalid(message: str) -> CallError:
    """The caller's request is wrong; trying again is of no use."""
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, message)


def as_call_error(error: Exception) -> CallError:
    """The status and message for any error of the inner layers.

    An error that is not of their documented kinds is a fault of ours: it is logged here and its
    own message, which may hold anything, is kept from the caller.
    """
    if isinstance(error, CallError):
        return error
    for kind, code in _CODES:
        if isinstance(error, kind):
            return CallError(
                code,
                str(error),
                retry_after=_retry_after(error),
                is_late=isinstance(error, TooLateError),
            )
    _log.error("unexpected error", exc_info=error)
    return CallError(
        grpc.StatusCode.INTERNAL, "an error inside the sidecar; its log has the details"
    )


def _retry_after(error: Exception) -> float | None:
    return error.retry_after if isinstance(error, QueueFullError | QuotaExceededError) else None


def raise_if_all_may_be_retried(results: Sequence[object]) -> None:
    """Ends the call itself where that is all there is to say, so that clients' retries apply."""
    failures = [result for result in results if isinstance(result, CallError)]
    if not failures or len(failures) < len(results):
        return
    if failures[0].code in RETRYABLE and len({failure.code for failure in failures}) == 1:
        raise failures[0]
