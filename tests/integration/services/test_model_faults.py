"""Models that answer with nonsense: an error for the input, and nothing is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import common_pb2
from structlog.testing import capture_logs

from sidecar.models.local import LocalEmbedder
from sidecar.telemetry.logging import trace_without_values

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]

INTERNAL = grpc.StatusCode.INTERNAL.value[0]
NAN, CRASH = "\N{SKULL AND CROSSBONES}", "\N{HIGH VOLTAGE SIGN}"


@pytest.mark.parametrize(
    ("bad", "reason"), [(NAN, "NaN or infinity"), (CRASH, "InvalidArgument")], ids=["nan", "crash"]
)
async def test_a_text_without_a_vector_is_an_error_and_is_never_stored(
    bad: str, reason: str, start: Start, redis_server: DevRedis, tmp_path: Path, view: View
) -> None:
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    for _ in range(3):
        first, failed, last = (await sidecar.embed("first", f"bad {bad}", "last")).embeddings
        assert failed.error.code == INTERNAL
        assert failed.error.message.startswith(
            f"model tiny gave no vector for this input ({reason}"
        )
        assert not failed.vector
        assert failed.tier == common_pb2.TIER_UNSPECIFIED
        assert first.vector
        assert last.vector
        assert first.vector != last.vector
    await sidecar.stop()
    assert len(view(redis_server).entries()) == 2


async def test_the_vectors_beside_a_bad_text_are_those_of_their_own_texts(start: Start) -> None:
    sidecar = await start()
    alone = {text: (await sidecar.vectors(text, namespace="alone"))[0] for text in "abcdefgh"}
    for bad in (NAN, CRASH):
        batch = ["a", "b", bad, "c", bad, "d", "e", bad]
        response = await sidecar.embed(*batch, namespace="n" + str(ord(bad)))
        for text, embedding in zip(batch, response.embeddings, strict=True):
            if text == bad:
                assert embedding.error.code == INTERNAL
            else:
                got, truth = (np.frombuffer(v, "<f4") for v in (embedding.vector, alone[text]))
                assert np.allclose(got, truth, atol=1e-6)


async def test_failed_items_are_counted(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("good", NAN, CRASH)
    stats = await sidecar.stats()
    assert stats.items_failed == 2
    assert stats.models[0].computed == 1


async def test_a_call_in_which_every_item_fails_for_good_is_still_an_answer(
    start: Start,
) -> None:
    sidecar = await start()
    response = await sidecar.embed(NAN, CRASH)
    assert [e.error.code for e in response.embeddings] == [INTERNAL, INTERNAL]


async def test_an_unexpected_fault_is_told_without_its_message_and_logged_once_a_call(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await start()

    def fault(embedder: LocalEmbedder, inputs: list[str]) -> None:
        raise RuntimeError(f"cannot read {inputs[0]}")

    monkeypatch.setattr(LocalEmbedder, "submit", fault)
    with capture_logs() as log:
        response = await sidecar.embed(*(f"text of a user {number}" for number in range(100)))
    assert [e.error.code for e in response.embeddings] == [INTERNAL] * 100
    assert "text of a user" not in str(response)
    (entry,) = log
    shown = trace_without_values(None, "error", entry)
    assert "RuntimeError" in shown["exception"]
    assert "text of a user" not in str(shown)
