"""When a certificate ends."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _EXPLICIT_VERSION = 0x17, 0xA0


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
