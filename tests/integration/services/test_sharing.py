"""What sidecars on one Redis share, and what they never do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]


async def test_what_one_sidecar_computed_another_serves(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    vectors = await one.vectors("one", "two")
    await eventually(lambda: len(view(redis_server).entries()) == 2)
    assert await two.tiers("one", "two", "three") == ["WARM", "WARM", "COMPUTED"]
    assert await two.vectors("one", "two") == vectors
    assert await two.computed() == 1


async def test_another_version_of_a_model_never_sees_the_entries_of_this_one(
    start: Start,
    redis_server: DevRedis,
    other_tiny_pack: Path,
    view: View,
    eventually: Eventually,
) -> None:
    old = await start(redis=redis_server)
    new = await start(redis=redis_server, packs=[other_tiny_pack])
    (old_vector,) = await old.vectors("a text")
    await eventually(view(redis_server).entries)
    assert await new.tiers("a text") == ["COMPUTED"]
    (new_vector,) = await new.vectors("a text")
    assert new_vector != old_vector
    # Both live side by side.
    await eventually(lambda: len(view(redis_server).entries()) == 2)
    for sidecar, vector in ((old, old_vector), (new, new_vector)):
        await sidecar.flush()
        assert await sidecar.tiers("a text") == ["WARM"]
        assert await sidecar.vectors("a text") == [vector]


async def test_calls_that_name_no_namespace_use_that_of_the_sidecar(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    orders = await start(redis=redis_server, cache={"namespace": "orders"})
    carts = await start(redis=redis_server, cache={"namespace": "carts"})
    assert await orders.tiers("a text") == ["COMPUTED"]
    await eventually(view(redis_server).entries)
    assert await carts.tiers("a text") == ["COMPUTED"]
    assert await carts.tiers("a text", namespace="orders") == ["WARM"]
    assert await orders.tiers("a text", namespace="orders") == ["HOT"]


async def test_two_models_of_one_sidecar_have_entries_of_their_own(
    start: Start, tiny_pack: Path, make_pack: Callable[..., Path]
) -> None:
    sidecar = await start(packs=[tiny_pack, make_pack("other", "second", seed=2)])
    first = await sidecar.vectors("a text")
    assert await sidecar.tiers("a text", model="second") == ["COMPUTED"]
    assert await sidecar.vectors("a text", model="second") != first
    assert await sidecar.vectors("a text", model="tiny") == first


async def test_a_namespace_never_sees_the_entries_of_another(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    one, two = await start(redis=redis_server), await start(redis=redis_server)
    await one.embed("a text", namespace="a")
    await eventually(view(redis_server).entries)
    for sidecar in (one, two):
        assert await sidecar.tiers("a text", namespace="b" if sidecar is one else "c") == [
            "COMPUTED"
        ]
    assert await two.tiers("a text", namespace="a") == ["WARM"]


async def test_the_empty_namespace_is_the_one_called_default(start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("a text")
    assert await sidecar.tiers("a text", namespace="default") == ["HOT"]


@pytest.mark.parametrize(
    "cache", [{"salt": "another secret"}, {"prefix": "another"}], ids=["salt", "prefix"]
)
async def test_a_sidecar_with_another_salt_or_prefix_shares_nothing(
    cache: dict[str, str],
    start: Start,
    redis_server: DevRedis,
    view: View,
    eventually: Eventually,
) -> None:
    one = await start(redis=redis_server)
    await one.embed("a text")
    await eventually(view(redis_server).entries)
    two = await start(redis=redis_server, cache=cache)
    assert await two.tiers("a text") == ["COMPUTED"]


async def test_the_first_to_store_wins_when_two_sidecars_compute_the_same(
    start: Start,
    redis_server: DevRedis,
    noisy_pack: Path,
    held_model: HeldModel,
    view: View,
    eventually: Eventually,
) -> None:
    late = await start(redis=redis_server, packs=[noisy_pack])
    call = asyncio.create_task(late.vectors("a text"))
    await eventually(lambda: held_model.sizes)
    held_model.holds = False
    early = await start(redis=redis_server, packs=[noisy_pack])
    await early.embed("something else")  # noise starts alike in both
    (stored,) = await early.vectors("a text")
    await eventually(lambda: len(view(redis_server).entries()) == 2)
    held_model.let_go()
    (computed,) = await call
    assert computed != stored
    assert np.allclose(np.frombuffer(computed, "<f4"), np.frombuffer(stored, "<f4"), atol=0.1)
    await late.stop()  # what it had to write is written
    third = await start(redis=redis_server, packs=[noisy_pack])
    assert await third.tiers("a text") == ["WARM"]
    assert await third.vectors("a text") == [stored]


async def test_no_key_in_redis_holds_a_text(
    start: Start, redis_server: DevRedis, view: View, eventually: Eventually
) -> None:
    sidecar = await start(redis=redis_server)
    await sidecar.embed("a-marker-in-a-text", tags=["a-marker-in-a-tag"])
    client = view(redis_server).client
    await eventually(view(redis_server).entries)
    everything = repr([(key, client.dump(key)) for key in client.scan_iter()])
    assert "marker" not in everything
