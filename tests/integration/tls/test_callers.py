"""Callers whom the policy knows by the certificates that listeners have checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import aiohttp

    Connect = Callable[..., Any]
    Party = Any
    Start = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize(("name", "is_known"), [("localhost", True), ("somebody-else", False)])
async def test_a_certificate_alone_is_not_enough_the_policy_has_to_name_it(
    start: Start,
    mutual_tls: dict[str, Any],
    connect: Connect,
    caller: Party,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    name: str,
    is_known: bool,
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"callers: [{{name: one, certificates: [{name}], namespaces: [a]}}]")
    sidecar = await start(tls=mutual_tls, access={"policy_file": str(policy)})
    client = connect(sidecar.address, caller.credentials())
    if is_known:
        assert await client.embed(2) == [2, 2, 2]
    else:
        code, says = await client.failure()
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "a name of this client certificate" in says
    async with http.get(f"{sidecar.openai_url}/models", ssl=caller.context()) as response:
        assert response.status == (200 if is_known else 401)
