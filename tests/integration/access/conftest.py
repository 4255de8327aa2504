"""An authority, and a policy of callers that are known by its certificates."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sidecar.access.live import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

POLICY = """
callers:
  - {{name: by-uri, certificates: ["spiffe://cluster/ns/shop/sa/web"], namespaces: [a]}}
  - {{name: by-dns, certificates: [web.shop.example], namespaces: [a]}}
  - {{name: by-common-name, certificates: [a person], namespaces: [a]}}
  - {{name: writer, certificates: [writer.example], namespaces: [a], rights: [write]}}
  - {{name: by-token, token_file: {tokens}, namespaces: [a]}}
"""
TOKEN = "the-token-of-one-caller"  # noqa: S105


@pytest.fixture
def access(tmp_path: Path) -> Access:
    """The policy above, in force."""
    policy, tokens = tmp_path / "policy.yaml", tmp_path / "tokens"
    tokens.write_text(TOKEN)
    policy.write_text(POLICY.format(tokens=tokens))
    return Access(policy)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, in PEM; and the file that has both."""

    certificate: bytes
    key: bytes
    file: Path


class Authority:
    """Issues certificates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("an authority")
        self.certificate = self._sign("an authority", self._key.public_key(), ())

    def issue(
        self, common_name: str, uris: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> Identity:
        """A certificate of these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = [
            *(x509.UniformResourceIdentifier(uri) for uri in uris),
            *(x509.DNSName(host) for host in hosts),
        ]
        certificate = self._sign(common_name, key.public_key(), alternatives)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        file = self._folder / f"{len(list(self._folder.iterdir()))}.pem"
        file.write_bytes(certificate + pem)
        return Identity(certificate, pem, file)

    def _sign(
        self, name: str, key: ec.EllipticCurvePublicKey, names: Sequence[x509.GeneralName]
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(name == "an authority", None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom both sides trust."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    return Authority(folder)


@pytest.fixture
def identities(authority: Authority) -> Callable[[str], Identity]:
    """Certificates of callers, by what they are an example of."""
    issue = authority.issue
    made = {
        "URI": lambda: issue("x", uris=["spiffe://cluster/ns/shop/sa/web"]),
        "DNS": lambda: issue("x", hosts=["other.example", "web.shop.example"]),
        "URI before DNS": lambda: issue(
            "x", uris=["spiffe://cluster/ns/shop/sa/web"], hosts=["web.shop.example"]
        ),
        "common name": lambda: issue("a person"),
        "common name beside another": lambda: issue("a person", hosts=["other.example"]),
        "another": lambda: issue("x", uris=["spiffe://cluster/ns/shop/sa/web/more"]),
        "longer host": lambda: issue("x", hosts=["sub.web.shop.example"]),
        "writer": lambda: issue("x", hosts=["writer.example"]),
    }
    return lambda kind: made[kind]()
