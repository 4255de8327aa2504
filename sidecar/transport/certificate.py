"""What a listener shows and asks for in TLS, replaced while it serves.

Certificates that end unnoticed are what takes services down. So the files are looked at again and
again: Kubernetes replaces all at once, by swapping a link. Connections that are open keep what they
were opened with.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from sidecar.files_in_use import FilesError, FilesInUse
from sidecar.transport.certificate_end import end_of
from sidecar.transport.handshakes import Handshakes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

# With forward secrecy and authenticated encryption; those of TLS 1.3 have both anyway.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_log = structlog.get_logger()


class CertificateMetrics:
    """When a certificate ends, and how its replacements went; names begin with ``prefix``."""

    def __init__(self, registry: CollectorRegistry, prefix: str) -> None:
        self.expiry = Gauge(
            f"{prefix}_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends.",
            registry=registry,
        )
        self.reloads = Counter(
            f"{prefix}_certificate_reloads",
            "Times that a new certificate was taken into use.",
            registry=registry,
        )
        self.failures = Counter(
            f"{prefix}_certificate_failures",
            "Times that a new certificate could not be used, and the one before stayed in use.",
            registry=registry,
        )


class Pem(NamedTuple):
    """The contents of the files: certificate with its chain, key, authorities of callers."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


class _Loaded(NamedTuple):
    pem: Pem
    contexts: Mapping[ssl.VerifyMode, ssl.SSLContext]
    end: datetime


class ServerCertificate:
    """A certificate and its key, in PEM, in files that may change.

    With ``client_ca``, callers are asked for a certificate that one of the authorities in that file
    has signed.

    Raises:
        FilesError: the files cannot be used.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        metrics: CertificateMetrics,
        client_ca: Path | None = None,
    ) -> None:
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self._metrics = metrics
        self._also_used_by: list[Callable[[Pem], None]] = []
        self.asks_callers = client_ca is not None
        """Whether callers are to show a certificate."""
        paths = [certificate, key] if client_ca is None else [certificate, key, client_ca]
        self._files = FilesInUse(paths, self._load)
        self._tell()

    @property
    def pem(self) -> Pem:
        """What is in use; the same object until it is replaced."""
        return self._files.value.pem

    def share(self, use: Callable[[Pem], None]) -> None:
        """Has something else use what is in use here, now and whenever it is replaced.

        A `ValueError` of ``use`` is raised now; later, what it refuses is not taken into use here
        either.
        """
        use(self.pem)
        self._also_used_by.append(use)

    def context(self, listener: str, *, optional: bool = False) -> ssl.SSLContext:
        """For what listens: each handshake gets the certificate in use by then.

        ``optional`` lets callers in who show no certificate. ``listener`` is what the log calls it.
        """
        mode = self._mode(optional=optional)
        outer = _context(mode)
        outer.sslobject_class = Handshakes(listener).watched()

        def choose(connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: object) -> None:
            connection.context = self._files.value.contexts[mode]

        outer.sni_callback = choose
        return outer

    async def follow(self, *, seconds: float | None = None) -> None:
        """Takes what the files hold into use whenever they change, until cancelled."""
        await self._files.follow(self._renewed, self._failed, seconds=seconds)

    def _mode(self, *, optional: bool) -> ssl.VerifyMode:
        if not self.asks_callers:
            return ssl.CERT_NONE
        return ssl.CERT_OPTIONAL if optional else ssl.CERT_REQUIRED

    def _load(self, contents: Sequence[bytes]) -> _Loaded:
        pem = Pem(contents[0], contents[1], contents[2] if self.asks_callers else None)
        end = end_of(pem.certificate)
        contexts = {}
        # Each mode needs its own: Python asks the context whether callers showed a certificate.
        for mode in {self._mode(optional=False), self._mode(optional=True)}:
            contexts[mode] = context = _context(mode)
            # Without a password, a key that has one would be asked for on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
            if self._client_ca is not None:
                _trust(context, self._client_ca)
        for use in self._also_used_by:
            use(pem)
        return _Loaded(pem, contexts, end)

    def _renewed(self) -> None:
        self._metrics.reloads.inc()
        self._tell()

    def _failed(self, error: FilesError) -> None:
        self._metrics.failures.inc()
        _log.error("the new certificate cannot be used", reason=str(error))

    def _tell(self) -> None:
        end = self._files.value.end
        self._metrics.expiry.set(end.timestamp())
        if end > datetime.now(UTC):
            _log.info("certificate in use", ends=end.isoformat())
        else:
            _log.error("the certificate in use has ended: callers refuse it", ended=end.isoformat())


def _context(mode: ssl.VerifyMode) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = mode
    if mode is not ssl.CERT_NONE:
        # Who resumes a session is not asked for a certificate again.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _trust(context: ssl.SSLContext, authorities: Path) -> None:
    try:
        context.load_verify_locations(cafile=authorities)
    except ssl.SSLError:
        raise ValueError(f"there is no certificate in {authorities}") from None
