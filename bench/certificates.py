"""Certificates for servers on this machine, from an authority made for the occasion."""

from __future__ import annotations

import datetime
import ipaddress
import os
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_DAY = datetime.timedelta(days=1)
_THIS_MACHINE = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))


class Authority:
    """Issues certificates with keys on the curve P-256, for 127.0.0.1 and localhost by default."""

    def __init__(self, name: str = "Embercache tests") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(
            **dict.fromkeys(("digital_signature", "key_cert_sign", "crl_sign"), True),
            **dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment"), False),
            **dict.fromkeys(("key_agreement", "encipher_only", "decipher_only"), False),
        )
        certificate = (
            self._builder(self._name, 1)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self._certificate = certificate
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *,
        days: float = 1,
        common_name: str = "localhost",
        names: Sequence[x509.GeneralName] = _THIS_MACHINE,
    ) -> tuple[bytes, bytes]:
        """A certificate that ends in so many days, and its key, both in PEM.

        ``names`` are its alternative names; without any, it has only the common name.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        builder = (
            self._builder(subject, days)
            .public_key(key.public_key())
            .add_extension(authority_key, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
        return (
            certificate.public_bytes(encoding),
            key.private_bytes(
                encoding, serialization.PrivateFormat.TraditionalOpenSSL, no_password
            ),
        )

    def _builder(self, subject: x509.Name, days: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * _DAY)
            .not_valid_after(now + days * _DAY)
        )


class MountedPair:
    """A certificate and its key in a folder, replaced together as Kubernetes replaces a Secret's.

    ``tls.crt`` and ``tls.key`` are links through ``..data``, which is itself a link to the folder
    of one version.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._version = 0
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"

    def put(self, certificate: bytes, key: bytes) -> None:
        """Replaces both at once, and removes the version before."""
        before = self._folder / f"..{self._version}"
        self._version += 1
        version = self._folder / f"..{self._version}"
        version.mkdir(parents=True)
        (version / "tls.crt").write_bytes(certificate)
        (version / "tls.key").write_bytes(key)
        (self._folder / "..next").symlink_to(version.name)
        os.replace(self._folder / "..next", self._folder / "..data")
        for path in (self.certificate, self.key):
            if not path.is_symlink():
                path.symlink_to(f"..data/{path.name}")
        if before.is_dir():
            for path in before.iterdir():
                path.unlink()
            before.rmdir()
