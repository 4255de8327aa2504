"""Models of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import embed_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]

INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
PIXELS = np.arange(6, dtype=np.float32).reshape(2, 3)


def tensor(dtype: int, shape: list[int], data: bytes) -> embed_pb2.Input:
    return embed_pb2.Input(tensor=embed_pb2.Tensor(dtype=dtype, shape=shape, data=data))


async def test_a_tensor_is_computed_once_and_then_hot(start: Start, tensor_pack: Path) -> None:
    sidecar = await start(packs=[tensor_pack])
    assert await sidecar.tiers(PIXELS, PIXELS + 1) == ["COMPUTED", "COMPUTED"]
    assert await sidecar.tiers(PIXELS, PIXELS + 1) == ["HOT", "HOT"]
    (vector, _) = await sidecar.vectors(PIXELS, PIXELS + 1)
    assert np.frombuffer(vector, "<f4").tolist() == [1.5, 2.5, 3.5]


async def test_one_bit_makes_another_tensor(start: Start, tensor_pack: Path) -> None:
    sidecar = await start(packs=[tensor_pack])
    other = PIXELS.copy()
    other[0, 0] = -0.0
    await sidecar.embed(PIXELS)
    assert await sidecar.tiers(other) == ["COMPUTED"]


async def test_the_model_is_listed_as_one_of_tensors(start: Start, tensor_pack: Path) -> None:
    sidecar = await start(packs=[tensor_pack])
    (model,) = (await sidecar.embeds.ListModels(embed_pb2.ListModelsRequest())).models
    assert model.accepts_tensor
    assert not model.accepts_text
    assert model.max_tokens == 0
    assert (await sidecar.embed(PIXELS)).embeddings[0].tokens == 0


BAD_TENSORS = {
    "another shape": (
        tensor(embed_pb2.DTYPE_FLOAT32, [3, 2], bytes(24)),
        "float32 tensors of shape [2, 3], not float32 of [3, 2]",
    ),
    "another dtype": (
        tensor(embed_pb2.DTYPE_INT32, [2, 3], bytes(24)),
        "float32 tensors of shape [2, 3], not int32 of [2, 3]",
    ),
    "too few bytes": (
        tensor(embed_pb2.DTYPE_FLOAT32, [2, 3], bytes(20)),
        "20 bytes; its shape and dtype make 24",
    ),
    "too many bytes": (
        tensor(embed_pb2.DTYPE_UINT8, [2, 3], bytes(7)),
        "7 bytes; its shape and dtype make 6",
    ),
    "no dtype": (tensor(0, [2, 3], bytes(24)), "tensor.dtype has the unknown value 0"),
    "unknown dtype": (tensor(77, [2, 3], bytes(24)), "tensor.dtype has the unknown value 77"),
    "a size of zero": (tensor(embed_pb2.DTYPE_FLOAT32, [0, 3], b""), "all of them positive"),
    "a negative size": (
        tensor(embed_pb2.DTYPE_FLOAT32, [-2, -3], bytes(24)),
        "all of them positive",
    ),
    "sizes whose product overflows": (
        tensor(embed_pb2.DTYPE_FLOAT32, [2**30] * 8, bytes(24)),
        "its shape and dtype make",
    ),
    "nine dimensions": (
        tensor(embed_pb2.DTYPE_FLOAT32, [1] * 9, bytes(4)),
        "at most 8 dimensions",
    ),
    "no dimensions": (
        tensor(embed_pb2.DTYPE_FLOAT32, [], bytes(4)),
        "not float32 of []",
    ),
    "a text": (embed_pb2.Input(text="a text"), "takes tensors, not text"),
    "nothing": (embed_pb2.Input(), "set its text, entity or tensor"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_TENSORS.values(), ids=BAD_TENSORS.keys())
async def test_a_bad_tensor_fails_alone(
    bad: embed_pb2.Input, message: str, start: Start, tensor_pack: Path
) -> None:
    sidecar = await start(packs=[tensor_pack])
    good, failed, again = (await sidecar.embed(PIXELS, bad, PIXELS + 1)).embeddings
    assert failed.error.code == INVALID
    assert message in failed.error.message
    assert good.vector
    assert again.vector


async def test_a_model_of_texts_takes_no_tensors(start: Start) -> None:
    sidecar = await start()
    good, failed = (await sidecar.embed("a text", PIXELS)).embeddings
    assert good.vector
    assert failed.error.code == INVALID
    assert failed.error.message == "model tiny takes text, not tensors"


async def test_a_tensor_without_a_finite_vector_is_an_error(
    start: Start, tensor_pack: Path
) -> None:
    sidecar = await start(packs=[tensor_pack])
    for _ in range(2):
        bad, good = (await sidecar.embed(PIXELS * np.nan, PIXELS)).embeddings
        assert bad.error.code == grpc.StatusCode.INTERNAL.value[0]
        assert good.vector
