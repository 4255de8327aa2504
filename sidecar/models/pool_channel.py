"""The channel to a pool of encoders, and what its errors mean."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import common_pb2

from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
    TooLateError,
)
from sidecar.models.upstream_channel import UpstreamChannel
from sidecar.models.upstream_faults import fault
from sidecar.trailers import DEADLINE, PUSHBACK, REASON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.models.upstream_channel import UpstreamAccess

_MAX_MESSAGE_BYTES = 64 * 2**20

# Computing changes nothing on the other side, so a call may be repeated. Not when the encoder is
# overloaded: the caller must hear of that. A replica with another version of the model may stand
# beside one with the right version while a pool is being updated.
# Repetitions are a tenth of the calls that succeed, and 500 besides, for a replica that dies with
# that many in its hands: then none is made until calls succeed again (gRFC A6).
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [
                {"service": "embercache.v1.EmbedService"},
                {"service": "embercache.v1.SearchService", "method": "Rerank"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                # An encoder that ends may cancel what has just arrived. UNKNOWN is what gRPC makes
                # of bytes that are not its own: the connection is broken, and so closed.
                "retryableStatusCodes": [
                    *("UNAVAILABLE", "CANCELLED", "UNKNOWN"),
                    "FAILED_PRECONDITION",
                ],
            },
        }
    ],
}

KEEPALIVE: Sequence[tuple[str, int]] = (
    # While calls are under way: a connection that is dead without a word is given up after five
    # seconds, and its calls are repeated on another. Without it, TCP takes minutes.
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    # What counts with grpcio 1.85, which waits a minute otherwise, whatever the one above says.
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
)

UNCACHED = common_pb2.CacheOptions(mode=common_pb2.CACHE_MODE_BYPASS)
"""For all calls: the sidecar that asks has a cache of its own."""

AWAY = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # An encoder that ends before its calls do cancels them.
        grpc.StatusCode.CANCELLED,
        # What came was no answer of an encoder.
        grpc.StatusCode.UNKNOWN,
    }
)
"""How calls end that no encoder has answered."""

_ITEM_ERRORS: dict[int, type[ModelError]] = {
    grpc.StatusCode.INVALID_ARGUMENT.value[0]: InputRejectedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]: QueueFullError,
    grpc.StatusCode.UNAVAILABLE.value[0]: ModelUnavailableError,
}


def open_channel(target: str, access: UpstreamAccess) -> UpstreamChannel:
    """Opens a channel whose calls go to the replicas in turn.

    ``target`` is a gRPC address (``dns:///encoders:50551`` for all replicas behind a name) or
    numeric addresses with commas between.
    """
    return UpstreamChannel(
        _grpc_target(target),
        access=access,
        options=[
            ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
            ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            # A request that does not fit in here is never sent again; the default is 256 KiB.
            ("grpc.per_rpc_retry_buffer_size", _MAX_MESSAGE_BYTES),
            # A replica that has come back must be found before the next one goes, which still
            # answers for its server.drain_delay: else no replica is left, though all are there.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
            # How long an attempt may take: with TLS, over a long way, several round trips.
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.dns_min_time_between_resolutions_ms", 5000),
            *KEEPALIVE,
        ],
    )


def _grpc_target(target: str) -> str:
    addresses = [address.strip() for address in target.split(",")]
    if len(addresses) == 1:
        return addresses[0]
    family = "ipv6" if addresses[0].startswith("[") else "ipv4"
    return f"{family}:{','.join(addresses)}"


def call_error(error: grpc.aio.AioRpcError, target: str, timeout: float) -> ModelError:
    """What the end of a whole call means to each of its items."""
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            kind = TooLateError if _trailer(error, REASON) == DEADLINE else QueueFullError
            return kind(details, retry_after=_retry_after(error))
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED | grpc.StatusCode.UNKNOWN:
            why = fault(error.code(), details)
            return ModelUnavailableError(
                f"the encoder at {target} cannot be reached{f' ({why})' * bool(why)}: try again"
                " later"
            )
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED as code:
            return ModelError(f"the encoder at {target} refuses calls: {fault(code, details)}")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return ModelUnavailableError(
                f"the encoder took longer than encoder.timeout, {timeout:g} s"
            )
        case code:
            return ModelError(f"the encoder failed with {code.name}: {details}")


def _retry_after(error: grpc.aio.AioRpcError) -> float | None:
    """When the encoder asks for the next call, in seconds."""
    told = _trailer(error, PUSHBACK)
    return int(told) / 1000 if told.isdecimal() else None


def _trailer(error: grpc.aio.AioRpcError, name: str) -> str:
    """What an encoder says of the end of a call under this name; empty if it says nothing."""
    values = (str(value) for key, value in error.trailing_metadata() or () if key == name)
    return next(values, "")


def item_error(error: common_pb2.ItemError) -> ModelError:
    """What the error of one item means."""
    return _ITEM_ERRORS.get(error.code, ModelError)(error.message)
