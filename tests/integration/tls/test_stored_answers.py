"""Answers that are stored, and the certificates of those who ask for them, over any transport."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509

import sidecar.access.live
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

POLICY = """
callers:
  - {name: reader, certificates: [reader.example], namespaces: [a]}
  - {name: writer, certificates: [writer.example], namespaces: [a], rights: [write]}
  - {name: neighbour, certificates: [neighbour.example], namespaces: [b]}
  - {name: by-token, token_file: TOKENS, namespaces: [a]}
"""
TOKEN = "the-token-of-one-caller"  # noqa: S105
# By then all that could store the answer has done so.
OFTEN = 4


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The policy above; what changes in it is seen soon."""
    monkeypatch.setattr(sidecar.access.live, "watch_files", partial(watch_files, seconds=0.005))
    tokens, file = tmp_path / "tokens", tmp_path / "policy.yaml"
    tokens.write_text(TOKEN)
    file.write_text(POLICY.replace("TOKENS", str(tokens)))
    return file


@pytest.fixture
async def named(
    start: Callable[..., Awaitable[Any]],
    mutual_tls: dict[str, Any],
    connect: Callable[..., Any],
    authority: Any,
    policy: Path,
) -> Callable[..., Any]:
    """Opens channels to one sidecar, with certificates of these DNS names."""
    running = await start(tls=mutual_tls, access={"policy_file": str(policy)})

    def call_as(*names: str) -> Any:
        certificate, key = authority.issue(names=[x509.DNSName(name) for name in names])
        credentials = grpc.ssl_channel_credentials(authority.pem, key, certificate)
        return connect(running.address, credentials)

    return call_as


@pytest.mark.threat("A caller is given an answer that was stored for another")
async def test_a_stored_answer_is_given_to_whom_the_policy_lets_read_it_and_to_nobody_else(
    named: Callable[..., Any],
) -> None:
    reader = named("reader.example")
    assert [await reader.tier() for _ in range(OFTEN)] == ["COMPUTED"] + ["HOT"] * (OFTEN - 1)
    assert await named("unknown.example", "reader.example").tier() == "HOT"
    assert await named("neighbour.example").tier() == "COMPUTED"
    for names, status in [
        (["writer.example"], grpc.StatusCode.PERMISSION_DENIED),
        # The first name that the policy knows says who it is.
        (["writer.example", "reader.example"], grpc.StatusCode.PERMISSION_DENIED),
        (["unknown.example"], grpc.StatusCode.UNAUTHENTICATED),
    ]:
        assert (await named(*names).failure())[0] is status


async def test_a_certificate_may_have_very_many_names(
    named: Callable[..., Any], transport: str
) -> None:
    if transport == "grpcio":
        pytest.skip("gRPC's own server ends handshakes with certificates of about 8 KB and more")
    many = (f"number-{number}.of-a-thousand-services.example" for number in range(1000))
    caller = named(*many, "reader.example")
    assert await caller.tier() == "COMPUTED"
    metadata = [(f"own-{number}", "v" * 1000) for number in range(30)]
    assert await caller.embed(2, metadata=metadata) == [2, 2, 2]


async def test_a_token_is_looked_at_before_a_certificate_for_stored_answers_too(
    named: Callable[..., Any],
) -> None:
    reader = named("reader.example")
    for _ in range(OFTEN):
        await reader.embed()
    known, unknown = (("authorization", f"Bearer {token}") for token in (TOKEN, TOKEN[:-1]))
    assert await named("unknown.example").embed(metadata=[known]) == [1, 1, 1]
    for metadata in ([unknown], [known, known], [known, unknown]):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await reader.embed(metadata=metadata)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.threat("A caller is given an answer that was stored for another")
async def test_what_callers_say_of_themselves_in_other_metadata_counts_for_nothing(
    named: Callable[..., Any],
) -> None:
    reader = named("reader.example")
    for _ in range(OFTEN):
        await reader.embed()
    said = [("embercache-certificate-bin", b"reader.example"), ("embercache-peer", "unix")]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await named("unknown.example").embed(metadata=said)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.threat("A caller with a withdrawn token goes on")
async def test_who_is_taken_out_of_the_policy_gets_no_stored_answer_on_an_open_connection(
    named: Callable[..., Any], policy: Path
) -> None:
    reader = named("reader.example")
    for _ in range(OFTEN):
        await reader.embed()
    without = policy.with_suffix(".new")
    without.write_text(policy.read_text().replace("reader.example", "nobody.example"))
    without.replace(policy)
    neighbour = named("nobody.example")
    while True:  # ends by the hang guard of each call, and of the test
        try:
            await neighbour.embed()
        except grpc.aio.AioRpcError:
            continue
        break
    assert (await reader.failure())[0] is grpc.StatusCode.UNAUTHENTICATED
