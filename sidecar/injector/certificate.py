"""The webhook's certificate, replaced while it serves.

Certificates that end unnoticed are what takes admission webhooks down. So the files are looked at
twice a second: Kubernetes replaces both at once, by swapping a link. Connections that are open keep
what they were opened with.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import structlog

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.injector.metrics import InjectorMetrics

_POLL_SECONDS = 0.5
_LOOKS_AT_START = 5
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _EXPLICIT_VERSION = 0x17, 0xA0

_log = structlog.get_logger()


class CertificateError(Exception):
    """A certificate and its key cannot be used. The message says why."""


class _Loaded(NamedTuple):
    context: ssl.SSLContext
    end: datetime


class Certificate:
    """A certificate and its key, in PEM, in two files that may change.

    ``context`` is for what listens: each handshake gets the certificate in use by then.

    Raises:
        CertificateError: the files cannot be used.
    """

    def __init__(self, certificate: Path, key: Path, metrics: InjectorMetrics) -> None:
        self._certificate, self._key = certificate, key
        self._metrics = metrics
        self._seen: tuple[bytes, bytes] | str | None = None
        for _ in range(_LOOKS_AT_START):
            if loaded := self._look_again():
                break
        else:
            raise CertificateError(f"{certificate} and {key} change while they are read")
        self._use(loaded)
        self.context = loaded.context
        self.context.sni_callback = self._choose

    async def follow(self) -> None:
        """Takes what the files hold into use whenever they change, until cancelled."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                loaded = self._look_again()
            except CertificateError as error:
                self._metrics.certificate_failures.inc()
                _log.error("the new certificate cannot be used", reason=str(error))
                continue
            if loaded:
                self._use(loaded)
                self._metrics.certificate_reloads.inc()

    def _look_again(self) -> _Loaded | None:
        """What the files hold, if that is new. Raises `CertificateError`, once for each content."""
        content = self._read()
        if content == self._seen:
            return None
        found = self._load(content)
        if self._read() != content:
            return None  # One half may be of the pair before: look again later.
        self._seen = content
        if isinstance(found, CertificateError):
            raise found
        return found

    def _read(self) -> tuple[bytes, bytes] | str:
        """The content of both files, or why there is none."""
        try:
            return self._certificate.read_bytes(), self._key.read_bytes()
        except OSError as error:
            return f"cannot read {error.filename}: {error.strerror}"

    def _load(self, content: tuple[bytes, bytes] | str) -> _Loaded | CertificateError:
        if isinstance(content, str):
            return CertificateError(content)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            # Without a password, a key that has one would be asked for on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
            return _Loaded(context, end_of(content[0]))
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            return CertificateError(f"{self._certificate} with {self._key}: {reason}")

    def _use(self, loaded: _Loaded) -> None:
        self._in_use = loaded.context
        self._metrics.certificate_expiry.set(loaded.end.timestamp())
        _log.info("certificate in use", ends=loaded.end.isoformat())

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _: ssl.SSLContext
    ) -> None:
        connection.context = self._in_use


def end_of(pem: bytes) -> datetime:
    """When the first certificate of a chain ends. Raises `ValueError`.

    Python tells this of certificates of others only, hence this walk through the DER encoding
    (RFC 5280, 4.1): Certificate, TBSCertificate, then version, serial number, algorithm, issuer,
    and the two times of the validity.
    """
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("there is no certificate")
    der = ssl.PEM_cert_to_DER_cert(found[0].decode("ascii"))
    try:
        _, certificate, _ = _element(der)
        _, rest, _ = _element(certificate)
        tag, _, after = _element(rest)
        if tag == _EXPLICIT_VERSION:
            rest = after
        for _ in ("serial number", "algorithm", "issuer"):
            _, _, rest = _element(rest)
        _, validity, _ = _element(rest)
        _, _, rest = _element(validity)
        tag, content, _ = _element(rest)
    except IndexError:
        raise ValueError("the certificate is cut off") from None
    text = content.decode("ascii")
    if tag == _UTC_TIME:  # RFC 5280: its two digits mean 1950 to 2049.
        text = ("19" if text >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag and content of the first element of a DER encoding, and what follows it."""
    length, start = data[1], 2
    if length >= 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    return data[0], data[start : start + length], data[start + length :]
