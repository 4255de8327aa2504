"""TLS towards Redis, with files that are read again when they change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.exceptions import RedisError

from sidecar.files_in_use import FilesError, FilesInUse

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

    from redis.asyncio.cluster import RedisCluster
    from redis.asyncio.connection import RedisSSLContext
    from redis.asyncio.sentinel import Sentinel

_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

_log = structlog.get_logger()


class RedisTls:
    """One context for all connections that are made with the same options.

    redis-py makes one for each, which takes some 20 ms of the event loop where the system's
    authorities are read, and keeps it whatever becomes of its files.

    Raises:
        FilesError: the files, or other options, cannot be used.
        TypeError: there is no such option.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        chosen = {name: value for name, value in options.items() if name.startswith("ssl_")}
        try:
            self._made: RedisSSLContext = SSLConnection(**chosen).ssl_context
        except RedisError as error:
            raise FilesError(str(error)) from None
        paths = [Path(options[name]) for name in _FILES if options.get(name)]
        self._files = FilesInUse(paths, self._load, "redis_certificates")
        shared = self

        class Connection(SSLConnection):
            """A connection that looks at the files before each handshake."""

            def _connection_arguments(self) -> Mapping[str, Any]:
                # Not in `connect`, which is not what connects anew.
                self.ssl_context.context = shared.context()
                arguments: Mapping[str, Any] = super()._connection_arguments()
                return arguments

        class ManagedConnection(SentinelManagedConnection, Connection):
            """The same, to the primary that a Sentinel names."""

        self.connection_class = Connection
        self.managed_connection_class = ManagedConnection

    def context(self) -> ssl.SSLContext:
        """What the files hold now, or held when they could last be used."""
        try:
            if self._files.look():
                _log.info("new certificates for Redis are in use")
        except FilesError as error:
            _log.error("the new certificates for Redis cannot be used", reason=str(error))
        return self._files.value

    def use_in_cluster(self, client: RedisCluster) -> None:
        """Has its connections made so: it does not take their class from outside."""
        client.connection_kwargs["connection_class"] = self.connection_class
        for node in client.startup_nodes:
            node.connection_class = self.connection_class

    def use_in_sentinels(self, manager: Sentinel) -> None:
        """Has the connections to Sentinels made so."""
        for client in manager.sentinels:
            client.connection_pool.connection_class = self.connection_class

    def _load(self, _: Sequence[bytes]) -> ssl.SSLContext:
        self._made.context = None
        try:
            return self._made.get()
        except RedisError as error:
            raise ValueError(str(error)) from None
