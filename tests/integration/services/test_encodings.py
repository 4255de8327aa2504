"""Vectors on the wire: exact from every tier, or rounded as asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from embercache.v1 import common_pb2, embed_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.dev_redis import DevRedis

    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

TEXTS = ("one", "another text", "~" * 60)
BYPASS = common_pb2.CACHE_MODE_BYPASS
ENCODINGS = (embed_pb2.ENCODING_FLOAT32, embed_pb2.ENCODING_FLOAT16, embed_pb2.ENCODING_INT8)


def decoded(response: embed_pb2.EmbedResponse) -> list[NDArray[np.float32]]:
    vectors = []
    for embedding in response.embeddings:
        match response.encoding:
            case embed_pb2.ENCODING_FLOAT32:
                vector = np.frombuffer(embedding.vector, "<f4")
            case embed_pb2.ENCODING_FLOAT16:
                vector = np.frombuffer(embedding.vector, "<f2").astype(np.float32)
            case embed_pb2.ENCODING_INT8:
                vector = np.frombuffer(embedding.vector, "i1") * np.float32(embedding.scale)
        assert len(vector) == response.dimensions
        vectors.append(vector)
    return vectors


async def test_a_float32_vector_is_the_same_to_the_bit_from_every_tier(
    start: Start, noisy_pack: Path, redis_server: DevRedis, tmp_path: Path
) -> None:
    # The model never gives the same vector twice, so that only the cache can.
    folder = tmp_path / "disk"
    sidecar = await start(packs=[noisy_pack], redis=redis_server, disk=folder)
    computed = await sidecar.vectors(*TEXTS)
    for tier, disk in (("HOT", folder), ("DISK", folder), ("WARM", None)):
        if tier != "HOT":
            await sidecar.stop()  # what it had to write is written
            sidecar = await start(packs=[noisy_pack], redis=redis_server, disk=disk)
            # So that a computation gives something new: the noise starts alike in all.
            await sidecar.embed("something else", mode=BYPASS)
        response = await sidecar.embed(*TEXTS)
        assert {common_pb2.Tier.Name(e.tier) for e in response.embeddings} == {f"TIER_{tier}"}
        assert [e.vector for e in response.embeddings] == computed
    assert await sidecar.vectors(*TEXTS, mode=BYPASS) != computed


@pytest.mark.parametrize("encoding", ENCODINGS, ids=embed_pb2.Encoding.Name)
async def test_a_rounded_vector_is_close_to_the_exact_one(
    encoding: embed_pb2.Encoding.ValueType, start: Start
) -> None:
    sidecar = await start()
    exact = decoded(await sidecar.embed(*TEXTS))
    for _ in range(2):  # from items, then as a stored response
        response = await sidecar.embed(*TEXTS, encoding=encoding)
        assert response.encoding == encoding
        for vector, truth, embedding in zip(
            decoded(response), exact, response.embeddings, strict=True
        ):
            bound = {
                embed_pb2.ENCODING_FLOAT32: 0,
                embed_pb2.ENCODING_FLOAT16: 2**-11 * np.abs(truth).max(),
                embed_pb2.ENCODING_INT8: embedding.scale * 0.501,
            }[encoding]
            assert np.abs(vector - truth).max() <= bound
            is_int8 = encoding == embed_pb2.ENCODING_INT8
            assert (embedding.scale > 0) == is_int8
            if is_int8:
                assert np.abs(np.frombuffer(embedding.vector, "i1")).max() == 127


async def test_another_encoding_of_a_cached_text_computes_nothing(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("a text", encoding=embed_pb2.ENCODING_INT8)
    for encoding in ENCODINGS:
        assert await sidecar.tiers("a text", encoding=encoding) == ["HOT"]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=embed_pb2.Encoding.Name)
@pytest.mark.parametrize("codec", ["float32", "float16", "int8"])
async def test_the_first_answer_is_the_same_as_all_later_ones_whatever_the_storage_codec(
    codec: str,
    encoding: embed_pb2.Encoding.ValueType,
    start: Start,
    tmp_path: Path,
) -> None:
    sidecar = await start(cache={"codec": codec}, disk=tmp_path / "disk")
    first = await sidecar.embed(*TEXTS, encoding=encoding)
    hot = await sidecar.embed(*TEXTS, encoding=encoding)
    await sidecar.on_disk(3)
    await sidecar.flush(common_pb2.TIER_HOT)
    disk = await sidecar.embed(*TEXTS, encoding=encoding)
    assert disk.embeddings[0].tier == common_pb2.TIER_DISK
    for response in (hot, disk):
        for again, before in zip(response.embeddings, first.embeddings, strict=True):
            assert again.vector == before.vector
            assert again.scale == before.scale


async def test_sidecars_with_different_storage_codecs_share_nothing(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    small = await start(redis=redis_server, cache={"codec": "int8"})
    exact = await start(redis=redis_server)
    (rounded,) = await small.vectors("a text")
    await eventually(view(redis_server).entries)
    # Who is promised exact vectors is never given a rounded one.
    assert await exact.tiers("a text") == ["COMPUTED"]
    assert await exact.vectors("a text") != [rounded]
    assert await small.vectors("a text") == [rounded]
