"""The OpenAI-compatible API of a sidecar with a policy, called with OpenAI's own client."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Start = Callable[..., Awaitable[Any]]
    Front = Callable[[str], openai.AsyncOpenAI]

CHAT = [{"role": "user", "content": "Hello"}]
ROUTES = (
    ("GET", "models"),
    ("GET", "models/tiny"),
    ("POST", "embeddings"),
    ("POST", "completions"),
    ("POST", "chat/completions"),
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def front(start: Start, policy: Any, openai_server: Any) -> Any:
    """A sidecar with a generator, and the URLs of its front and of its metrics."""
    openai_server.says = lambda body: [f"answer {len(openai_server.calls)}"]
    port, metrics = free_port(), free_port()
    policy.allow("writer", "shop", rights="write")
    return (
        await start(
            access=policy.section,
            server={
                "address": "127.0.0.1:0",
                "openai_address": f"127.0.0.1:{port}",
                "metrics_address": f"127.0.0.1:{metrics}",
                "drain_delay": 0,
            },
            generator={"target": openai_server.target, "packs": ["echo"]},
        ),
        f"http://127.0.0.1:{port}/v1",
        f"http://127.0.0.1:{metrics}/metrics",
    )


@pytest.fixture
async def client(front: Any, policy: Any) -> AsyncIterator[Front]:
    """Clients of the front by the names of callers."""
    clients: list[openai.AsyncOpenAI] = []

    def of(name: str) -> openai.AsyncOpenAI:
        made = openai.AsyncOpenAI(base_url=front[1], api_key=policy.token(name), max_retries=0)
        clients.append(made)
        return made

    yield of
    for each in clients:
        await each.close()


async def send(front: Any, verb: str, path: str, **headers: str) -> tuple[int, Any, Any]:
    """Status, headers and body of a call whose body, if any, is no JSON."""
    if verb == "POST":
        headers["Content-Type"] = "application/json"
    async with (
        aiohttp.ClientSession() as session,
        session.request(verb, f"{front[1]}/{path}", headers=headers, data=b"{") as response,
    ):
        return response.status, response.headers, await response.json()


async def failures(front: Any) -> set[str]:
    """The samples of failed calls in the metrics."""

    async with aiohttp.ClientSession() as session, session.get(front[2]) as response:
        lines = (await response.text()).splitlines()
    return {line for line in lines if line.startswith("embercache_calls_failed_total")}


@pytest.mark.parametrize("authorization", ["", "Bearer no-such-token-here", "Basic dXNlcjpwYXNz"])
@pytest.mark.threat("A caller without a token calls")
async def test_no_route_is_for_strangers_and_nothing_of_their_body_is_read(
    front: Any, authorization: str
) -> None:
    for verb, path in ROUTES:
        headers = {"Authorization": authorization} if authorization else {}
        status, told, answer = await send(front, verb, path, **headers)
        assert (status, told["WWW-Authenticate"]) == (401, "Bearer")
        assert answer["error"]["code"] == "invalid_api_key"
        assert "no-such-token" not in answer["error"]["message"]


async def test_who_may_not_read_is_forbidden_every_route(front: Any, policy: Any) -> None:
    for verb, path in ROUTES:
        bearer = f"Bearer {policy.token('writer')}"
        status, _, answer = await send(front, verb, path, Authorization=bearer)
        assert (status, answer["error"]["code"]) == (403, "permission_denied")
        assert "needs the right read, which the caller writer has not" in answer["error"]["message"]


async def test_refused_calls_are_counted(front: Any, policy: Any) -> None:
    await send(front, "POST", "embeddings")
    bearer = f"Bearer {policy.token('writer')}"
    await send(front, "GET", "models", Authorization=bearer)
    counted = await failures(front)
    for code, method in (
        ("UNAUTHENTICATED", "openai/embeddings"),
        ("PERMISSION_DENIED", "openai/models"),
    ):
        name = f'embercache_calls_failed_total{{code="{code}",method="{method}"}}'
        assert f"{name} 1.0" in counted


async def test_an_api_key_is_a_token(client: Front) -> None:
    answer = await client("shop").embeddings.create(model="tiny", input="a text")
    assert len(answer.data[0].embedding) == 8
    assert [model.id async for model in client("shop").models.list()] == ["tiny", "echo"]


@pytest.mark.threat("A caller uses the namespace of another")
async def test_the_namespace_of_another_is_forbidden(client: Front) -> None:
    with pytest.raises(openai.PermissionDeniedError, match="may not use this namespace"):
        await client("shop").embeddings.create(
            model="tiny", input="a text", extra_body={"embercache": {"namespace": "bank"}}
        )


async def test_what_one_tenant_has_cached_does_not_answer_the_other(client: Front) -> None:
    async def tiers(who: str) -> tuple[str | None, str | None]:
        api = client(who)
        embedded = await api.embeddings.with_raw_response.create(model="tiny", input="a text")
        said = await api.chat.completions.with_raw_response.create(
            model="echo", messages=CHAT, temperature=0
        )
        return tuple(each.headers.get("x-embercache-tier") for each in (embedded, said))

    for who in ("shop", "bank"):
        assert [await tiers(who) for _ in range(3)] == [
            ("computed", "computed"),
            ("hot", "hot"),
            ("hot", "hot"),
        ]


async def test_what_is_stored_whole_is_the_callers_on_one_connection_of_two(
    front: Any, policy: Any
) -> None:
    body = {"model": "tiny", "input": "a text"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        tiers = []
        for who in ("shop", "shop", "shop", "bank", "shop", "bank"):
            headers = {"Authorization": f"Bearer {policy.token(who)}"}
            async with session.post(f"{front[1]}/embeddings", json=body, headers=headers) as got:
                tiers.append(got.headers["x-embercache-tier"])
    assert tiers == ["computed", "hot", "hot", "computed", "hot", "hot"]


@pytest.mark.threat("A page in a browser calls the OpenAI API")
async def test_web_pages_are_refused_whatever_token_they_have(front: Any, policy: Any) -> None:
    bearer = f"Bearer {policy.token('shop')}"
    status, _, answer = await send(
        front, "GET", "models", Authorization=bearer, Origin="https://example.com"
    )
    assert (status, answer["error"]["code"]) == (403, "origin")
