"""Who may call, and what: over real gRPC, with every method of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from sidecar.access.rights import RIGHTS
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]
    KnownAs = Callable[..., Any]
    EndOf = Callable[..., Awaitable[tuple[str, str]]]

FILES = ("embed", "search", "generate", "cache")
REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")


def right_of(method: Any) -> str:
    return RIGHTS[f"{method.containing_service.full_name}/{method.name}"].value


@pytest.mark.threat("A caller without a token calls")
async def test_no_method_is_for_strangers(
    start: Start, policy: Any, every_method: list[Any], end_of: EndOf
) -> None:
    sidecar = await start(access=policy.section)
    ends = {method.name: await end_of(sidecar.channel, method) for method in every_method}
    assert {code for code, _ in ends.values()} == {"UNAUTHENTICATED"}
    assert all("authorization: Bearer TOKEN" in says for _, says in ends.values())


@pytest.mark.parametrize("right", ["read", "write", "administer"])
@pytest.mark.threat("A reader changes or invalidates something")
async def test_a_right_is_for_its_methods_and_no_others(
    start: Start, policy: Any, known_as: KnownAs, every_method: list[Any], end_of: EndOf, right: str
) -> None:
    policy.allow("one", "shop", rights=right)
    client = known_as(await start(access=policy.section), "one")
    for method in every_method:
        code, says = await end_of(client.showing, method)
        if right_of(method) == right:
            assert code not in REFUSED, method.name
        else:
            assert code == "PERMISSION_DENIED", method.name
            assert f"{method.name} needs the right {right_of(method)}" in says
            assert "caller one" in says


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer no-such-token-here",
        "bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNzd29yZA==",
        "the-secret-token-of-shop",
        "Bearer the-secret-token-of-sho",
        "Bearer the-secret-token-of-shop x",
        "Bearer the-secret-token-of-shop,Bearer the-secret-token-of-shop",
    ],
)
@pytest.mark.threat("Secrets reach logs, arguments or errors")
async def test_what_is_not_a_known_token_is_unauthenticated_and_not_quoted(
    start: Start, policy: Any, client_of: Any, show: Any, authorization: str
) -> None:
    sidecar = await start(access=policy.section)
    client = show(client_of(sidecar.address), authorization)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await client.embed("a text")
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    secret = authorization.split()[-1]
    assert len(secret) < 8 or secret not in (raised.value.details() or "")


async def test_the_scheme_may_be_written_in_any_case(
    start: Start, policy: Any, client_of: Any, show: Any
) -> None:
    sidecar = await start(access=policy.section)
    client = show(client_of(sidecar.address), f"bEARER {policy.token('shop')}")
    assert await client.tiers("a text") == ["COMPUTED"]


async def test_two_authorizations_are_refused_even_if_one_is_right(
    start: Start, policy: Any
) -> None:
    sidecar = await start(access=policy.section)
    bearer = [("authorization", f"Bearer {policy.token(name)}") for name in ("shop", "bank")]
    with pytest.raises(grpc.aio.AioRpcError, match="once") as raised:
        await sidecar.embeds.Embed(sidecar.request("a text"), metadata=bearer)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_whoever_connects_over_the_socket_is_known_by_that_and_by_a_token_if_he_shows_one(
    start: Start, policy: Any, known_as: KnownAs, client_of: Any, tmp_path: Path
) -> None:
    policy.allow("local", "local", socket=True)
    path = str(tmp_path / "s")
    sidecar = await start(
        access=policy.section, server={"socket": path, "address": "127.0.0.1:0", "drain_delay": 0}
    )
    local = client_of(f"unix:{path}")
    assert await local.tiers("a text", namespace="local") == ["COMPUTED"]
    local_shop = known_as(local, "shop")
    with pytest.raises(grpc.aio.AioRpcError, match="caller shop"):
        await local_shop.embed("a text", namespace="local")
    # The same caller is nobody over TCP.
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await sidecar.embed("a text")
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_and_reflection_are_open_to_whoever_can_connect(
    start: Start, policy: Any
) -> None:
    sidecar = await start(access=policy.section)
    health = health_pb2_grpc.HealthStub(sidecar.channel)
    check = await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert check.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(sidecar.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = [reply async for reply in stub.ServerReflectionInfo(iter([asked]), timeout=30)]
    assert len(reply.list_services_response.service) > len(FILES)


async def test_without_callers_in_the_policy_everybody_may_do_everything(
    start: Start, tmp_path: Path, every_method: list[Any], end_of: EndOf
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("quotas: {shop: {share: 2}}")
    sidecar = await start(access={"policy_file": str(file)})
    for method in every_method:
        code, _ = await end_of(sidecar.channel, method)
        assert code not in REFUSED


async def test_a_policy_that_cannot_be_used_ends_the_start_with_a_message(
    start: Start, tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match=r"access\.policy_file: cannot read .*no-such\.yaml: No"):
        await start(access={"policy_file": str(tmp_path / "no-such.yaml")})
