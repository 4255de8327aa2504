"""Everything that this client raises.

::

    EmbercacheError
    ├── InvalidArgumentError      (also a ValueError)
    ├── ModelNotFoundError
    ├── NotCachedError
    ├── FailedPreconditionError
    │   └── VersionMismatchError
    ├── OverloadedError
    ├── UnavailableError
    ├── DeadlineExceededError     (also a TimeoutError)
    ├── UnauthenticatedError
    ├── PermissionDeniedError
    ├── InternalError
    ├── ClientClosedError
    └── PartialFailureError

An argument of the wrong Python type raises `TypeError`, as everywhere else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embercache.v1 import common_pb2


class EmbercacheError(Exception):
    """A call, or one input of a call, failed.

    - ``code``: the name of the gRPC status code, such as ``"UNAVAILABLE"``;
    - ``message``: what was wrong and what to do about it;
    - ``details``: what gRPC knows of the failed call, for a bug report; may be empty;
    - ``index``: the place of the input that failed, ``None`` if the whole call did.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: str = "",
        index: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.details = details
        self.index = index

    def __str__(self) -> str:
        where = "" if self.index is None else f"input {self.index}: "
        return f"{where}{self.message} ({self.code})"


class InvalidArgumentError(EmbercacheError, ValueError):
    """An argument is wrong; trying again is of no use."""

    default_code = "INVALID_ARGUMENT"


class ModelNotFoundError(EmbercacheError):
    """The sidecar has no model of that name. `Client.models` lists those it has."""

    default_code = "NOT_FOUND"


class NotCachedError(EmbercacheError):
    """The input is not cached, and the call asked for cached answers only."""

    default_code = "NOT_FOUND"


class FailedPreconditionError(EmbercacheError):
    """The sidecar cannot do this as things are; the message says what is missing."""

    default_code = "FAILED_PRECONDITION"


class VersionMismatchError(FailedPreconditionError):
    """The model is another version than asked for, or changed while the call ran."""


class OverloadedError(EmbercacheError):
    """The encoder's queue is full, or a message is too large. Retries have not helped."""

    default_code = "RESOURCE_EXHAUSTED"


class UnavailableError(EmbercacheError):
    """The sidecar, or the encoder behind it, cannot be reached. Retries have not helped."""

    default_code = "UNAVAILABLE"


class DeadlineExceededError(EmbercacheError, TimeoutError):
    """The answer did not come in time."""

    default_code = "DEADLINE_EXCEEDED"


class UnauthenticatedError(EmbercacheError):
    """The sidecar does not know the caller."""

    default_code = "UNAUTHENTICATED"


class PermissionDeniedError(EmbercacheError):
    """The caller may not do this."""

    default_code = "PERMISSION_DENIED"


class InternalError(EmbercacheError):
    """The sidecar failed, or gave an answer that makes no sense."""

    default_code = "INTERNAL"


class ClientClosedError(EmbercacheError):
    """The client was used after it was closed."""

    default_code = "CANCELLED"


class BulkResult(Protocol):
    """What a call returns that carries many items."""

    @property
    def errors(self) -> Mapping[int, EmbercacheError]:
        """The items that failed, by their place in the call."""
        ...

    def __len__(self) -> int: ...


_Result = TypeVar("_Result", bound=BulkResult)


class PartialFailureError(EmbercacheError, Generic[_Result]):
    """Some inputs of a call failed. ``result`` is what the call returns otherwise, with all that
    was answered: `EmbedResult`, `UpsertResult` or `RerankResult`.

    ``errors`` maps the place of each input that failed to its own error; ``code`` is that of
    the first.
    """

    def __init__(self, result: _Result) -> None:
        first = next(iter(result.errors.values()))
        super().__init__(
            f"{len(result.errors)} of {len(result)} inputs failed, the first with: {first}; "
            "this error's .result has the rest",
            code=first.code,
        )
        self.args = (result,)  # what pickle calls the class with
        self.result = result

    @property
    def errors(self) -> Mapping[int, EmbercacheError]:
        """The inputs that failed, by their place in the call."""
        return self.result.errors

    def __str__(self) -> str:
        return self.message


Classes: TypeAlias = "Mapping[str, type[EmbercacheError]]"

CALL_CLASSES: Classes = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "NOT_FOUND": ModelNotFoundError,
    "FAILED_PRECONDITION": VersionMismatchError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "INTERNAL": InternalError,
    "UNKNOWN": InternalError,
    "DATA_LOSS": InternalError,
}
"""The error for each status of a call."""

CACHED_CLASSES: Classes = {**CALL_CLASSES, "NOT_FOUND": NotCachedError}
"""The same for one item, and for a call for what is cached only."""

JOB_CLASSES: Classes = {**CALL_CLASSES, "FAILED_PRECONDITION": FailedPreconditionError}
"""The same for a long job of the sidecar."""

_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


def closed_error() -> ClientClosedError:
    """The error of a call on a client that was closed."""
    return ClientClosedError("this client is closed; make a new one")


def from_rpc(error: grpc.RpcError, classes: Classes) -> EmbercacheError:
    """The error of a call that gRPC ended."""
    code = error.code().name
    debug = getattr(error, "debug_error_string", str)
    # On a stream that was cancelled on this side, gRPC would wait for it for ever.
    details = "" if code == "CANCELLED" else debug() or ""
    return classes.get(code, EmbercacheError)(
        error.details() or "no reason was given", code=code, details=details
    )


def from_batch(error: common_pb2.ItemError) -> EmbercacheError:
    """The error that answered one whole request of a stream."""
    code = _NAMES.get(error.code, "UNKNOWN")
    return CALL_CLASSES.get(code, EmbercacheError)(error.message, code=code)


def from_item(error: common_pb2.ItemError, index: int) -> EmbercacheError:
    """The error of the input at ``index``."""
    code = _NAMES.get(error.code, "UNKNOWN")
    return CACHED_CLASSES.get(code, EmbercacheError)(error.message, code=code, index=index)
