"""Where the sidecar is, and how gRPC is told to behave towards it."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import urllib.parse
from dataclasses import dataclass

from embercache import _backoff
from embercache.errors import InvalidArgumentError

DEFAULT_ADDRESS = "127.0.0.1:50551"
MAX_MESSAGE_BYTES = 64 << 20

_HOST_AND_PORT = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/?#%@\[\]]+):([0-9]{1,5})")
_TLS = "tls://"
_SOCKET = re.compile(r"unix:(?://(?=/))?(/?[^/].*)")

# All of these can be repeated without harm. EmbedStream is not here: it is resumed by
# embercache._stream, which knows what was answered. Health is not: it is asked for the truth now.
_RETRIED = [
    {"service": "embercache.v1.EmbedService", "method": "Embed"},
    {"service": "embercache.v1.EmbedService", "method": "ListModels"},
    {"service": "embercache.v1.SearchService"},
    {"service": "embercache.v1.GenerateService"},  # a stream until its first message
    {"service": "embercache.v1.CacheService"},
]
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": _RETRIED,
            "retryPolicy": {
                "maxAttempts": _backoff.ATTEMPTS,
                "initialBackoff": f"{_backoff.INITIAL_SECONDS}s",
                "maxBackoff": f"{_backoff.MAX_SECONDS}s",
                "backoffMultiplier": _backoff.MULTIPLIER,
                # A server that ends may cancel a call that has only just reached it.
                "retryableStatusCodes": [*_backoff.TRANSIENT_CODES.values(), "CANCELLED"],
            },
        }
    ]
}

OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # gRPC forgets requests larger than this, and then cannot retry them; its default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A sidecar is next door: http_proxy in the environment is not meant for it.
    ("grpc.enable_http_proxy", 0),
    # A sidecar that restarts is back within seconds: look for it more often than gRPC would.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True)
class Place:
    """Where a sidecar is: ``target`` as gRPC takes it."""

    target: str
    is_encrypted: bool

    @property
    def is_private(self) -> bool:
        """Whether nobody else can read what is sent there."""
        return self.is_encrypted or self.target.startswith("unix:") or _is_loopback(self.target)


def place(address: str | None) -> Place:
    """The address given, else ``EMBERCACHE_ADDRESS``, else the default.

    Raises `InvalidArgumentError` if it is none of ``host:port``, ``tls://host:port`` and
    ``unix:PATH``.
    """
    chosen = address or os.environ.get("EMBERCACHE_ADDRESS") or DEFAULT_ADDRESS
    rest = chosen.removeprefix(_TLS)
    if (match := _HOST_AND_PORT.fullmatch(rest)) and 0 < int(match[1]) < 65536:
        return Place(rest, is_encrypted=rest != chosen)
    if match := _SOCKET.fullmatch(chosen):
        # gRPC takes it for part of a URI.
        return Place("unix:" + urllib.parse.quote(match[1]), is_encrypted=False)
    source = "the address" if address else "EMBERCACHE_ADDRESS"
    raise InvalidArgumentError(
        f"{source} is {chosen!r}; write host:port (1 to 65535), tls://host:port for TLS,"
        " unix:///absolute/path or unix:path"
    )


def _is_loopback(target: str) -> bool:
    host = target.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
