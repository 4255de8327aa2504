"""A semantic verifier that is called over TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import verifier_pb2, verifier_pb2_grpc

from sidecar.models.upstream_channel import UpstreamAccess
from sidecar.models.upstream_tls import UpstreamTls
from sidecar.models.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Party = Any

PATIENT = 20.0


class Service(verifier_pb2_grpc.SemanticVerifierServicer):
    async def Verify(self, _request: Any, context: Any) -> verifier_pb2.VerifyResponse:  # noqa: N802
        # It is shown our certificate, and not the token, which is for encoders.
        assert "x509_common_name" in context.auth_context()
        assert "authorization" not in dict(context.invocation_metadata())
        return verifier_pb2.VerifyResponse(accept=True)


@pytest.fixture
async def address(server: Party) -> AsyncIterator[str]:
    """Where a verifier listens that wants a certificate."""
    certificate, key = (path.read_bytes() for path in server.files)
    credentials = grpc.ssl_server_credentials(
        [(key, certificate)], server.ca.read_bytes(), require_client_auth=True
    )
    running = grpc.aio.server()
    verifier_pb2_grpc.add_SemanticVerifierServicer_to_server(Service(), running)
    port = running.add_secure_port("127.0.0.1:0", credentials)
    await running.start()
    yield f"localhost:{port}"
    await running.stop(0)


async def accepted(address: str, tls: UpstreamTls | None) -> bool | None:
    verifier = Verifier(address, PATIENT, access=UpstreamAccess(tls))
    try:
        return await verifier.accepts("search", "docs", "one", "other", 0.9, verifier.deadline())
    finally:
        await verifier.close()


async def test_a_verifier_is_asked_over_mutual_tls(address: str, caller: Party) -> None:
    assert await accepted(address, UpstreamTls(caller.ca, *caller.files)) is True


async def test_a_sidecar_has_certificates_for_its_verifier_and_keeps_the_token_for_encoders(
    start: Callable[..., Awaitable[Any]],
    caller: Party,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[UpstreamAccess] = []

    class Noted(Verifier):
        def __init__(self, target: str, timeout: float, *, access: UpstreamAccess) -> None:
            given.append(access)
            super().__init__(target, timeout, access=access)

    monkeypatch.setattr("sidecar.open_services.Verifier", Noted)
    (tmp_path / "token").write_text("a-token-of-the-sidecars")
    await start(
        semantic={"verifier": "localhost:1"},
        encoder={"target": "localhost:1", "token_file": str(tmp_path / "token")},
        upstream_tls={"enabled": True, "ca_file": str(caller.ca)},
        model={"packs": "mean"},
    )
    (access,) = given
    assert access.tls is not None
    assert access.token is None


@pytest.mark.threat("A stranger poses as the semantic verifier")
async def test_nothing_is_accepted_by_a_verifier_that_cannot_be_trusted_and_the_log_says_why(
    address: str,
    caller: Party,
    make_party: Callable[..., Party],
    other_authority: Any,
    logs: list[Any],
) -> None:
    wary = make_party("wary", known=other_authority)
    assert await accepted(address, UpstreamTls(wary.ca, *caller.files)) is None
    assert await accepted(address, UpstreamTls(caller.ca)) is None
    assert await accepted(address, None) is None
    reasons = [log["reason"] for log in logs if log["event"] == "calls to an upstream fail"]
    assert "of no authority that is known" in reasons[0]
    assert "does it want TLS" in reasons[1]
    assert len(reasons) == 3
