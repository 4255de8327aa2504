"""An authority, and a policy of callers that are known by its certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from bench.certificates import Authority
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


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Whom both sides trust."""
    return Authority()


@pytest.fixture
def issue(authority: Authority, tmp_path: Path) -> Callable[..., Identity]:
    """Issues certificates with a common name, and perhaps others."""

    def issue(name: str, uris: Sequence[str] = (), hosts: Sequence[str] = ()) -> Identity:
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, hosts)]
        certificate, key = authority.issue(common_name=name, names=names)
        file = tmp_path / f"{name}.pem"
        file.write_bytes(certificate + key)
        return Identity(certificate, key, file)

    return issue


@pytest.fixture
def identities(issue: Callable[..., Identity]) -> Callable[[str], Identity]:
    """Certificates of callers, by what they are an example of."""
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
