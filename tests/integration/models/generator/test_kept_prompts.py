"""What a generator keeps of prompts, and what it takes from a tier below."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.models.decoding import Decoding
from sidecar.models.prefix_codec import decode_block, encode_block
from sidecar.models.prefix_store import BLOCK_OVERHEAD_BYTES
from sidecar.models.prefixes import COPIED_BLOCKS, Prefixes
from sidecar.models.types import ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

# Keys and values of a token of the small model, and of the shortest text that it generates.
TOKEN_BYTES = 2 * 2 * 2 * 16 * 4
STATE_BYTES = 256 * TOKEN_BYTES


def letters(count: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("abcdefghij ", k=count))


class Lower:
    """A tier in a dictionary, whose lookups take ``seconds`` of a clock; it can be held up."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.limits: list[tuple[int, float]] = []
        self.now = 0.0
        self.seconds = 0.0
        self.answers = asyncio.Event()
        self.answers.set()

    async def get_many(self, names: Sequence[bytes], seconds: float) -> list[bytes | None]:
        self.limits.append((len(names), seconds))
        await self.answers.wait()
        self.now += self.seconds
        return [self.values.get(name) for name in names]

    async def put(self, name: bytes, value: bytes, expires_ms: int) -> bool:
        self.values.setdefault(name, value)
        return True

    def delete(self, names: Sequence[bytes]) -> None:
        for name in names:
            del self.values[name]


@pytest.fixture
async def lower() -> Lower:
    return Lower()


@pytest.fixture
def folder(decoder_folders: dict[str, Path]) -> Path:
    return decoder_folders["in place"]


@pytest.fixture
def run_over(run_generator: Callable[..., Any], folder: Path, lower: Lower) -> Callable[..., Any]:
    """Runs a generator that has nothing in memory yet, over the tier."""

    def run(**options: Any) -> Any:
        prefixes = Prefixes(2**26, [("warm", lower)], clock=lambda: lower.now)
        return run_generator(folder, prefixes=prefixes, **options)

    return run


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Which blocks were copied to be kept."""
    export, copied = Decoding.export, []

    def noted(decoding: Decoding, first: int, stop: int) -> Any:
        copied.append((first, stop))
        return export(decoding, first, stop)

    monkeypatch.setattr(Decoding, "export", noted)
    return copied


async def test_a_long_prompt_is_kept_a_few_blocks_at_a_time(
    run_generator: Callable[..., Any], folder: Path, copied: list[tuple[int, int]]
) -> None:
    running = run_generator(folder, block_tokens=8)
    first = await running.answer(letters(450))
    assert copied == [(0, COPIED_BLOCKS), (COPIED_BLOCKS, 56)]
    await running.answer("another")
    again = await running.answer(letters(450))
    assert (again.reused, again.pieces) == ({"hot": 448}, first.pieces)
    assert copied[2:] == []


async def test_nothing_is_copied_for_which_there_is_no_room(
    run_generator: Callable[..., Any], folder: Path, copied: list[tuple[int, int]]
) -> None:
    block = 16 * TOKEN_BYTES + BLOCK_OVERHEAD_BYTES + 16
    running = run_generator(folder, max_bytes=2 * STATE_BYTES + 10 * block)
    await running.answer(letters(450))
    assert copied == [(0, 10)]
    copied.clear()
    running = run_generator(folder, max_bytes=2 * STATE_BYTES)
    await running.answer(letters(450))
    assert copied == []


async def test_what_another_one_has_kept_meanwhile_is_not_copied(
    run_generator: Callable[..., Any],
    folder: Path,
    gate: Any,
    eventually: Callable[..., Any],
    copied: list[tuple[int, int]],
) -> None:
    running = run_generator(folder)
    gate.close()
    generations = [running.start(letters(60)) for _ in range(2)]
    await eventually(lambda: running.generator.active == 2 and gate.waiting)
    gate.let(1)
    await eventually(lambda: running.prefixes.report(16).blocks == 3)
    gate.open()
    await asyncio.gather(*generations)
    assert copied == [(0, 3)]


async def test_a_prompt_that_cannot_be_kept_is_answered_all_the_same(
    run_generator: Callable[..., Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = run_generator(folder)
    expected = await running.tokens(letters(200), reads_prefix=False, keeps_prefix=False)

    def fail(*_: object) -> Any:
        raise MemoryError("the text of a user")

    monkeypatch.setattr(Decoding, "export", fail)
    assert await running.tokens(letters(200)) == expected
    assert "model tiny: a prompt was not kept (MemoryError)" in caplog.text
    assert "user" not in caplog.text


async def test_a_load_has_as_long_as_reading_its_tokens_was_measured_to_take(
    run_over: Callable[..., Any], lower: Lower
) -> None:
    running = run_over()
    await running.answer(letters(200))
    # Nothing was measured yet.
    assert [seconds for _, seconds in lower.limits] == [1.0]
    lower.limits.clear()
    counters = running.generator.counters
    speed = counters.prefill_seconds / counters.prefill_tokens
    await running.answer(letters(200, seed=1))
    assert lower.limits == [(8, pytest.approx(8 * 16 * speed))]


async def test_the_time_that_loading_took_is_told(
    run_over: Callable[..., Any], lower: Lower
) -> None:
    running = run_over()
    assert (await running.answer(letters(200))).loading_seconds == 0
    assert await running.prefixes.flush(20)
    assert lower.values
    await running.answer("another")
    # From memory, it is the time of a copy.
    again = await running.answer(letters(200))
    assert (again.reused, again.loading_seconds > 0) == ({"hot": 192}, True)
    lower.seconds = 7.0
    loaded = await run_over().answer(letters(200))
    assert loaded.reused["warm"] > 0
    assert loaded.loading_seconds > 7


async def test_blocks_of_another_shape_in_a_tier_below_spoil_no_answer(
    run_over: Callable[..., Any], lower: Lower
) -> None:
    first = run_over()
    expected = await first.tokens(letters(200))
    assert await first.prefixes.flush(20)
    name = next(iter(lower.values))
    block, _ = decode_block(lower.values[name], name)
    # As many bytes as in float16; numbers that only float32 can tell.
    half = encode_block(block[:, :, :8].astype(np.float32) + np.float32(1e-6), name, "exact", 0)
    assert half is not None
    lower.values[name] = half
    second = run_over()
    completion = await second.answer(letters(200))
    assert [token for piece in completion.pieces for token in piece.tokens] == expected
    assert completion.reused == {}
    assert lower.values.get(name) != half


async def test_cancelling_while_blocks_are_loaded_frees_the_place_at_once(
    run_over: Callable[..., Any], lower: Lower, eventually: Callable[..., Any]
) -> None:
    running = run_over(parallel=1)
    lower.answers.clear()
    cancelled = running.start(letters(200))
    await eventually(lambda: lower.limits)
    cancelled.cancel()
    # The tier has still not answered.
    await running.answer(letters(200), reads_prefix=False)
    assert running.generator.counters.abandoned == 1
    await running.prefixes.close()


async def test_closing_does_not_wait_for_blocks_that_are_loaded(
    run_over: Callable[..., Any], lower: Lower, eventually: Callable[..., Any]
) -> None:
    running = run_over()
    lower.answers.clear()
    generation = running.start(letters(200))
    await eventually(lambda: lower.limits)
    try:
        async with asyncio.timeout(20):
            await running.generator.close()
    finally:
        await running.prefixes.close()
    with pytest.raises(ModelUnavailableError, match="shutting down"):
        await generation
