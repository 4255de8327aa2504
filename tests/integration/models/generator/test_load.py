"""Many generations at once: bounds, cancelling and closing."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.demand import Demand, act_for, within
from sidecar.models.speed import Departures
from sidecar.models.types import (
    InputRejectedError,
    ModelUnavailableError,
    QueueFullError,
    TooLateError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Keys and values of the small model in place: 256 bytes for each number of a token.
STATE_BYTES = 256 * 2 * 2 * 2 * 16 * 4


@pytest.fixture
def folder(decoder_folders: dict[str, Path]) -> Path:
    return decoder_folders["in place"]


def prompt(seed: int, length: int = 100) -> str:
    return "".join(random.Random(seed).choices("abcdefghij ", k=length))


async def test_too_many_are_refused_and_counted(
    run_generator: Callable[..., Any], folder: Path, gate: Any, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder, parallel=2, queue=3)
    gate.close()
    accepted = [running.start(prompt(seed)) for seed in range(5)]
    with pytest.raises(QueueFullError, match="generations wait already and at most 3 may"):
        running.start(prompt(9))
    counters = running.generator.counters
    assert (counters.shed, counters.refused_late) == (1, 0)
    await eventually(lambda: running.generator.active == 2)
    assert running.generator.queued == 3
    gate.open()
    await asyncio.gather(*accepted)
    # There is room again as soon as an end is heard of.
    await asyncio.gather(*(running.answer(prompt(seed)) for seed in range(5)))
    assert running.generator.counters.generated == 10


async def test_one_that_would_begin_too_late_is_refused_and_counted(
    run_generator: Callable[..., Any],
    folder: Path,
    gate: Any,
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = run_generator(folder, parallel=1)
    gate.close()
    first = running.start(prompt(1))
    await eventually(lambda: running.generator.active == 1)
    monkeypatch.setattr(Departures, "per_second", 0.01)
    within(50)
    with_nobody_before = running.start(prompt(2))
    with pytest.raises(TooLateError, match="would begin in 200 s"):
        running.start(prompt(3))
    counters = running.generator.counters
    assert (counters.shed, counters.refused_late, running.generator.queued) == (1, 1, 1)
    within(5000)
    third = running.start(prompt(3))
    gate.open()
    await asyncio.gather(first, with_nobody_before, third)


async def test_one_whose_deadline_passes_while_it_waits_is_dropped_and_counted(
    run_generator: Callable[..., Any], folder: Path, gate: Any, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder, parallel=1)
    gate.close()
    first = running.start(prompt(1))
    await eventually(lambda: running.generator.active == 1)
    who = Demand(deadline=time.monotonic() + 5000)
    act_for(who)
    late = running.start(prompt(2))
    await eventually(lambda: gate.waiting)
    who.deadline = 0.0
    gate.open()
    with pytest.raises(TooLateError, match="deadline passed while the generation waited"):
        await late
    await first
    counters = running.generator.counters
    assert (counters.dropped_late, counters.shed, counters.abandoned) == (1, 0, 0)


async def test_those_who_wait_are_served_in_their_order(
    run_generator: Callable[..., Any], folder: Path
) -> None:
    running = run_generator(folder, parallel=1)
    order: list[int] = []
    generations = [running.start(prompt(seed), max_tokens=2) for seed in range(6)]
    for place, generation in enumerate(generations):
        generation.add_done_callback(lambda _, place=place: order.append(place))
    await asyncio.gather(*generations)
    assert order == [0, 1, 2, 3, 4, 5]


async def test_generations_wait_until_there_is_memory_for_them(
    run_generator: Callable[..., Any], folder: Path, gate: Any, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder, parallel=4, max_bytes=2 * STATE_BYTES + 1000)
    gate.close()
    generations = [running.start(prompt(seed)) for seed in range(4)]
    await eventually(lambda: running.generator.active == 2)
    await eventually(lambda: gate.waiting)
    assert running.generator.queued == 2
    assert running.prefixes.report(16).bytes == 2 * STATE_BYTES
    gate.open()
    await asyncio.gather(*generations)


async def test_what_can_never_have_enough_memory_is_rejected(
    run_generator: Callable[..., Any], folder: Path
) -> None:
    running = run_generator(folder, max_bytes=STATE_BYTES)
    await running.answer(prompt(1), max_tokens=100)
    with pytest.raises(InputRejectedError, match=r"ask for fewer tokens, or have prefix.max_bytes"):
        await running.answer(prompt(1), max_tokens=200)
    # Nor would that help.
    with pytest.raises(InputRejectedError, match=r"; shorten the prompt, or have prefix.max_bytes"):
        await running.answer(prompt(1, 256), max_tokens=1)


async def test_a_short_answer_does_not_wait_for_the_memory_of_a_long_one(
    run_generator: Callable[..., Any], folder: Path, gate: Any, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder, parallel=4, max_bytes=3 * STATE_BYTES)
    gate.close()
    long = [running.start(prompt(seed), max_tokens=300) for seed in range(2)]
    short = running.start("Hi")
    await eventually(lambda: running.generator.active == 2 and gate.waiting)
    assert running.generator.queued == 1
    long[0].cancel()
    gate.open()
    await asyncio.gather(long[1], short)


async def test_what_a_cancelled_generation_left_is_not_taken_for_its_whole_prompt(
    run_generator: Callable[..., Any], folder: Path, gate: Any, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder)
    expected = await running.tokens(prompt(1, 400), reads_prefix=False, keeps_prefix=False)
    gate.close()
    generation = running.start(prompt(1, 400))
    await eventually(lambda: gate.waiting)
    generation.cancel()
    gate.open()
    await eventually(lambda: running.generator.active == 0)
    completion = await running.answer(prompt(1, 400))
    assert completion.reused == {}
    assert [token for piece in completion.pieces for token in piece.tokens] == expected


@pytest.mark.parametrize("runs", [0, 1, 2, 5])
async def test_a_generation_that_is_cancelled_ends_at_its_next_run_and_gives_all_back(
    run_generator: Callable[..., Any],
    folder: Path,
    gate: Any,
    eventually: Callable[..., Any],
    runs: int,
) -> None:
    running = run_generator(folder)
    await running.answer(prompt(1, 64), max_tokens=1)
    gate.close()
    # The first two runs read what is left of the prompt.
    generation = running.start(prompt(1, 64) + prompt(2, 300), max_tokens=100)
    gate.let(runs)
    await eventually(lambda: len(gate.lengths) == runs and gate.waiting)
    if runs < 2:
        # What is kept of the prompt is in use until the prompt is read.
        assert running.prefixes.report(16).pinned_blocks == 4
    else:
        await eventually(lambda: running.prefixes.report(16).pinned_blocks == 0)
    generation.cancel()
    gate.open()
    await eventually(lambda: running.generator.active == 0)
    assert len(gate.lengths) == runs + 1
    assert running.generator.counters.abandoned == 1
    running.assert_nothing_held()


async def test_a_generation_that_is_cancelled_while_it_waits_is_never_begun(
    run_generator: Callable[..., Any], folder: Path, gate: Any, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder, parallel=1, queue=1)
    gate.close()
    first, second = running.start(prompt(1)), running.start(prompt(2))
    await eventually(lambda: gate.waiting)
    second.cancel()
    await eventually(lambda: running.generator.queued == 0)
    third = running.start(prompt(3))
    gate.open()
    await asyncio.gather(first, third)
    counters = running.generator.counters
    assert (counters.generated, counters.abandoned, counters.shed) == (2, 1, 0)
    assert counters.prefill_tokens == 200


async def test_a_generation_that_is_cancelled_at_once_costs_nothing(
    run_generator: Callable[..., Any], folder: Path, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder)
    running.start(prompt(1)).cancel()
    await eventually(lambda: running.generator.counters.abandoned == 1)
    assert running.generator.counters.prefill_tokens == 0


async def test_of_fifty_some_cancel_and_all_others_are_right(
    run_generator: Callable[..., Any], folder: Path, eventually: Callable[..., Any]
) -> None:
    # Room for five at work and for few blocks beside them.
    running = run_generator(folder, parallel=5, queue=50, max_bytes=6 * STATE_BYTES)
    chance = random.Random(3)
    prompts = [prompt(7, 16 * chance.randrange(8)) + prompt(n, 60) for n in range(50)]
    expected = [await running.tokens(text, reads_prefix=False) for text in prompts]
    before = running.generator.counters.generated

    async def call(place: int, pieces: int | None) -> str:
        generation = running.start(prompts[place])
        if pieces is None:
            completion = await generation
            found = [token for piece in completion.pieces for token in piece.tokens]
            return "right" if found == expected[place] else "wrong"
        told = 0
        async for _ in generation.follow():
            told += 1
            if told >= pieces:
                break
        return "cancelled" if generation.cancel() else "too late"

    wanted = [chance.choice([None, None, 1, 3, 8]) for _ in prompts]
    outcomes = await asyncio.gather(*(call(place, wanted[place]) for place in range(50)))
    await eventually(lambda: running.generator.active == running.generator.queued == 0)
    kept = [outcome for outcome, pieces in zip(outcomes, wanted, strict=True) if pieces is None]
    assert set(kept) == {"right"}
    counters = running.generator.counters
    assert outcomes.count("cancelled") == counters.abandoned
    assert counters.generated - before == 50 - counters.abandoned
    running.assert_nothing_held()


async def test_closing_fails_what_is_not_done(
    run_generator: Callable[..., Any], folder: Path, gate: Any, eventually: Callable[..., Any]
) -> None:
    running = run_generator(folder, parallel=2)
    gate.close()
    generations = [running.start(prompt(seed)) for seed in range(3)]
    await eventually(lambda: gate.waiting)
    late = running.start(prompt(4))
    closing = asyncio.create_task(running.generator.close())
    await asyncio.sleep(0)
    gate.open()
    await closing
    for generation in (*generations, late):
        with pytest.raises(ModelUnavailableError, match="shutting down; try another replica"):
            await generation
    assert len(gate.lengths) == 1
    with pytest.raises(ModelUnavailableError, match="shutting down"):
        running.start(prompt(5))
    running.assert_nothing_held()
