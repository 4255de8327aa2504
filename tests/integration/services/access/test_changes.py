"""The policy and the tokens change while a sidecar runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import embed_pb2
from structlog.testing import capture_logs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Start = Callable[..., Awaitable[Any]]
    KnownAs = Callable[..., Any]

HANG_GUARD = 30.0


async def status(client: Any, **fields: Any) -> str:
    """How a call ends."""
    try:
        await client.embed("a text", **fields)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def until(wanted: str, client: Any, **fields: Any) -> None:
    """Waits until calls end so."""
    async with asyncio.timeout(HANG_GUARD):
        while await status(client, **fields) != wanted:
            await asyncio.sleep(0.005)


@pytest.mark.threat("A caller with a withdrawn token goes on")
async def test_a_withdrawn_token_is_refused_and_a_new_one_taken(
    start: Start, policy: Any, known_as: KnownAs, client_of: Any, show: Any
) -> None:
    sidecar = await start(access=policy.section)
    old = known_as(sidecar, "shop")
    new = show(client_of(sidecar.address), "Bearer another-token-of-shop")
    assert (await status(old), await status(new)) == ("OK", "UNAUTHENTICATED")
    policy.tokens("shop").write_text(f"{policy.token('shop')}\nanother-token-of-shop\n")
    await until("OK", new)
    assert await status(old) == "OK"
    policy.tokens("shop").write_text("another-token-of-shop\n")
    await until("UNAUTHENTICATED", old)
    assert await status(new) == "OK"


async def test_a_caller_who_lost_a_namespace_gets_nothing_of_it_not_even_by_the_same_bytes(
    start: Start, policy: Any, known_as: KnownAs
) -> None:
    policy.allow("both", "shop", "bank")
    sidecar = await start(access=policy.section)
    shop, both = known_as(sidecar, "shop"), known_as(sidecar, "both")
    for client in (shop, both):
        for _ in range(3):
            await client.embed("a text")
    assert await both.tiers("a text") == ["HOT"]
    policy.allow("both", "bank")
    await until("PERMISSION_DENIED", both, namespace="shop")
    # What was stored whole under these bytes is of the namespace that he lost.
    assert await both.tiers("a text") == ["COMPUTED"]
    assert await shop.tiers("a text") == ["HOT"]


@pytest.mark.threat("A caller with a withdrawn token goes on")
async def test_a_caller_who_is_no_longer_named_is_refused_in_a_stream_that_was_open(
    start: Start, policy: Any, known_as: KnownAs
) -> None:
    sidecar = await start(access=policy.section)
    shop = known_as(sidecar, "shop")
    call = shop.embeds.EmbedStream(timeout=HANG_GUARD)
    request = embed_pb2.EmbedStreamRequest(request=shop.request("a text"))
    await call.write(request)
    assert (await call.read()).response.embeddings
    policy.forbid("shop")
    await until("UNAUTHENTICATED", shop)
    with pytest.raises(grpc.aio.AioRpcError) as raised:  # noqa: PT012 - whichever comes first
        await call.write(request)
        await call.read()
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_goes_on_under_the_policy_that_is_in_force_now(
    start: Start, policy: Any, known_as: KnownAs
) -> None:
    policy.allow("both", "shop", "bank")
    sidecar = await start(access=policy.section)
    both = known_as(sidecar, "both")
    call = both.embeds.EmbedStream(timeout=HANG_GUARD)

    async def ask(namespace: str) -> Any:
        request = both.request("a text", namespace=namespace)
        await call.write(embed_pb2.EmbedStreamRequest(request=request))
        return await call.read()

    assert (await ask("shop")).HasField("response")
    policy.allow("both", "bank")
    await until("PERMISSION_DENIED", both, namespace="shop")
    assert (await ask("shop")).error.code == grpc.StatusCode.PERMISSION_DENIED.value[0]
    assert (await ask("bank")).HasField("response")
    call.cancel()


async def test_a_policy_that_became_unreadable_leaves_callers_as_they_were_and_is_logged(
    start: Start, policy: Any, known_as: KnownAs, eventually: Any
) -> None:
    sidecar = await start(access=policy.section)
    shop = known_as(sidecar, "shop")
    with capture_logs() as logs:
        policy.file.write_text("callers: [")
        await eventually(lambda: [log for log in logs if log["log_level"] == "error"])
    assert await status(shop) == "OK"
    assert await status(sidecar) == "UNAUTHENTICATED"
