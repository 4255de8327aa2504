"""Opens the certificate that the listeners show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.files_in_use import FilesError
from sidecar.models.errors import SetupError
from sidecar.open_tiers import keep_running
from sidecar.transport.certificate import CertificateMetrics, ServerCertificate

if TYPE_CHECKING:
    import contextlib

    from prometheus_client import CollectorRegistry

    from sidecar.config_security import TlsSettings


def open_tls(
    settings: TlsSettings, registry: CollectorRegistry, exits: contextlib.AsyncExitStack
) -> ServerCertificate | None:
    """The certificate of all listeners, which follows its files; None for no encryption.

    Raises `SetupError` if it cannot be used.
    """
    if settings.cert_file is None or settings.key_file is None:
        return None
    metrics = CertificateMetrics(registry, "embercache")
    try:
        certificate = ServerCertificate(
            settings.cert_file, settings.key_file, metrics, settings.client_ca_file
        )
    except FilesError as error:
        raise SetupError(f"section tls: {error}") from None
    keep_running(certificate.follow(), exits)
    return certificate
