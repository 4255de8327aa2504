"""The pack smollm2-135m of 4 bits, whose answers a single other bit is enough to change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cache.prefix_tiers import WarmBlocks
from sidecar.models.prefixes import Prefixes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

FRANCE = (("user", "What is the capital of France?"),)
# 200 words, of about as many tokens.
WORDS = "the river ran past old mills while children sang and ships went far to sea".split()  # noqa: SIM905
TEXT = " ".join(WORDS[place * place % 16] for place in range(200))


def beginning(words: int) -> str:
    return " ".join(TEXT.split()[:words])


@pytest.fixture
def running(run_generator: Callable[..., Any], smollm2_folder: Path) -> Any:
    return run_generator(smollm2_folder, max_bytes=2**28)


def text_of(completion: Any) -> str:
    return "".join(piece.text for piece in completion.pieces)


async def test_it_answers_a_question(running: Any) -> None:
    completion = await running.answer(FRANCE, max_tokens=30)
    assert text_of(completion) == "The capital of France is Paris."
    assert completion.finish_reason == "stop"


async def test_its_answer_is_the_same_whatever_of_its_prompt_was_kept(running: Any) -> None:
    prompt = beginning(160)
    expected = await running.tokens(prompt, reads_prefix=False, keeps_prefix=False, max_tokens=16)
    for shared in (0, 20, 75, 140, 160):
        running.prefixes.clear()
        await running.answer(beginning(shared) + " What", max_tokens=1)
        completion = await running.answer(prompt, max_tokens=16)
        assert [token for piece in completion.pieces for token in piece.tokens] == expected
        reused = completion.reused.get("hot", 0)
        assert max(0, shared - 20) <= reused <= shared + 4


async def test_a_single_token_behind_blocks_is_not_read_alone(running: Any) -> None:
    # Read alone, it would have other bits than as the last one of many.
    tokenizer = running.generator._reader.tokenizer
    ids = tokenizer.encode(TEXT).ids
    for count in (64, 65, 66):
        prompt = tokenizer.decode(ids[:count])
        assert len(tokenizer.encode(prompt).ids) == count
        running.generator.forget_prompts()
        first = await running.tokens(prompt, max_tokens=12)
        completion = await running.answer(prompt, max_tokens=12)
        assert [token for piece in completion.pieces for token in piece.tokens] == first
        assert completion.reused == {"hot": count - 2}
        await running.answer("Another prompt.", max_tokens=1)
        completion = await running.answer(prompt, max_tokens=12)
        assert [token for piece in completion.pieces for token in piece.tokens] == first
        assert completion.reused == {"hot": 64 if count == 66 else 48}


async def test_its_answers_do_not_depend_on_what_else_is_at_work(running: Any) -> None:
    prompts = [beginning(words) for words in (5, 40, 90, 150)]
    alone = [await running.tokens(prompt, reads_prefix=False, max_tokens=8) for prompt in prompts]
    running.prefixes.clear()
    together = await asyncio.gather(*(running.tokens(prompt, max_tokens=8) for prompt in prompts))
    assert list(together) == alone


async def test_a_sidecar_that_has_just_started_takes_blocks_from_redis(
    run_generator: Callable[..., Any],
    smollm2_folder: Path,
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
) -> None:
    warm = await open_warm(redis_server.url)
    completions = []
    for _ in range(2):
        prefixes = Prefixes(2**28, [("warm", WarmBlocks(warm))])
        running = run_generator(smollm2_folder, prefixes=prefixes)
        completions.append(await running.answer(TEXT, max_tokens=16))
        assert await prefixes.flush(20)
        assert await warm.flush(20)
    first, second = completions
    assert first.reused == {}
    assert second.reused["warm"] >= 192
    assert second.pieces == first.pieces
    assert second.loading_seconds > 0
