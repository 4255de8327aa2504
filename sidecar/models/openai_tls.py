"""TLS towards an OpenAI-compatible service, with files that may change."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

import structlog

from sidecar.files_in_use import FilesError, FilesInUse
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_log = structlog.get_logger()


class OpenAITls:
    """Who vouches for the service, and what is shown to it.

    Without files, those vouch for it whom OpenSSL's variables name, else the system. ``value`` is
    for connections that are made from now on.

    Raises:
        SetupError: the files cannot be used.
    """

    def __init__(
        self, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        if (certificate is None) != (key is None):
            raise SetupError("set openai.cert_file and openai.cert_key_file, or neither")
        self._ca, self._certificate, self._key = ca, certificate, key
        paths = [path for path in (ca, certificate, key) if path is not None]
        try:
            self._files = FilesInUse(paths, self._load, "upstream_certificates")
        except FilesError as error:
            raise SetupError(f"openai.ca_file, cert_file, cert_key_file: {error}") from None

    @property
    def value(self) -> ssl.SSLContext | bool:
        """What the SDK's HTTP client calls ``verify``."""
        return self._files.value

    async def follow(self, renewed: Callable[[], None]) -> None:
        """Tells whenever there is another value, until cancelled."""
        await self._files.follow(renewed, self._failed)

    def _load(self, _: Sequence[bytes]) -> ssl.SSLContext | bool:
        if self._ca is None and self._certificate is None:
            named = any(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
            return ssl.create_default_context() if named else True
        context = ssl.create_default_context(cafile=self._ca)
        if self._certificate is not None:
            context.load_cert_chain(self._certificate, self._key, password="")
        return context

    def _failed(self, error: FilesError) -> None:
        _log.error("the new certificates for upstreams cannot be used", reason=str(error))


def tls_fault(error: BaseException | None) -> str:
    """What TLS has against a connection; empty if that is not why there is none."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {error.verify_message}"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason or 'it broke off'}"
        error = error.__cause__ or error.__context__
    return ""
