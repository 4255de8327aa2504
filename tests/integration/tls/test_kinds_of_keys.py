"""Keys of listeners, of each kind that operators have, over any transport."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

Format = serialization.PrivateFormat
DAY = datetime.timedelta(days=1)
KEYS: dict[str, Callable[[], CertificateIssuerPrivateKeyTypes]] = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
}


def self_signed(key: CertificateIssuerPrivateKeyTypes) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


# The traditional formats are PKCS#1 and SEC1.
@pytest.mark.parametrize("form", [Format.PKCS8, Format.TraditionalOpenSSL])
@pytest.mark.parametrize("kind", KEYS)
async def test_a_key_of_any_kind_serves(
    start: Callable[..., Awaitable[Any]],
    connect: Callable[..., Any],
    server: Any,
    tls: dict[str, Any],
    kind: str,
    form: serialization.PrivateFormat,
) -> None:
    key = KEYS[kind]()
    certificate, no_password = self_signed(key), serialization.NoEncryption()
    server.pair.put(certificate, key.private_bytes(serialization.Encoding.PEM, form, no_password))
    sidecar = await start(tls=tls)
    host = f"localhost:{sidecar.address.rpartition(':')[2]}"
    assert await connect(host, grpc.ssl_channel_credentials(certificate)).embed(2) == [2, 2, 2]
