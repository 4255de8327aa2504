"""How spans name the servers that are called."""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=64)
def grpc_server(target: str) -> dict[str, str | int]:
    """The attributes of a target of gRPC; several addresses stay as they are."""
    scheme, separator, rest = target.partition(":")
    if separator and scheme == "unix":
        return {"server.address": "/" + rest.lstrip("/") if rest.startswith("/") else rest}
    address = target.rpartition("/")[2]
    host, _, port = address.rpartition(":")
    if "," in address or not host or not port.isdecimal():
        return {"server.address": address}
    return {"server.address": host.strip("[]"), "server.port": int(port)}


@lru_cache(maxsize=64)
def http_server(root: str) -> dict[str, str | int]:
    """The attributes of the server of a URL."""
    parts = urlsplit(root)
    port = parts.port or _PORTS[parts.scheme]
    return {"server.address": parts.hostname or "", "server.port": port}
