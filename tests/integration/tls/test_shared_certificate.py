"""A certificate that something else uses, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from sidecar.files_in_use import FilesError
from sidecar.transport.certificate import CertificateMetrics, ServerCertificate

if TYPE_CHECKING:
    from sidecar.transport.certificate import Pem

    Party = Any


@pytest.fixture
def certificate(server: Party) -> ServerCertificate:
    metrics = CertificateMetrics(CollectorRegistry(), "embercache")
    return ServerCertificate(*server.files, metrics)


def look(certificate: ServerCertificate) -> None:
    """Looks at the files again."""
    certificate._files.look()


def test_it_is_used_at_once_and_whenever_it_is_replaced(
    certificate: ServerCertificate, server: Party
) -> None:
    used: list[Pem] = []
    certificate.share(used.append)
    server.renew()
    look(certificate)
    assert used[0] != used[1] == certificate.pem


def test_one_that_cannot_be_used_there_is_used_nowhere(
    certificate: ServerCertificate, server: Party
) -> None:
    accepts = True

    def use(_: Pem) -> None:
        if not accepts:
            raise ValueError("it is of a kind that is not known")

    certificate.share(use)
    before, accepts = certificate.pem, False
    server.renew()
    with pytest.raises(FilesError, match="it is of a kind that is not known"):
        look(certificate)
    assert certificate.pem is before


def test_what_it_cannot_use_at_first_is_told_and_not_asked_again(
    certificate: ServerCertificate, server: Party
) -> None:
    def refuse(_: Pem) -> None:
        raise ValueError("never")

    with pytest.raises(ValueError, match="never"):
        certificate.share(refuse)
    server.renew()
    look(certificate)
