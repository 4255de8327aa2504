"""How gRPC servers that are called are checked, and what is shown to them, in TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import grpc
import structlog

from sidecar.files_in_use import FilesError, FilesInUse
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_log = structlog.get_logger()


class UpstreamTls:
    """Credentials of channels, made of files that may change.

    Args:
        ca: certificates of the authorities that servers' are checked with; None for the system's.
        certificate: what is shown to servers, with its key in ``key``; None for nothing.
        server_name: the name that servers' certificates must have; empty for that of the target.

    Raises:
        SetupError: the files cannot be used.
    """

    def __init__(
        self,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        server_name: str = "",
    ) -> None:
        self.server_name = server_name
        self._ca, self._certificate, self._key = ca, certificate, key
        self._told: list[Callable[[], None]] = []
        paths = [path for path in (ca, certificate, key) if path is not None]
        try:
            self._files = FilesInUse(paths, self._load, "upstream_certificates")
        except FilesError as error:
            raise SetupError(f"section upstream_tls: {error}") from None

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """For channels that are opened from now on."""
        return self._files.value

    def subscribe(self, told: Callable[[], None]) -> None:
        """Tells whenever there are other credentials."""
        self._told.append(told)

    def unsubscribe(self, told: Callable[[], None]) -> None:
        """Ends what `subscribe` began."""
        self._told.remove(told)

    async def follow(self) -> None:
        """Makes other credentials whenever the files change, until cancelled."""
        await self._files.follow(self._renewed, self._failed)

    def _load(self, contents: Sequence[bytes]) -> grpc.ChannelCredentials:
        # gRPC would say of files that are no good only that nobody can be reached.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        left = list(contents)
        ca = certificate = key = None
        if self._ca is not None:
            context.load_verify_locations(cafile=self._ca)
            ca = left.pop(0)
        if self._certificate is not None and self._key is not None:
            context.load_cert_chain(self._certificate, self._key, password="")
            certificate, key = left
        return grpc.ssl_channel_credentials(ca, key, certificate)

    def _renewed(self) -> None:
        for told in list(self._told):
            told()

    def _failed(self, error: FilesError) -> None:
        _log.error("the new certificates for upstreams cannot be used", reason=str(error))
