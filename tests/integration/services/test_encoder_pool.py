"""Sidecars without a model of their own, in front of others that encode."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import common_pb2, embed_pb2

from sidecar.cache.disk import DiskTier
from sidecar.models.speed import Speed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

Code = grpc.StatusCode
SMALL = {"address": "127.0.0.1:0", "max_batch_items": 4, "drain_delay": 0}


@pytest.fixture
def free_address() -> str:
    """An address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def at(address: str) -> dict[str, Any]:
    return {"server": {"address": address, "drain_delay": 0, "drain_timeout": 1}}


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status that a call ends with, and its message."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details()


async def test_an_encoder_computes_what_the_front_has_not(start: Start, start_front: Start) -> None:
    encoder = await start()
    front = await start_front(encoder.address)
    assert await front.tiers("one", "two") == ["COMPUTED", "COMPUTED"]
    assert await front.tiers("one", "two") == ["HOT", "HOT"]
    assert await front.vectors("one", "two") == await encoder.vectors(
        "one", "two", namespace="elsewhere"
    )
    (model,) = (await front.embeds.ListModels(embed_pb2.ListModelsRequest())).models
    (truth,) = (await encoder.embeds.ListModels(embed_pb2.ListModelsRequest())).models
    assert model.runs_on == encoder.address
    assert (model.name, model.version, model.dimensions) == (
        truth.name,
        truth.version,
        truth.dimensions,
    )


async def test_the_encoder_stores_nothing_for_the_front(start: Start, start_front: Start) -> None:
    encoder = await start()
    front = await start_front(encoder.address)
    await front.embed("a text")
    assert await encoder.tiers("a text") == ["COMPUTED"]


async def test_calls_are_spread_over_all_encoders(start: Start, start_front: Start) -> None:
    encoders = [await start(), await start()]
    front = await start_front(*(encoder.address for encoder in encoders))
    for number in range(20):
        await front.embed(f"text {number}")
    shares = [await encoder.computed() for encoder in encoders]
    assert sum(shares) == 20
    assert min(shares) >= 5


async def test_the_prompt_of_an_input_type_reaches_the_encoder(
    start: Start, start_front: Start, make_pack: Callable[..., Path]
) -> None:
    encoder = await start(packs=[make_pack("p", prompts={"query": "find: "})])
    front = await start_front(encoder.address)
    query = {"input_type": embed_pb2.INPUT_TYPE_QUERY}
    assert await front.vectors("a text", **query) == await front.vectors("find: a text")
    assert await front.vectors("a text", **query) != await front.vectors("a text")


async def test_a_batch_larger_than_a_call_comes_back_in_order(
    start: Start, start_front: Start
) -> None:
    encoder = await start()
    front = await start_front(encoder.address)
    texts = [f"text {number}" for number in range(1000)]
    vectors = await front.vectors(*texts)
    truth = await encoder.vectors(*texts)
    for vector, exact in zip(vectors, truth, strict=True):
        assert np.allclose(np.frombuffer(vector, "<f4"), np.frombuffer(exact, "<f4"), atol=1e-6)
    assert (await front.stats()).models[0].batches >= 4


async def test_long_texts_of_four_byte_characters_fit_the_encoders_messages(
    start: Start, start_front: Start
) -> None:
    limits = {"max_message_bytes": 6 * 2**20, "max_text_bytes": 2**20}
    encoder = await start(server={"address": "127.0.0.1:0", "drain_delay": 0, **limits})
    front = await start_front(encoder.address)
    texts = [f"{number} " + "\N{GRINNING FACE}" * 200_000 for number in range(12)]
    assert await front.tiers(*texts) == ["COMPUTED"] * 12


async def test_tensors_are_encoded_too(start: Start, start_front: Start, tensor_pack: Path) -> None:
    encoder = await start(packs=[tensor_pack])
    front = await start_front(encoder.address, model="tensors")
    pixels = np.arange(6, dtype=np.float32).reshape(2, 3)
    (vector,) = await front.vectors(pixels)
    assert np.frombuffer(vector, "<f4").tolist() == [1.5, 2.5, 3.5]
    (bad,) = (await front.embed(pixels.T.copy())).embeddings
    assert bad.error.code == Code.INVALID_ARGUMENT.value[0]
    assert "float32 tensors of shape [2, 3]" in bad.error.message


async def test_an_input_that_the_encoder_refuses_fails_alone(
    start: Start, start_front: Start
) -> None:
    encoder = await start(server={"address": "127.0.0.1:0", "max_text_bytes": 10})
    front = await start_front(encoder.address)
    good, long, nan = (await front.embed("good", "x" * 11, "\N{SKULL AND CROSSBONES}")).embeddings
    assert good.vector
    assert long.error.code == Code.INVALID_ARGUMENT.value[0]
    assert nan.error.code == Code.INTERNAL.value[0]
    assert nan.error.message == "model tiny gave no vector for this input (NaN or infinity)"


async def test_no_call_fails_when_one_of_two_encoders_stops(
    start: Start, start_front: Start
) -> None:
    encoders = [await start(), await start()]
    front = await start_front(*(encoder.address for encoder in encoders))
    done = asyncio.Event()

    async def call(worker: int) -> int:
        turn = 0
        while not done.is_set():
            (embedding,) = (await front.embed(f"{worker} {turn}")).embeddings
            assert not embedding.error.code
            turn += 1
        return turn

    workers = [asyncio.create_task(call(worker)) for worker in range(8)]
    while not await encoders[0].computed():
        pass
    await encoders[0].stop()
    before = await encoders[1].computed()
    while await encoders[1].computed() < before + 50:
        pass
    done.set()
    assert sum([await worker for worker in workers]) > 50


async def test_a_front_without_encoders_says_so_and_serves_when_they_come(
    start: Start, start_front: Start, free_address: str
) -> None:
    front = await start_front(free_address)
    code, details = await failure(front.embed("a text"))
    assert code == Code.UNAVAILABLE
    assert "has not answered yet: is it running, and does it serve tiny?" in details
    assert (await failure(front.embeds.ListModels(embed_pb2.ListModelsRequest())))[0] == code
    assert (await front.stats()).models[0].version == ""
    await start(**at(free_address))
    async with asyncio.timeout(20):
        while True:
            try:
                assert await front.tiers("a text") == ["COMPUTED"]
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() == Code.UNAVAILABLE  # noqa: PT017 - nothing else may happen
                await asyncio.sleep(0.01)


async def test_hits_are_served_while_no_encoder_is_there(
    start: Start, start_front: Start, free_address: str
) -> None:
    encoder = await start(**at(free_address))
    front = await start_front(free_address)
    await front.embed("old")
    await encoder.stop()
    assert await front.tiers("old") == ["HOT"]
    new, old = (await front.embed("new", "old")).embeddings
    assert old.vector
    assert new.error.code == Code.UNAVAILABLE.value[0]
    code, details = await failure(front.embed("new"))
    assert code == Code.UNAVAILABLE
    assert "cannot be reached: try again later" in details
    await start(**at(free_address))
    async with asyncio.timeout(20):
        while await front.tiers("old", "new") != ["HOT", "COMPUTED"]:
            pass


async def test_a_new_version_of_the_encoders_model_is_adopted(
    start: Start, start_front: Start, free_address: str, other_tiny_pack: Path
) -> None:
    encoder = await start(**at(free_address))
    front = await start_front(free_address)
    old = (await front.embed("a text")).embeddings[0]
    for _ in range(3):
        await front.embed("a text")
    await encoder.stop()
    encoder = await start(packs=[other_tiny_pack], **at(free_address))
    async with asyncio.timeout(20):  # until it is connected again
        while (await front.embed("a text", "another")).embeddings[1].error.code:
            pass
    # Every vector of one answer is of one version.
    response = await front.embed("a text", "yet another")
    new = response.embeddings[0]
    assert {e.model_version for e in response.embeddings} == {new.model_version}
    assert new.model_version != old.model_version
    assert [new.vector] == await encoder.vectors("a text")
    assert new.vector != old.vector
    # The stored answer to the very first request is not served any more either.
    assert await front.vectors("a text") == [new.vector]
    code, details = await failure(front.embed("a text", model_version=old.model_version))
    assert code == Code.FAILED_PRECONDITION
    assert new.model_version in details


async def test_who_asked_for_the_old_version_is_told_that_it_is_gone(
    start: Start, start_front: Start, free_address: str, other_tiny_pack: Path
) -> None:
    encoder = await start(**at(free_address))
    front = await start_front(free_address)
    version = (await front.embed("a text")).embeddings[0].model_version
    await encoder.stop()
    await start(packs=[other_tiny_pack], **at(free_address))
    async with asyncio.timeout(20):
        while True:
            code, _ = await failure(front.embed("new", model_version=version))
            if code != Code.UNAVAILABLE:
                break
    assert code == Code.FAILED_PRECONDITION


async def test_a_vector_is_never_stored_under_a_version_that_it_is_not_of(
    start: Start,
    start_front: Start,
    free_address: str,
    other_tiny_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = await start(**at(free_address))
    front = await start_front(free_address, disk=tmp_path / "disk")
    old = (await front.embed("a text")).embeddings[0]
    reached, opened = asyncio.Event(), asyncio.Event()

    async def slow_disk(tier: DiskTier, keys: Sequence[bytes]) -> list[bytes | None]:
        reached.set()
        await opened.wait()
        return [None] * len(keys)

    monkeypatch.setattr(DiskTier, "get_many", slow_disk)
    call = asyncio.create_task(front.embed("new"))
    await reached.wait()
    # While the disk is asked, another call finds out that the encoder has another model.
    await encoder.stop()
    encoder = await start(packs=[other_tiny_pack], **at(free_address))
    bypass = {"mode": common_pb2.CACHE_MODE_BYPASS}
    async with asyncio.timeout(20):
        while True:
            code = await front.embeds.Embed(front.request("other", **bypass), timeout=20).code()
            if code == Code.OK:
                break
    opened.set()
    embedding = (await call).embeddings[0]
    assert [embedding.vector] == await encoder.vectors("new")
    assert embedding.model_version != old.model_version


async def test_overload_of_the_encoder_reaches_the_caller(
    start: Start, start_front: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    encoder = await start(server=SMALL, encoder={"queue_inputs": 4})
    front = await start_front(encoder.address)
    held_model.holds = False
    await front.embed("old")
    held_model.holds = True
    busy = [asyncio.create_task(front.embed("running"))]
    await eventually(lambda: len(held_model.sizes) == 2)
    busy.append(asyncio.create_task(front.embed(*"abcd")))
    async with asyncio.timeout(20):
        while (await encoder.stats()).models[0].queued < 4:
            pass
    code, details = await failure(front.embed("one", "two"))
    assert code == Code.RESOURCE_EXHAUSTED
    assert "4 wait for the model already" in details
    old, new = (await front.embed("old", "new")).embeddings
    assert old.vector
    assert new.error.code == Code.RESOURCE_EXHAUSTED.value[0]
    assert (await front.stats()).models[0].shed == 3
    held_model.let_go()
    await asyncio.gather(*busy)


async def test_what_the_encoder_has_no_time_for_is_told_from_what_it_has_no_room_for(
    start: Start,
    start_front: Start,
    held_model: HeldModel,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Speed, "per_second", 1e-4)
    encoder = await start()
    front = await start_front(encoder.address)
    running = asyncio.create_task(front.embed("running"))
    await eventually(lambda: held_model.sizes)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await front.embeds.Embed(front.request("new"), timeout=20)
    assert error.value.code() == Code.RESOURCE_EXHAUSTED
    assert dict(error.value.trailing_metadata() or ())["embercache-reason"] == "deadline"
    for sidecar in (encoder, front):
        model = (await sidecar.stats()).models[0]
        assert (model.shed, model.refused_late) == (1, 1)
    held_model.let_go()
    await running


async def test_the_front_bounds_what_is_under_way(
    start: Start, start_front: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    encoder = await start()
    front = await start_front(encoder.address, server=SMALL, encoder={"queue_inputs": 4})
    calls = [asyncio.create_task(front.embed(f"text {number}")) for number in range(20)]
    await eventually(lambda: held_model.sizes)
    refused = [call for call in calls if call.done() and call.exception()]
    async with asyncio.timeout(20):
        while len(refused) < 16:
            await asyncio.sleep(0.005)
            refused = [call for call in calls if call.done() and call.exception()]
    model = (await front.stats()).models[0]
    assert (model.queued, model.shed) == (4, 16)
    held_model.let_go()
    results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert {error.code() for error in errors} == {Code.RESOURCE_EXHAUSTED}
    assert "under way to the encoder already" in errors[0].details()
    assert len(errors) == 16
    assert await encoder.computed() == 4


async def test_a_caller_that_goes_away_frees_the_encoder_too(
    start: Start, start_front: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    encoder = await start()
    front = await start_front(encoder.address)
    first = asyncio.create_task(front.embed("first"))
    await eventually(lambda: held_model.sizes)
    second = asyncio.create_task(front.embed("second", "and more"))
    async with asyncio.timeout(20):
        while (await encoder.stats()).models[0].queued < 2:
            pass
        second.cancel()
        while (await front.stats()).models[0].queued > 1:
            pass
    for _ in range(10):
        await front.stats()
        await encoder.stats()
    held_model.let_go()
    await first
    assert await front.tiers("third") == ["COMPUTED"]
    assert (await encoder.stats()).models[0].computed == 2
    assert (await encoder.stats()).models[0].abandoned == 2
    assert (await front.stats()).models[0].abandoned == 2


async def test_an_encoder_that_takes_too_long_is_given_up(
    start: Start, start_front: Start, held_model: HeldModel
) -> None:
    encoder = await start()
    front = await start_front(encoder.address, encoder={"timeout": 0.1})
    code, details = await failure(front.embed("a text"))
    assert code == Code.UNAVAILABLE
    assert "longer than encoder.timeout, 0.1 s" in details
    held_model.let_go()
