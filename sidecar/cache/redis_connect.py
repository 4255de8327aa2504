"""Turns the address of a Redis into a client: one server, behind Sentinel, or a cluster."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import SplitResult, urlsplit

from redis.asyncio.client import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import ConnectionPool, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from sidecar.cache.redis_tls import RedisTls
from sidecar.files_in_use import FilesError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Client: TypeAlias = Redis | RedisCluster

_FORMS = (
    "redis://HOST:PORT/DB, rediss://HOST:PORT/DB (TLS), unix:///PATH?db=DB, "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://HOST:PORT,HOST:PORT"
)
_SENTINEL_PORT = 26379
_CLUSTER_PORT = 6379


class RedisUrlError(ValueError):
    """The address of the Redis cannot be used. The message names no secret."""


def connect(url: str, *, connect_timeout: float, password_file: Path | None = None) -> Client:
    """A client for ``url``; nothing is sent yet. The scheme decides the mode:

    ``redis://``, ``rediss://`` (TLS), ``unix://``: one server.
    ``redis+sentinel://``, ``rediss+sentinel://``: the primary that the Sentinels name. The user and
    password are for the servers; ``?sentinel_auth=true`` gives them to the Sentinels as well.
    ``redis+cluster://``, ``rediss+cluster://``: a cluster, found through any of the nodes.

    Options of TLS are query parameters, such as ``?ssl_ca_certs=/etc/ca.pem``. Their files are read
    again when they change, for connections that are made from then on.

    The client never retries, and limits only how long connecting takes (seconds): redis-py's own
    defaults, ten retries and 5 s for each reply, would outlast any deadline of ours. Whoever uses
    it sets the limit around the whole operation, as `WarmTier.run` does.

    Raises `RedisUrlError` for a bad address, `OSError` if the password file cannot be read.
    """
    parts = _split(url)
    base, _, mode = parts.scheme.partition("+")
    options = _options(parts, base) | {
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": connect_timeout,
        "decode_responses": False,
        # Nothing here needs push messages, and old servers have no others.
        "protocol": 2,
    }
    if password_file is not None:
        options["password"] = password_file.read_text().rstrip("\r\n")
    try:
        tls = RedisTls(options) if base == "rediss" else None
        if mode == "cluster":
            return _cluster(parts, options, tls)
        pool = _sentinel(parts, options, tls) if mode else _pool(options, tls)
        # Not connected, and let go again: it shows now whether the options are known.
        pool.make_connection()  # type: ignore[no-untyped-call]
    except TypeError:
        raise RedisUrlError(f"{redact(url)} has an option (?NAME=VALUE) that is unknown") from None
    except FilesError as error:
        raise RedisUrlError(f"TLS to {redact(url)} is not possible: {error}") from None
    return Redis.from_pool(pool)


def redact(url: str) -> str:
    """The address without user, password and query, fit for a log."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "***"
    place = re.split(r"[?#]", rest, maxsplit=1)[0]
    # A password that was not escaped may hold any of '/', '?', '#' and '@'.
    if "@" in rest:
        place = "***@" + re.split(r"[?#]", rest.rpartition("@")[2], maxsplit=1)[0]
    return f"{scheme}://{place}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise RedisUrlError(f"cannot read the Redis URL; use one of {_FORMS}") from None
    base, _, mode = parts.scheme.partition("+")
    known = base in ("redis", "rediss") and mode in ("", "sentinel", "cluster")
    if not known and parts.scheme != "unix":
        raise RedisUrlError(f"{redact(url)} is no Redis URL; use one of {_FORMS}")
    if parts.scheme == "unix" and not parts.path:
        raise RedisUrlError(f"{redact(url)} names no socket; use unix:///PATH")
    return parts


def _options(parts: SplitResult, base: str) -> dict[str, Any]:
    """What the URL says beyond hosts, as options of a connection."""
    place, database = parts.netloc, parts.path
    if parts.scheme != base:
        # One host is enough to have the rest of the URL read.
        place = parts.netloc.rpartition("@")[0] + "@localhost"
    if parts.scheme.endswith("+sentinel"):
        database = "/" + parts.path.strip("/").partition("/")[2]
    if base != "unix" and not re.fullmatch(r"/?\d*", database):
        raise RedisUrlError(f"the database in a Redis URL is a number; use one of {_FORMS}")
    try:
        return dict(parse_url(parts._replace(scheme=base, netloc=place, path=database).geturl()))
    except ValueError:
        # The reason may quote a part of a password that was not escaped.
        raise RedisUrlError(f"cannot read the Redis URL; use one of {_FORMS}") from None


def _pool(options: dict[str, Any], tls: RedisTls | None) -> ConnectionPool:
    if tls is not None:
        options["connection_class"] = tls.connection_class
    return ConnectionPool(**options)


def _sentinel(
    parts: SplitResult, options: dict[str, Any], tls: RedisTls | None
) -> SentinelConnectionPool:
    service = parts.path.strip("/").partition("/")[0]
    if not service:
        raise RedisUrlError(
            "a Sentinel URL needs the name of the service: redis+sentinel://HOST:PORT/SERVICE/DB"
        )
    shared = ["socket_connect_timeout", "retry", "protocol"]
    shared += [name for name in options if name.startswith("ssl_")]
    if options.pop("sentinel_auth", "") == "true":
        shared += ["username", "password"]
    options.pop("connection_class", None)
    options.pop("host", None)
    options["ssl"] = tls is not None
    shared.append("ssl")
    for_sentinels = {name: options[name] for name in shared if name in options}
    # Sentinels are asked one after the other: one that hangs must leave time for the next.
    for_sentinels["socket_timeout"] = options["socket_connect_timeout"]
    hosts = _hosts(parts.netloc, _SENTINEL_PORT)
    manager = Sentinel(hosts, sentinel_kwargs=for_sentinels)  # type: ignore[no-untyped-call]
    if tls is not None:
        tls.use_in_sentinels(manager)
        options["connection_class"] = tls.managed_connection_class
    return _OwningPool(service, manager, **options)  # type: ignore[no-untyped-call]


class _OwningPool(SentinelConnectionPool):
    """A pool that closes its Sentinel clients with itself; nobody else holds them."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def _cluster(parts: SplitResult, options: dict[str, Any], tls: RedisTls | None) -> RedisCluster:
    if options.pop("db", 0):
        raise RedisUrlError("a Redis cluster has no databases; leave the number out")
    options.pop("connection_class", None)
    options.pop("host", None)
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts.netloc, _CLUSTER_PORT)]
    cluster = RedisCluster(startup_nodes=nodes, ssl=tls is not None, **options)
    if tls is not None:
        tls.use_in_cluster(cluster)
    return cluster


def _hosts(netloc: str, default_port: int) -> Sequence[tuple[str, int]]:
    hosts = []
    for place in netloc.rpartition("@")[2].split(","):
        match = re.fullmatch(r"(\[[^]]+\]|[^:]+)(?::(\d+))?", place.strip())
        if match is None:
            raise RedisUrlError(f"a host in the Redis URL is not HOST:PORT; use one of {_FORMS}")
        hosts.append((match[1].strip("[]"), int(match[2] or default_port)))
    return hosts
