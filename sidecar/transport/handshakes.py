"""Says why TLS handshakes with callers fail, in few words and not too often."""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

_QUIET_SECONDS = 60.0

_MEANINGS = {
    "HTTP_REQUEST": "the caller speaks HTTP without TLS: its URL has to begin with https://",
    "WRONG_VERSION_NUMBER": "the caller does not speak TLS",
    "UNSUPPORTED_PROTOCOL": "the caller speaks nothing newer than TLS 1.1",
    "NO_SHARED_CIPHER": "the caller knows none of the ciphers that are safe",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the caller shows no certificate, which"
    " tls.client_ca_file asks for",
    "TLSV1_ALERT_UNKNOWN_CA": "the caller does not know the authority of the certificate: does it"
    " have that, and does tls.cert_file hold the whole chain?",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the caller says that the certificate has ended",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the caller refuses the certificate: is it for the name that it"
    " calls?",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the caller refuses the certificate: is it for the name that"
    " it calls?",
}

_log = structlog.get_logger()


class Handshakes:
    """Logs handshakes that fail on one listener: once a minute for each reason.

    Whoever reaches a port can make them fail. Of one that only connects and goes, as probes of TCP
    do, nothing is said. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, listener: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._clock = clock
        # When a reason was logged last, and how often it was the reason since. OpenSSL knows some
        # hundred reasons, and few can be brought about from outside.
        self._logged: dict[str, tuple[float, int]] = {}

    def failed(self, error: ssl.SSLError) -> None:
        """Takes note of a handshake that failed."""
        self.failed_because(_reason(error))

    def failed_because(self, reason: str) -> None:
        """Takes note of a handshake that failed for a reason, one of few."""
        now = self._clock()
        last, more = self._logged.get(reason, (-_QUIET_SECONDS, 0))
        if now - last < _QUIET_SECONDS:
            self._logged[reason] = last, more + 1
            return
        self._logged[reason] = now, 0
        _log.warning(
            "a TLS handshake failed", listener=self._listener, reason=reason, not_logged=more
        )

    def watched(self) -> type[ssl.SSLObject]:
        """What a context of this listener is to make for each connection."""
        failed = self.failed

        class Watched(ssl.SSLObject):
            """A connection whose handshake is watched: asyncio keeps its failure to itself."""

            def do_handshake(self) -> None:
                try:
                    super().do_handshake()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    raise
                except ssl.SSLError as error:
                    failed(error)
                    raise

        return Watched


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the caller is not accepted: {error.verify_message}"
    code = error.reason or "unknown"
    return _MEANINGS.get(code, code)
