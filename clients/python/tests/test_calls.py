"""What all calls have in common: addresses, deadlines, retries, errors, the end of a client."""

from __future__ import annotations

import asyncio
import json
import pickle
from pathlib import Path

import grpc
import numpy as np
import pytest

from embercache import (
    AsyncClient,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    Document,
    EmbercacheError,
    Event,
    InternalError,
    InvalidArgumentError,
    ModelNotFoundError,
    OverloadedError,
    PartialFailureError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    VersionMismatchError,
    _backoff,
    _channel,
)

HANG_GUARD = 30.0
TABLE = Path(__file__).parents[2] / "testdata/addresses.txt"
LINES = [line.split(" ", 1) for line in TABLE.read_text("utf-8").splitlines()]
ADDRESSES = {
    kind: [each for of, each in LINES if of == kind] for kind in ("accept", "refuse", "socket")
}
CLASSES = {
    "CANCELLED": EmbercacheError,
    "UNKNOWN": InternalError,
    "INVALID_ARGUMENT": InvalidArgumentError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "NOT_FOUND": ModelNotFoundError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "RESOURCE_EXHAUSTED": OverloadedError,
    "FAILED_PRECONDITION": VersionMismatchError,
    "UNIMPLEMENTED": EmbercacheError,
    "INTERNAL": InternalError,
    "UNAVAILABLE": UnavailableError,
    "DATA_LOSS": InternalError,
    "UNAUTHENTICATED": UnauthenticatedError,
}


@pytest.mark.parametrize("code", CLASSES)
def test_each_status_has_its_error_with_code_message_and_cause(client, sidecar, code):
    sidecar.call_faults = [code] * 5
    with pytest.raises(EmbercacheError) as caught:
        client.embed(["one"])
    error = caught.value
    assert type(error) is CLASSES[code]
    assert (error.code, error.message, error.index) == (code, "told to fail", None)
    assert "told to fail" in error.details or code == "CANCELLED"
    assert isinstance(error.__cause__, grpc.RpcError)
    assert str(error) == f"told to fail ({code})"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"])
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.embed(["one"]),
        lambda client: client.models(),
        lambda client: client.stats(),
        lambda client: client.flush(),
        lambda client: client.invalidate(tags=["a"]),
        lambda client: client.search("q"),
        lambda client: client.upsert([Document("1", "text")]),
        lambda client: client.delete(["1"]),
        lambda client: client.rerank("q", ["a"]),
        lambda client: client.publish_events([Event("created")]),
        lambda client: client.generate("p"),
        lambda client: list(client.generate_stream("p")),
        lambda client: client.generators(),
        lambda client: client.rollback_model("m"),
    ],
    ids=[
        "embed",
        "models",
        "stats",
        "flush",
        "invalidate",
        "search",
        "upsert",
        "delete",
        "rerank",
        "publish_events",
        "generate",
        "generate_stream",
        "generators",
        "rollback_model",
    ],
)
def test_a_call_that_fails_for_the_moment_is_repeated(client, sidecar, call, code):
    sidecar.call_faults = [code, code]
    call(client)
    assert len(sidecar.requests) == 3


def test_a_call_is_tried_five_times_at_most(client, sidecar):
    sidecar.call_faults = ["UNAVAILABLE"] * 9
    with pytest.raises(UnavailableError):
        client.embed(["one"])
    assert len(sidecar.requests) == 5


def test_a_large_request_is_repeated_too(client, sidecar):
    sidecar.call_faults = ["UNAVAILABLE"]
    client.embed(["x" * 3_000_000])
    assert len(sidecar.requests) == 2


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_a_call_that_is_wrong_is_not_repeated(client, sidecar, code):
    sidecar.call_faults = [code]
    with pytest.raises(CLASSES[code]):
        client.embed(["one"])
    assert len(sidecar.requests) == 1


@pytest.mark.parametrize("how", ["client", "call"])
def test_a_call_ends_at_its_deadline(make_client, sidecar, how):
    sidecar.gate.clear()
    client = make_client(sidecar.address, **({"timeout": 0.1} if how == "client" else {}))
    with pytest.raises(DeadlineExceededError) as caught:
        client.embed(["one"], **({"timeout": 0.1} if how == "call" else {}))
    assert isinstance(caught.value, TimeoutError)


def test_answers_larger_than_the_default_of_grpc_are_received(client, sidecar):
    def enlarge(response):
        response.dimensions = 2_000_000
        response.embeddings[0].vector = bytes(8_000_000)

    sidecar.tamper = enlarge
    assert client.embed(["one"]).vectors.shape == (1, 2_000_000)


def test_a_proxy_in_the_environment_is_not_used(make_client, sidecar, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert make_client(sidecar.address).health()


@pytest.mark.parametrize("prefix", ["unix:", "unix://"])
def test_a_unix_socket_is_an_address(make_client, sidecar, serve, tmp_path, prefix):
    serve(sidecar, f"unix:{tmp_path}/s")
    client = make_client(f"{prefix}{tmp_path}/s")
    np.testing.assert_array_equal(client.embed(["one"]).vectors[0], sidecar.vector("one"))


def test_without_an_address_that_of_the_environment_is_used(make_client, sidecar, monkeypatch):
    monkeypatch.setenv("EMBERCACHE_ADDRESS", sidecar.address)
    assert make_client().health()


def test_the_address_given_goes_before_the_environment_and_the_default_comes_last(monkeypatch):
    monkeypatch.setenv("EMBERCACHE_ADDRESS", "from.environment:1")
    assert _channel.place("given:1").target == "given:1"
    assert _channel.place(None).target == "from.environment:1"
    monkeypatch.setenv("EMBERCACHE_ADDRESS", "")
    assert _channel.place(None).target == "127.0.0.1:50551"


@pytest.mark.parametrize("address", ADDRESSES["accept"])
def test_what_is_an_address_is_taken(make_client, address):
    make_client(address)


@pytest.mark.parametrize("name", ADDRESSES["socket"])
def test_a_socket_may_have_any_name(make_client, sidecar, serve, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    serve(sidecar, "unix:s")
    (tmp_path / "s").rename(tmp_path / name)
    for address in (f"unix:{tmp_path}/{name}", f"unix://{tmp_path}/{name}", f"unix:{name}"):
        assert make_client(address).embed(["one"]).tiers == ["hot"]


@pytest.mark.parametrize("address", ADDRESSES["refuse"])
def test_what_is_no_address_is_refused_with_the_forms_that_are(make_client, address):
    with pytest.raises(InvalidArgumentError, match="write host:port") as caught:
        make_client(address)
    assert repr(address) in str(caught.value)


def test_a_wrong_address_in_the_environment_is_named_so(monkeypatch):
    monkeypatch.setenv("EMBERCACHE_ADDRESS", "localhost")
    with pytest.raises(InvalidArgumentError, match="EMBERCACHE_ADDRESS is 'localhost'"):
        _channel.place(None)


@pytest.mark.usefixtures("slow_retries")
def test_calls_are_tried_for_about_three_seconds(monkeypatch):
    monkeypatch.setattr(_backoff.random, "uniform", lambda low, high: (low + high) / 2)
    waits = [_backoff.delay(failures) for failures in range(1, _backoff.ATTEMPTS)]
    assert waits == pytest.approx([0.1, 0.3, 0.9, 2.0])
    config = json.loads(dict(_channel.OPTIONS)["grpc.service_config"])
    policy = config["methodConfig"][0]["retryPolicy"]
    del policy["retryableStatusCodes"]
    assert policy == {
        "maxAttempts": 5,
        "initialBackoff": "0.1s",
        "maxBackoff": "2.0s",
        "backoffMultiplier": 3.0,
    }


@pytest.mark.usefixtures("slow_retries")
def test_a_client_may_be_there_before_its_sidecar(make_client, sidecar, serve, tmp_path):
    client = make_client(f"unix:{tmp_path}/s")
    with pytest.raises(UnavailableError):
        client.health()
    serve(sidecar, f"unix:{tmp_path}/s")
    assert client.embed(["one"]).tiers == ["hot"]


@pytest.mark.usefixtures("slow_retries")
def test_a_client_outlives_a_restart_of_its_sidecar(make_client, sidecar, serve, tmp_path):
    address = f"unix:{tmp_path}/s"
    server = serve(sidecar, address)
    client = make_client(address)
    client.embed(["one"])
    server.stop(None).wait()
    serve(sidecar, address)
    assert client.embed(["one"]).tiers == ["hot"]


def test_a_closed_client_says_so(client):
    client.embed(["one"])
    client.close()
    client.close()
    for call in (client.health, client.models, lambda: client.embed(["one"])):
        with pytest.raises(ClientClosedError, match="make a new one"):
            call()
    for results in (client.embed_stream(["one"]), client.warm_embed(["one"])):
        with pytest.raises(ClientClosedError):
            next(results)


def test_a_client_closes_at_the_end_of_its_block(sidecar):
    with Client(sidecar.address) as client:
        client.health()
    with pytest.raises(ClientClosedError):
        client.health()


async def test_an_asyncio_client_closes_at_the_end_of_its_block(sidecar):
    async with AsyncClient(sidecar.address) as client:
        await client.health()
    with pytest.raises(ClientClosedError):
        await client.health()


def test_an_asyncio_client_may_be_made_without_a_loop(sidecar):
    client = AsyncClient(sidecar.address)

    async def use():
        async with client:
            return await client.embed(["one"])

    assert len(asyncio.run(use())) == 1


def test_an_asyncio_client_refuses_a_second_loop(sidecar, loop):
    client = AsyncClient(sidecar.address)
    loop.run_until_complete(client.health())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(client.health())
    loop.run_until_complete(client.close())


async def test_many_calls_of_an_asyncio_client_run_at_the_same_time(sidecar):
    async with AsyncClient(sidecar.address) as client:
        texts = [str(i) for i in range(50)]
        results = await asyncio.gather(*(client.embed([text]) for text in texts))
    for text, result in zip(texts, results, strict=True):
        np.testing.assert_array_equal(result.vectors, [sidecar.vector(text)])


async def test_a_cancelled_call_is_cancelled_and_not_turned_into_an_error(sidecar):
    sidecar.gate.clear()
    async with AsyncClient(sidecar.address) as client:
        task = asyncio.create_task(client.embed(["one"]))
        assert await asyncio.to_thread(sidecar.hanging.wait, HANG_GUARD)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_errors_can_be_pickled(client, sidecar):
    sidecar.item_faults = {"bad": ["INVALID_ARGUMENT"]}
    with pytest.raises(PartialFailureError) as caught:
        client.embed(["one", "bad"])
    for error in (caught.value, caught.value.errors[1], DeadlineExceededError("m", details="d")):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert type(copy) is type(error)
        assert (str(copy), copy.code, copy.index) == (str(error), error.code, error.index)
        assert copy.details == error.details
