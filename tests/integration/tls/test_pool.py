"""Sidecars in front of encoders that are called over TLS, with a token."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from sidecar.config import Settings
from sidecar.models.errors import SetupError
from sidecar.open_upstream import open_upstream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import aiohttp

    Connect = Callable[..., Any]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]
    Party = Any
    Start = Callable[..., Awaitable[Any]]

UNAVAILABLE, INTERNAL = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL
READ = "another token is shown to the encoder"
FAULT = "calls to an upstream fail"
TOKEN, OTHER_TOKEN = "the-token-of-the-sidecars", "another-token-of-theirs"


def upstream_tls(party: Party, **settings: str) -> dict[str, Any]:
    """Settings of a sidecar that shows a certificate to encoders."""
    certificate, key = party.files
    files = {"ca_file": party.ca, "cert_file": certificate, "key_file": key}
    return {"enabled": True} | {name: str(path) for name, path in files.items()} | settings


def of_encoder(*addresses: str, **more: str) -> dict[str, Any]:
    """Settings of a sidecar in front of encoders."""
    return {"encoder": {"target": ",".join(addresses)} | more, "model": {"packs": "mean"}}


def faults(logs: list[Any]) -> list[str]:
    return [log["reason"] for log in logs if log["event"] == FAULT]


async def test_encoders_are_called_over_mutual_tls(
    start: Start, mutual_tls: dict[str, Any], connect: Connect, caller: Party
) -> None:
    encoder = await start(tls=mutual_tls)
    front = await start(**of_encoder(encoder.address), upstream_tls=upstream_tls(caller))
    assert await connect(front.address).embed(4) == [4, 4, 4]


async def test_several_encoders_share_a_name(
    start: Start, tls: dict[str, Any], connect: Connect, caller: Party
) -> None:
    encoders = [(await start(tls=tls)).address for _ in range(2)]
    named = upstream_tls(caller, server_name="localhost")
    front = connect((await start(**of_encoder(*encoders), upstream_tls=named)).address)
    for number in range(8):
        assert await front.embed(number) == [number] * 3
    with pytest.raises(SetupError, match=r"set upstream_tls\.server_name"):
        await start(**of_encoder(*encoders), upstream_tls=upstream_tls(caller))


async def test_an_encoder_on_a_unix_socket_is_not_encrypted(
    start: Start, connect: Connect, caller: Party, tmp_path: Path
) -> None:
    await start(server={"socket": f"{tmp_path}/s"})
    front = await start(**of_encoder(f"unix:{tmp_path}/s"), upstream_tls=upstream_tls(caller))
    assert await connect(front.address).embed() == [1, 1, 1]


async def test_no_call_fails_while_the_certificate_that_is_shown_is_replaced(
    start: Start,
    mutual_tls: dict[str, Any],
    connect: Connect,
    caller: Party,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    encoder = await start(tls=mutual_tls)
    front = await start(**of_encoder(encoder.address), upstream_tls=upstream_tls(caller))
    client, ended = connect(front.address), asyncio.Event()
    answered = 0

    async def call() -> None:
        nonlocal answered
        while not ended.is_set():
            answered += 1
            number = answered
            assert await client.embed(number) == [number] * 3

    def renewals() -> int:
        return sum(log["event"] == "new certificates are in use" for log in logs)

    async with asyncio.TaskGroup() as load:
        for _ in range(4):
            load.create_task(call())
        for count in range(1, 4):
            before = answered
            caller.renew()
            await eventually(lambda count=count: renewals() == count)
            await eventually(lambda before=before: answered > before + 8)
        ended.set()
    assert faults(logs) == []


async def test_certificates_that_the_encoder_does_not_take_leave_those_before_in_use(
    start: Start,
    mutual_tls: dict[str, Any],
    connect: Connect,
    caller: Party,
    other_authority: Any,
    logs: list[Any],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.models.upstream_channel._PATIENCE_SECONDS", 0.1)
    encoder = await start(tls=mutual_tls)
    front = await start(**of_encoder(encoder.address), upstream_tls=upstream_tls(caller))
    client = connect(front.address)
    assert await client.embed(1) == [1, 1, 1]
    caller.renew(authority=other_authority)
    told = "no connection with the new certificates yet: those before stay in use"
    await eventually(lambda: any(log["event"] == told for log in logs))
    assert await client.embed(2) == [2, 2, 2]
    caller.renew()
    await eventually(lambda: any(log["event"] == "new certificates are in use" for log in logs))
    assert await client.embed(3) == [3, 3, 3]


async def test_certificates_that_cannot_be_read_leave_those_before_in_use_and_are_told_once(
    start: Start,
    mutual_tls: dict[str, Any],
    connect: Connect,
    caller: Party,
    http: aiohttp.ClientSession,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    encoder = await start(tls=mutual_tls)
    front = await start(**of_encoder(encoder.address), upstream_tls=upstream_tls(caller))
    caller.pair.put(b"no certificate", b"no key")

    def told() -> list[Any]:
        event = "the new certificates for upstreams cannot be used"
        return [log for log in logs if log["event"] == event]

    await eventually(told)
    assert await connect(front.address).embed(2) == [2, 2, 2]
    assert len(told()) == 1
    async with http.get(f"http://{front.metrics_address}/metrics") as response:
        counted = 'embercache_reload_failures_total{file="upstream_certificates"} 1.0'
        assert counted in (await response.text()).splitlines()


@pytest.mark.threat("A stranger poses as the encoder pool")
async def test_what_is_wrong_with_certificates_is_logged_once_and_told_to_callers(
    start: Start,
    tls: dict[str, Any],
    mutual_tls: dict[str, Any],
    connect: Connect,
    make_party: Callable[..., Party],
    caller: Party,
    unknown_callers: dict[str, Party],
    other_authority: Any,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    plain, encrypted = (await start()).address, (await start(tls=tls)).address
    mutual = (await start(tls=mutual_tls)).address
    stranger = unknown_callers["of an authority that is not known"]
    cases: list[tuple[str, dict[str, Any], str]] = [
        (plain, upstream_tls(caller), "it does not speak TLS"),
        (encrypted, {}, "it ends connections at once"),
        (mutual, upstream_tls(stranger), "it ends connections at once"),
        (encrypted, upstream_tls(caller, server_name="elsewhere"), "is for another name"),
        (encrypted, upstream_tls(make_party("wary", known=other_authority)), "no authority"),
    ]
    for address, settings, reason in cases:
        logs.clear()
        sections = {"upstream_tls": settings} if settings else {}
        front = connect((await start(**of_encoder(address), **sections)).address)
        await eventually(lambda: faults(logs))
        assert reason in faults(logs)[0]
        code, _ = await front.failure()
        assert code is UNAVAILABLE
        assert len(faults(logs)) == 1


async def test_a_certificate_of_the_encoder_that_has_ended_is_named(
    start: Start,
    tls: dict[str, Any],
    connect: Connect,
    server: Party,
    caller: Party,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    server.renew(days=-1)
    encoder = await start(tls=tls)
    assert any(log["event"].startswith("the certificate in use has ended") for log in logs)
    front = await start(**of_encoder(encoder.address), upstream_tls=upstream_tls(caller))
    await eventually(lambda: faults(logs))
    assert faults(logs) == ["its certificate has ended"]
    # It is enough that the encoder gets another one.
    server.renew()
    await eventually(lambda: any(log["event"] == "the encoder serves" for log in logs))
    assert await connect(front.address).embed(2) == [2, 2, 2]


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, Any]:
    """Settings of an encoder that wants a token, and a caller who may not embed."""
    (tmp_path / "sidecars").write_text(TOKEN)
    (tmp_path / "others").write_text(OTHER_TOKEN)
    (tmp_path / "policy.yaml").write_text(
        f"""\
callers:
  - {{name: sidecars, token_file: {tmp_path}/sidecars, namespaces: [default], rights: [read]}}
  - {{name: others, token_file: {tmp_path}/others, namespaces: [default], rights: [write]}}
"""
    )
    return {"policy_file": str(tmp_path / "policy.yaml")}


async def test_calls_to_the_encoder_carry_the_token_of_the_file(
    start: Start, guarded: dict[str, Any], connect: Connect, tmp_path: Path
) -> None:
    encoder = await start(access=guarded)
    (tmp_path / "token").write_text(f"{TOKEN}\n{OTHER_TOKEN}\n")
    front = await start(**of_encoder(encoder.address, token_file=str(tmp_path / "token")))
    assert await connect(front.address).embed(5) == [5, 5, 5]


async def test_another_token_is_used_without_a_restart(
    start: Start,
    guarded: dict[str, Any],
    connect: Connect,
    tmp_path: Path,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    encoder = await start(access=guarded)
    token = tmp_path / "token"
    token.write_text("a-token-that-is-not-known")
    front = await start(**of_encoder(encoder.address, token_file=str(token)))
    await eventually(lambda: faults(logs))
    assert faults(logs) == [
        "it does not know who calls: check encoder.token_file, or upstream_tls.cert_file"
    ]
    with pytest.raises(grpc.aio.AioRpcError, match=r"does not know who calls: check encoder\."):
        await connect(front.address).embed(1)
    token.write_text(TOKEN)
    await eventually(lambda: any(log["event"] == "the encoder serves" for log in logs))
    assert await connect(front.address).embed(5) == [5, 5, 5]
    assert not any(TOKEN in str(log) for log in logs)


async def test_a_caller_hears_that_the_encoder_refuses_the_sidecar_and_it_is_tried_once(
    start: Start,
    guarded: dict[str, Any],
    connect: Connect,
    tmp_path: Path,
    logs: list[Any],
    eventually: Eventually,
) -> None:
    encoder = await start(access=guarded)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    front = connect((await start(**of_encoder(encoder.address, token_file=str(token)))).address)
    assert await front.embed(1) == [1, 1, 1]
    for wrong, reason in (
        ("a-token-that-is-not-known", "does not know who calls"),
        (OTHER_TOKEN, "does not let this sidecar do that"),
    ):
        logs.clear()
        token.write_text(wrong)
        await eventually(lambda: any(log["event"] == READ for log in logs))
        code, details = await front.fault_of_item(2)
        assert code == INTERNAL.value[0]
        assert f"the encoder at {encoder.address} refuses calls" in details
        assert reason in details
        (logged,) = faults(logs)
        assert reason in logged


async def test_a_token_is_not_sent_where_others_could_read_it(start: Start, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    sections = of_encoder("dns:///encoders:50551", token_file=str(tmp_path / "token"))
    with pytest.raises(SetupError, match="the token would go to dns:///encoders:50551 without"):
        # That is said of the listeners.
        await start(**sections, server={"insecure": True})
    sections["encoder"]["insecure_token"] = True
    async with contextlib.AsyncExitStack() as exits:
        assert open_upstream(Settings.model_validate(sections), exits).token is not None


@pytest.mark.parametrize("content", ["", "\n", "two words\na-token", "\N{SNOWMAN}"])
async def test_a_file_without_a_token_is_refused_at_start(
    start: Start, tmp_path: Path, content: str
) -> None:
    (tmp_path / "token").write_text(content)
    sections = of_encoder("127.0.0.1:1", token_file=str(tmp_path / "token"))
    with pytest.raises(
        SetupError, match=r"encoder\.token_file: .*: the first line has to be a token"
    ):
        await start(**sections)


async def test_certificates_that_cannot_be_used_are_refused_at_start(
    start: Start, caller: Party, tmp_path: Path
) -> None:
    caller.pair.put(caller.files[0].read_bytes(), caller.authority.issue()[1])
    (tmp_path / "empty").write_bytes(b"")
    for settings, reason in (
        (upstream_tls(caller), "KEY_VALUES_MISMATCH"),
        ({"enabled": True, "ca_file": str(tmp_path / "empty")}, "empty"),
        ({"enabled": True, "ca_file": str(tmp_path / "none")}, "cannot read .*none: No such file"),
    ):
        with pytest.raises(SetupError, match=f"upstream_tls.*{reason}"):
            await start(**of_encoder("127.0.0.1:1"), upstream_tls=settings)
