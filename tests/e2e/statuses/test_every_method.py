"""The statuses that every method has."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from structlog.testing import capture_logs

from sidecar.access.rights import RIGHTS
from sidecar.transport.handlers import Handlers, Unary
from tests.e2e.statuses.conditions import (
    CANCELLED,
    DENIED,
    FAULT,
    GARBAGE,
    GONE,
    LARGE,
    LATE,
    NOT_BEGUN,
    UNKNOWN_CALLER,
    UNKNOWN_METHOD,
)
from tests.e2e.statuses.requests import SECRET
from tests.e2e.statuses.scenario import HANG_GUARD, METHODS, End, end_of_call, open_call

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.e2e.statuses.contract import Documented

    Channel = grpc.aio.Channel
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

RIGHTS_OF_CALLERS = ("read", "write", "administer")
GARBAGE_BYTES = b"\xff" + SECRET.encode()
MOST_BYTES = 1024


class Methods:
    """What every method does in place of what it should: it fails, or never answers."""

    def __init__(self) -> None:
        self.is_broken = False
        self.begun = 0
        self.ended = 0

    async def answer(self, _request: Any) -> bytes:
        """What a method of one response does."""
        if self.is_broken:
            raise RuntimeError(SECRET)
        self.begun += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        raise AssertionError

    async def stream(self, request: Any) -> AsyncIterator[bytes]:
        """What a method of many responses does."""
        yield await self.answer(request)


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Methods:
    """Put in place of the methods of every sidecar that is started from now on."""
    methods = Methods()
    of = Handlers.of

    def of_others(make: Handlers, service: str, **theirs: Any) -> grpc.GenericRpcHandler:
        others = {
            name: replace(
                method, answer=methods.answer if isinstance(method, Unary) else methods.stream
            )
            for name, method in theirs.items()
        }
        return of(make, service, **others)

    monkeypatch.setattr(Handlers, "of", of_others)
    return methods


def ended_so(documented: Documented, ends: dict[str, End], says: str = "") -> None:
    """Asserts that every method has ended so."""
    for name, end in ends.items():
        assert end.status == documented.status, (name, end)
        assert says in end.message, (name, end)
        assert SECRET not in end.message, (name, end)
    assert ends.keys() == METHODS.keys()


async def of_every_method(
    channel: Channel,
    raw: bytes | None = None,
    shows: Callable[[str], str] | None = None,
    **options: Any,
) -> dict[str, End]:
    """How a call of every method ends; ``shows`` tells the authorization of a method's caller."""

    async def end_of(name: str) -> End:
        metadata = (("authorization", shows(name)),) if shows is not None else ()
        return await end_of_call(channel, METHODS[name], raw, metadata=metadata, **options)

    return dict(zip(METHODS, await asyncio.gather(*map(end_of, METHODS)), strict=True))


async def test_a_stranger_has_no_method(start: Start, access: dict[str, str]) -> None:
    one = await start(access=access)
    says = "send 'authorization: Bearer TOKEN' with a token of its policy"
    ended_so(UNKNOWN_CALLER, await of_every_method(one.channel), says)
    ends = await of_every_method(one.channel, shows=lambda _: f"Bearer {SECRET * 2}")
    ended_so(UNKNOWN_CALLER, ends, "was it withdrawn, or cut short?")


async def test_a_caller_has_no_method_without_the_right_for_it(
    start: Start, access: dict[str, str]
) -> None:
    one = await start(access=access)

    def shows_another_right(name: str) -> str:
        path = f"{METHODS[name].containing_service.full_name}/{name}"
        return f"Bearer {token(next(r for r in RIGHTS_OF_CALLERS if r != RIGHTS[path].value))}"

    ends = await of_every_method(one.channel, shows=shows_another_right)
    ended_so(DENIED, ends, "have it added to his rights")


def token(right: str) -> str:
    return f"the-token-of-who-may-{right}"


@pytest.fixture
def access(tmp_path: Path) -> dict[str, str]:
    """A policy with one caller for each right."""
    callers = []
    for right in RIGHTS_OF_CALLERS:
        file = tmp_path / right
        file.write_text(token(right))
        callers.append(
            {"name": right, "token_file": str(file), "namespaces": ["*"], "rights": [right]}
        )
    policy = tmp_path / "policy.yaml"
    policy.write_text(yaml.safe_dump({"callers": callers}))
    return {"policy_file": str(policy)}


async def test_bytes_that_are_no_request_are_refused(start: Start) -> None:
    one = await start()
    ends = await of_every_method(one.channel, GARBAGE_BYTES)
    # Its stream goes on.
    assert ends["EmbedStream"].status == "OK"
    ends["EmbedStream"] = await end_of_call(
        one.channel, METHODS["EmbedStream"], GARBAGE_BYTES, of_an_item=True
    )
    ended_so(GARBAGE, ends, "use the published protos")


async def test_a_request_that_is_too_large_is_refused(start: Start) -> None:
    one = await start(server={"address": "127.0.0.1:0", "max_message_bytes": MOST_BYTES})
    ends = await of_every_method(one.channel, bytes(2 * MOST_BYTES + 1))
    ended_so(LARGE, ends, "larger than max")


async def test_a_fault_is_told_without_its_message(start: Start, methods: Methods) -> None:
    methods.is_broken = True
    one = await start()
    with capture_logs() as logs:
        ended_so(FAULT, await of_every_method(one.channel), "its log has the details")
    assert [entry["log_level"] for entry in logs].count("error") == len(METHODS)


async def test_a_deadline_that_passes_ends_the_call(
    start: Start, methods: Methods, eventually: Eventually
) -> None:
    one = await start()
    ended_so(LATE, await of_every_method(one.channel, timeout=0.2))
    await eventually(lambda: methods.ended == methods.begun)


async def test_a_caller_ends_his_call(
    start: Start, methods: Methods, eventually: Eventually
) -> None:
    one = await start()

    async def nothing() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    calls = {
        name: open_call(one.channel, method, nothing() if method.client_streaming else b"")
        for name, method in METHODS.items()
    }
    await eventually(lambda: methods.begun == len(METHODS))
    for call in calls.values():
        call.cancel()
    ended_so(CANCELLED, {name: End((await c.code()).name, "") for name, c in calls.items()})
    await eventually(lambda: methods.ended == len(METHODS))


async def test_a_sidecar_that_ends_does_not_wait_for_ever(
    start: Start, methods: Methods, eventually: Eventually
) -> None:
    one = await start(server={"address": "127.0.0.1:0", "drain_delay": 0, "drain_timeout": 0})
    ends = asyncio.create_task(of_every_method(one.channel))
    await eventually(lambda: methods.begun == len(METHODS))
    await one.stop()
    ended_so(GONE, await ends)


async def test_a_call_that_comes_when_the_sidecar_ends_may_not_be_begun(start: Start) -> None:
    statuses: set[str] = set()
    # The native front door begins with every call that it takes.
    server = {"address": "127.0.0.1:0", "drain_delay": 0, "transport": "grpcio"}
    async with asyncio.timeout(HANG_GUARD):
        while NOT_BEGUN.status not in statuses:
            one = await start(server=server)
            await one.stats()
            ends = [asyncio.create_task(of_every_method(one.channel)) for _ in range(3)]
            await asyncio.sleep(0)
            await one.stop()
            statuses |= {end.status for each in ends for end in (await each).values()}


async def test_a_sidecar_that_is_not_there_is_unavailable(start: Start) -> None:
    one = await start()
    await one.stop()
    ended_so(GONE, await of_every_method(one.channel))


async def test_a_method_that_the_sidecar_does_not_know_is_unimplemented(start: Start) -> None:
    one = await start()
    for service in {method.containing_service.full_name for method in METHODS.values()}:
        for path in (f"/{service}/{SECRET}", f"/{service}2/Embed"):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await one.channel.unary_unary(path)(b"", timeout=30)
            assert error.value.code().name == UNKNOWN_METHOD.status
