"""Parts of a cluster go and come back under load, and no call of an app fails.

Retries are those that the client has by default; "without retries" the app calls once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from embercache import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    Encoder = Any
    Load = Any
    Pod = Any
    Check = Callable[[list[dict[str, str]]], Awaitable[None]]

WITHOUT_RETRIES = "-retries=false"


def computed(encoder: Encoder) -> int:
    """How many texts a replica has computed since it was started."""
    with Client(encoder.address) as client:
        return client.stats().models[0].computed


async def test_an_encoder_that_is_killed_and_comes_back_fails_no_call_without_retries(
    encoders: list[Encoder], load: Callable[..., Load], check: Check
) -> None:
    running = load(WITHOUT_RETRIES)
    lost, other = encoders
    assert computed(lost) > 0
    lost.freeze()
    running.go_on(20)  # calls pile up there, which are lost with it
    lost.kill()
    before = computed(other)
    running.go_on(60)
    assert computed(other) > before
    lost.start()
    lost.wait_until_it_serves()
    while computed(lost) == 0:
        running.go_on(10)
    await check(running.end())


async def test_restarting_the_encoders_one_by_one_fails_no_call_without_retries(
    encoders: list[Encoder], load: Callable[..., Load], check: Check
) -> None:
    running = load(WITHOUT_RETRIES)
    for encoder in encoders:
        encoder.restart()
    while not all(computed(encoder) for encoder in encoders):
        running.go_on(10)
    await check(running.end())


async def test_restarting_the_sidecars_one_by_one_fails_no_call(
    pods: list[Pod], load: Callable[..., Load], check: Check
) -> None:
    running = load()
    for pod in pods:
        pod.restart()
    running.go_on(20)
    await check(running.end())


async def test_replacing_the_pods_one_by_one_fails_no_call_without_retries(
    pods: list[Pod], load: Callable[..., Load], check: Check
) -> None:
    running = load(WITHOUT_RETRIES, "-linger=1300ms")
    for pod in pods:
        # As a pod ends whose sidecar is an ordinary container: all are told at once, and the app
        # goes on for a while, since requests still reach it.
        running.app(pod).terminate()
        pod.terminate()
        running.app(pod).wait()
        pod.wait()
        pod.start()
        pod.wait_until_it_serves()
        running.start_app(pod)
        running.go_on(20)
    await check(running.end())


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_a_redis_that_is_away_for_a_while_fails_no_call_without_retries(
    how: str, redis_server: DevRedis, load: Callable[..., Load], check: Check
) -> None:
    running = load(WITHOUT_RETRIES)
    if how == "killed":
        redis_server.kill()
        running.go_on(40)
        redis_server.start()
    else:
        redis_server.freeze()
        running.go_on(40)
        redis_server.thaw()
    running.go_on_until_answered_by("warm")
    await check(running.end())
