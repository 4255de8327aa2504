"""Clients that show tokens and certificates to real sidecars, which check them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TOKEN = "the-token-of-the-shop"  # noqa: S105
POLICY = """
callers:
  - {{name: shop, token_file: {tokens}, namespaces: ["*"]}}
  - {{name: mesh, certificates: [mesh.example], namespaces: ["*"]}}
"""


@dataclass(frozen=True)
class Files:
    """What callers have."""

    token: Path
    wrong_token: Path
    ca: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Files:
    folder = tmp_path_factory.mktemp("files")

    def write(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    certificate, key = authority.issue(common_name="x", names=[x509.DNSName("mesh.example")])
    return Files(
        token=write("token", f"{TOKEN}\n".encode()),
        wrong_token=write("wrong", b"a-token-of-nobody-here"),
        ca=write("ca.crt", authority.pem),
        certificate=write("tls.crt", certificate),
        key=write("tls.key", _pkcs8(key)),
    )


def _pkcs8(pem: bytes) -> bytes:
    """A key in the only form that Java takes."""
    return serialization.load_pem_private_key(pem, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass(frozen=True)
class Sidecars:
    """Two that ask who calls: on TCP over TLS, and one of them for a certificate, too."""

    encrypted: Any
    mutual: Any


@pytest.fixture(scope="module")
def sidecars(
    start_sidecar: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    files: Files,
) -> Iterator[Sidecars]:
    folder = tmp_path_factory.mktemp("server")
    certificate, key, policy = folder / "tls.crt", folder / "tls.key", folder / "policy.yaml"
    for path, content in zip((certificate, key), authority.issue(), strict=True):
        path.write_bytes(content)
    policy.write_text(POLICY.format(tokens=files.token))
    arguments = ["--tls-cert-file", certificate, "--tls-key-file", key]
    arguments += ["--access-policy-file", policy]
    with (
        start_sidecar(*arguments) as encrypted,
        start_sidecar(*arguments, "--tls-client-ca-file", files.ca) as mutual,
    ):
        yield Sidecars(encrypted(), mutual())


@pytest.fixture(params=["go", "java", "node", "rust"])
def embed(
    request: pytest.FixtureRequest,
    example: Callable[[str, str], list[str | Path]],
    run: Callable[..., str],
) -> Callable[..., str]:
    """Embeds a text in each language in turn; ``code`` is what the program ends with."""
    return lambda address, **files: run(
        *example(request.param, "embed"), "a text", address=address, **files
    )


def _was_answered(said: str) -> bool:
    return said.startswith(("computed ", "hot "))


def test_a_token_is_shown_over_a_unix_socket(
    sidecars: Sidecars, files: Files, embed: Callable[..., str]
) -> None:
    assert _was_answered(embed(sidecars.encrypted.unix, TOKEN_FILE=files.token))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_token_is_shown_over_tls_to_a_sidecar_of_that_authority(
    sidecars: Sidecars, files: Files, embed: Callable[..., str], host: str
) -> None:
    address = f"tls://{sidecars.encrypted.tcp.replace('127.0.0.1', host)}"
    assert _was_answered(embed(address, TOKEN_FILE=files.token, CA_FILE=files.ca))


def test_a_certificate_says_who_calls(
    sidecars: Sidecars, files: Files, embed: Callable[..., str]
) -> None:
    shown = {"CERT_FILE": files.certificate, "KEY_FILE": files.key}
    said = embed(f"tls://{sidecars.mutual.tcp}", CA_FILE=files.ca, **shown)
    assert _was_answered(said)


def test_a_token_that_the_sidecar_does_not_know_is_an_error_that_says_so(
    sidecars: Sidecars, files: Files, embed: Callable[..., str]
) -> None:
    said = embed(sidecars.encrypted.unix, TOKEN_FILE=files.wrong_token, code=1)
    assert "this token is none of those in the policy of this sidecar" in said


def test_a_sidecar_of_an_authority_that_is_not_known_gets_no_token(
    sidecars: Sidecars, files: Files, embed: Callable[..., str]
) -> None:
    said = embed(f"tls://{sidecars.encrypted.tcp}", TOKEN_FILE=files.token, code=1)
    assert "certificate" in said.lower()


def test_a_token_is_not_shown_to_other_machines_unencrypted(
    files: Files, embed: Callable[..., str]
) -> None:
    said = embed("192.0.2.1:50551", TOKEN_FILE=files.token, code=1)
    assert "write tls://HOST:PORT" in said
