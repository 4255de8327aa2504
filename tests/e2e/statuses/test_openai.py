"""The statuses of the OpenAI-compatible API, over real HTTP."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import yaml

from tests.e2e.statuses.contract import table
from tests.e2e.statuses.encoder import refusing_encoder
from tests.e2e.statuses.requests import SECRET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]

TOKEN, WRITER = "the-token-of-a-caller", "the-token-of-a-writer"
NAN = "\N{SKULL AND CROSSBONES}"
MOST_BYTES = 2048
EMBED = {"model": "tiny", "input": SECRET}
CHAT = {"model": "echo", "messages": [{"role": "user", "content": SECRET}]}
BY_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Call:
    """A call that ends with an HTTP status, which stands for one of gRPC, or for none.

    ``code`` is that of the error, and ``says`` are words of its message.
    """

    status: int
    means: str
    says: str
    code: str | None = None
    body: Any = field(default_factory=lambda: EMBED)
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "embeddings"
    verb: str = "POST"


def options(**fields: Any) -> dict[str, Any]:
    """A body with options of the cache."""
    return EMBED | {"embercache": fields}


CALLS = [
    Call(400, "INVALID_ARGUMENT", "input", body={"model": "tiny"}),
    Call(400, "INVALID_ARGUMENT", "JSON", body=b"{"),
    Call(400, "INVALID_ARGUMENT", "temperature", path="chat/completions",
         body=CHAT | {"temperature": 9}),
    Call(401, "UNAUTHENTICATED", "was it withdrawn", "invalid_api_key",
         headers={"Authorization": f"Bearer {SECRET * 2}"}),
    Call(403, "PERMISSION_DENIED", "have it added to his rights", "permission_denied",
         headers={"Authorization": f"Bearer {WRITER}"}),
    Call(403, "PERMISSION_DENIED", "name one of his", "permission_denied",
         body=options(namespace="bank")),
    Call(403, "", "call from a program", "origin", headers={"Origin": "https://example.com"}),
    Call(403, "", "call it by IP address", "host", headers={"Host": "example.com"}),
    Call(404, "NOT_FOUND", "choose one of tiny", "model_not_found", body=EMBED | {"model": SECRET}),
    Call(404, "NOT_FOUND", "cache.mode", "not_cached", body=options(mode="only_if_cached")),
    Call(404, "NOT_FOUND", "no such path", "unknown_url", path=SECRET),
    Call(405, "", "takes only POST", verb="GET"),
    Call(413, "RESOURCE_EXHAUSTED", "raise server.max_message_bytes",
         body=EMBED | {"input": SECRET * MOST_BYTES}),
    Call(415, "", "send JSON", headers={"Content-Type": "text/plain"}),
    Call(415, "", "send the JSON as it is", headers={"Content-Encoding": "gzip"}),
    Call(429, "RESOURCE_EXHAUSTED", "have its quota items_per_second raised",
         body=options(namespace="spent")),
    Call(500, "INTERNAL", "model tiny gave no vector", body=EMBED | {"input": SECRET + NAN}),
    Call(503, "UNAVAILABLE", "try again later", path="chat/completions", body=CHAT),
]  # fmt: skip
CHANGING = [Call(409, "FAILED_PRECONDITION", "retry")]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def check(address: str, calls: list[Call], subtests: pytest.Subtests) -> None:
    """Each call ends so, says what to do, and quotes nothing that the caller sent."""
    async with aiohttp.ClientSession(f"http://{address}") as session:
        for call in calls:
            with subtests.test(f"{call.status} {call.code or call.says}"):
                content = {"data" if isinstance(call.body, bytes) else "json": call.body}
                if call.verb == "GET":
                    content = {}
                headers = BY_TOKEN | {"Content-Type": "application/json"} | call.headers
                async with session.request(
                    call.verb, f"/v1/{call.path}", headers=headers, **content
                ) as answer:
                    error = (await answer.json())["error"]
                    assert (answer.status, error["code"]) == (call.status, call.code), error
                    assert call.says in error["message"], error
                    assert SECRET not in error["message"], error
                    assert (answer.status == 429) == ("Retry-After" in answer.headers)
                    is_stranger = "WWW-Authenticate" in answer.headers
                    assert (answer.status == 401) == is_stranger


@pytest.fixture
def access(tmp_path: Path) -> dict[str, str]:
    """A policy with somebody who may read, and somebody who may write."""
    callers = []
    for name, token, right in (("reader", TOKEN, "read"), ("writer", WRITER, "write")):
        file = tmp_path / name
        file.write_text(token)
        known = {"name": name, "token_file": str(file), "rights": [right]}
        callers.append(known | {"namespaces": ["shop", "spent"]})
    quotas = {"spent": {"items_per_second": 1e-3}}
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"callers": callers, "quotas": quotas}))
    return {"policy_file": str(policy)}


async def test_calls_end_with_the_http_statuses_that_are_documented(
    start: Start, access: dict[str, str], openai_server: Any, subtests: pytest.Subtests
) -> None:
    openai_server.fail(503, times=99)
    address = free_address()
    await start(
        server={
            "address": "127.0.0.1:0",
            "openai_address": address,
            "max_message_bytes": MOST_BYTES,
        },
        access=access,
        generator={"target": openai_server.target, "packs": ["echo"]},
        openai={"retries": 0},
    )
    async with aiohttp.ClientSession(f"http://{address}") as session:
        spend = options(namespace="spent")
        async with session.post("/v1/embeddings", json=spend, headers=BY_TOKEN) as answer:
            assert answer.status == 200
    await check(address, CALLS, subtests)


async def test_a_model_that_goes_on_changing_its_version_is_a_conflict(
    start_front: Start, subtests: pytest.Subtests
) -> None:
    code = grpc.StatusCode.FAILED_PRECONDITION
    async with refusing_encoder(code, "it has another version: retry") as encoder:
        address = free_address()
        server = {"address": "127.0.0.1:0", "openai_address": address}
        await start_front(encoder, server=server)
        await check(address, CHANGING, subtests)


def test_every_http_status_that_is_documented_is_produced_and_no_other() -> None:
    rows = table("openai.md", "### What is refused")
    documented = {(int(http), status.strip("`")) for http, status, _ in rows}
    assert documented == {(call.status, call.means) for call in [*CALLS, *CHANGING]}
    codes = {
        code
        for _, _, when in rows
        if "`code`" in when
        for code in re.findall("`([a-z_]+)`", when.split("`code`", 1)[1])
    }
    assert codes == {call.code for call in CALLS if call.code is not None}
