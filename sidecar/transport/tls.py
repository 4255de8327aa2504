"""TLS of the gRPC listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from sidecar.transport.certificate import Pem, ServerCertificate


def grpc_credentials(certificate: ServerCertificate) -> grpc.ServerCredentials:
    """Credentials for one port: each handshake gets the certificate in use by then.

    gRPC speaks TLS 1.2 and 1.3 only, with ciphers that have forward secrecy.
    """
    given = certificate.pem

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks before each handshake, one at a time, on threads of its own.
        nonlocal given
        if certificate.pem is given:
            return None
        given = certificate.pem
        return _configuration(given)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        renewed,  # type: ignore[arg-type]  # None is for no change
        require_client_authentication=certificate.asks_callers,
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.client_ca)
