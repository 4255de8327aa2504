"""Answers, and what they depend on."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer, processors

from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.errors import SetupError
from sidecar.models.local_generator import LocalGenerator
from sidecar.models.prefixes import Prefixes
from sidecar.models.types import InputRejectedError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.models.generation import Generation

KINDS = ["in place", "growing", "half", "merged"]
PROMPT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 3


@pytest.fixture
def running(run_generator: Callable[..., Any], decoder_folders: dict[str, Path]) -> Any:
    return run_generator(decoder_folders["in place"])


def letters(count: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("abcdefghij ", k=count))


@pytest.mark.parametrize("fixed_runs", [False, True])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_greedy_answer_is_the_same_whatever_of_its_prompt_was_kept(
    run_generator: Callable[..., Any],
    decoder_folders: dict[str, Path],
    kind: str,
    fixed_runs: bool,
) -> None:
    running = run_generator(decoder_folders[kind], fixed_runs=fixed_runs)
    block = 64 if fixed_runs else 16
    for length in (1, 2, block - 1, block, block + 1, block + 2, 200, 256, 257, 258, 300):
        prompt = letters(length, seed=length)
        expected = await running.tokens(prompt, reads_prefix=False, keeps_prefix=False)
        for shared in {0, length // 3, length // 2, length - 1, length}:
            splits = running.generator._splits
            in_blocks = min(shared // block, splits.reusable_blocks(length)) * block
            in_place = splits.reusable_tokens(shared if shared >= block else 0, length)
            for is_left in (False, True):
                running.generator.forget_prompts()
                await running.answer(prompt[:shared] + "#", max_tokens=1)
                if not is_left:
                    # Another prompt takes the memory of this one.
                    await running.answer("other", max_tokens=1)
                completion = await running.answer(prompt)
                found = [token for piece in completion.pieces for token in piece.tokens]
                assert found == expected, (length, shared, is_left)
                # What was left may be too small for the whole of this prompt.
                reused = {in_blocks, in_place} if is_left and kind == "in place" else {in_blocks}
                assert sum(completion.reused.values()) in reused


async def test_a_prompt_that_comes_again_is_not_read_again_but_for_its_end(running: Any) -> None:
    first = await running.answer(letters(200))
    read = running.generator.counters.prefill_tokens
    second = await running.answer(letters(200))
    assert (first.reused, second.reused) == ({}, {"hot": 198})
    assert read == 200
    assert running.generator.counters.prefill_tokens == 202
    assert second.pieces == first.pieces
    assert running.generator.prefix_report().reused_tokens == {"hot": 198}
    await running.answer("other")
    third = await running.answer(letters(200))
    assert (third.reused, third.pieces) == ({"hot": 192}, first.pieces)


async def test_what_the_last_prompt_left_is_used_although_its_blocks_were_evicted(
    running: Any,
) -> None:
    first = await running.answer(letters(200))
    running.prefixes.clear()
    second = await running.answer(letters(200))
    assert (second.reused, second.pieces) == ({"hot": 198}, first.pieces)


async def test_scopes_share_no_blocks(running: Any) -> None:
    await running.answer(letters(200), scope=b"one")
    assert (await running.answer(letters(200), scope=b"two")).reused == {}
    assert (await running.answer(letters(200), scope=b"one")).reused == {"hot": 192}
    assert (await running.answer(letters(200), scope=b"one")).reused == {"hot": 198}


async def test_a_request_may_decline_to_read_or_to_keep_blocks(running: Any) -> None:
    await running.answer(letters(200), keeps_prefix=False)
    assert running.prefixes.report(16).blocks == 0
    await running.answer(letters(200))
    assert running.prefixes.report(16).blocks == 12
    assert (await running.answer(letters(200), reads_prefix=False)).reused == {}


async def test_a_prompt_that_is_not_to_be_kept_leaves_only_its_memory(running: Any) -> None:
    await running.answer(letters(200), keeps_prefix=False)
    assert (await running.answer(letters(200))).reused == {}


async def test_answers_do_not_depend_on_what_else_is_at_work(
    run_generator: Callable[..., Any], decoder_folders: dict[str, Path]
) -> None:
    running = run_generator(decoder_folders["in place"], parallel=5)
    prompts = [letters(length, seed=length) for length in (3, 70, 141, 256, 400)]
    alone = [await running.tokens(prompt, reads_prefix=False) for prompt in prompts]
    running.prefixes.clear()
    together = await asyncio.gather(*(running.tokens(prompt) for prompt in prompts))
    assert list(together) == alone


async def test_a_long_prompt_is_read_in_short_parts_while_another_answer_is_written(
    running: Any, gate: Any, eventually: Callable[..., Any]
) -> None:
    gate.close()
    short = running.start("a", max_tokens=30)
    gate.let(1)
    await eventually(lambda: short.pieces)
    long = running.start(letters(400))
    await eventually(lambda: running.generator.active == 2)
    gate.open()
    await asyncio.gather(short, long)
    reading = [place for place, length in enumerate(gate.lengths) if length > 1][:6]
    # The first of them may have begun before it was known that another one is at work.
    assert max(gate.lengths[place] for place in reading[1:]) <= 64
    between = gate.lengths[reading[0] : reading[-1]]
    assert between.count(1) >= len(reading) - 1


async def test_the_same_seed_gives_the_same_answer_and_another_one_another(running: Any) -> None:
    options = {"temperature": 1.5, "max_tokens": 40}
    first = await running.tokens(PROMPT, seed=7, **options)
    assert await running.tokens(PROMPT, seed=7, **options) == first
    assert await running.tokens(PROMPT, seed=8, **options) != first
    # Without one it is drawn: of 40 tokens hardly twice the same.
    assert await running.tokens(PROMPT, **options) != await running.tokens(PROMPT, **options)


async def test_pieces_come_one_by_one_and_are_those_of_the_whole(running: Any) -> None:
    generation = running.start(PROMPT)
    pieces = [piece async for piece in generation.follow()]
    completion = await generation
    assert tuple(pieces) == completion.pieces
    assert completion.completion_tokens == sum(len(piece.tokens) for piece in pieces) == 12
    assert completion.prompt_tokens == len(PROMPT)
    assert completion.finish_reason == "length"
    assert completion.queued_seconds > 0
    data = bytes(token for piece in pieces for token in piece.tokens)
    assert "".join(piece.text for piece in pieces) == data.decode("utf-8", "replace")


async def test_an_answer_ends_before_a_stop_token(running: Any) -> None:
    tokens = await running.tokens(PROMPT)
    stop = next(token for token in tokens if token != tokens[0])
    completion = await running.answer(PROMPT, stop_tokens=(stop,))
    found = [token for piece in completion.pieces for token in piece.tokens]
    assert found == tokens[: tokens.index(stop)]
    assert completion.finish_reason == "stop"


async def test_an_answer_ends_before_a_token_that_ends_answers(
    run_generator: Callable[..., Any], make_decoder: Callable[..., Path], running: Any
) -> None:
    tokens = await running.tokens(PROMPT)
    end = next(token for token in tokens if token != tokens[0])
    folder = make_decoder("in place", generation_config={"eos_token_id": [299, end]})
    completion = await run_generator(folder).answer(PROMPT)
    found = [token for piece in completion.pieces for token in piece.tokens]
    assert found == tokens[: tokens.index(end)]
    assert completion.finish_reason == "stop"


async def test_an_answer_may_end_at_its_first_token(running: Any) -> None:
    (first,) = await running.tokens(PROMPT, max_tokens=1)
    completion = await running.answer(PROMPT, stop_tokens=(first,))
    assert completion.pieces == ()
    assert (completion.finish_reason, completion.completion_tokens) == ("stop", 0)


async def test_an_answer_ends_before_a_stop_string(running: Any) -> None:
    text = "".join(piece.text for piece in (await running.answer(PROMPT, max_tokens=30)).pieces)
    stop = text[8:11]
    completion = await running.answer(PROMPT, max_tokens=30, stop=(stop,))
    found = "".join(piece.text for piece in completion.pieces)
    assert found == text[: text.index(stop)]
    assert completion.finish_reason == "stop"
    assert completion.completion_tokens < 30


async def test_text_that_was_held_back_is_told_at_the_end(running: Any) -> None:
    text = "".join(piece.text for piece in (await running.answer(PROMPT)).pieces)
    completion = await running.answer(PROMPT, stop=(text[-1] + "never",))
    assert "".join(piece.text for piece in completion.pieces) == text
    assert completion.pieces[-1].tokens == ()
    assert completion.finish_reason == "length"


async def test_a_stop_string_in_text_that_was_held_back_is_why_the_answer_ends(
    running: Any,
) -> None:
    text = "".join(piece.text for piece in (await running.answer(PROMPT, max_tokens=5)).pieces)
    assert text[-1] not in text[:-1]
    # The longer one might still have come, and it begins before.
    completion = await running.answer(PROMPT, max_tokens=5, stop=(text[-2:] + "never", text[-1]))
    assert "".join(piece.text for piece in completion.pieces) == text[:-1]
    assert (completion.completion_tokens, completion.finish_reason) == (5, "stop")


async def test_an_answer_is_no_longer_than_the_context_has_room_for(running: Any) -> None:
    completion = await running.answer(letters(505), max_tokens=1000)
    assert (completion.completion_tokens, completion.finish_reason) == (7, "length")


async def test_a_conversation_is_read_through_the_template_of_the_model(running: Any) -> None:
    chat = await running.answer((("user", "Hello"), ("assistant", "Yes"), ("user", "Why?")))
    text = await running.answer(
        "<|start|>user:Hello<|end|><|start|>assistant:Yes<|end|><|start|>user:Why?<|end|>"
        "<|start|>assistant:"
    )
    assert chat.pieces == text.pieces
    assert chat.prompt_tokens == text.prompt_tokens == 49


async def test_a_text_begins_with_the_tokens_that_the_tokenizer_adds_and_a_conversation_does_not(
    run_generator: Callable[..., Any], make_decoder: Callable[..., Path]
) -> None:
    folder = make_decoder("in place")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 256)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    running = run_generator(folder)
    assert (await running.answer("abc")).prompt_tokens == 4
    # Three special tokens, and one for each letter of "user:abc" and "assistant:".
    assert (await running.answer((("user", "abc"),))).prompt_tokens == 3 + 8 + 10


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("a" * 512, {}, "the prompt has 512 tokens, and this model reads 512 of prompt and answer"),
        ("a" * 900, {}, "the prompt has 900 tokens"),
        ("", {}, "the prompt has no tokens"),
        ((("system", "Be brief"),), {}, "template refuses this conversation: no system"),
        (
            "a",
            {"stop_tokens": (300,)},
            "stop token 300 is outside of the model's vocabulary of 300",
        ),
    ],
)
async def test_what_the_model_does_not_take_is_rejected_with_a_reason(
    running: Any, prompt: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputRejectedError, match=message):
        await running.answer(prompt, **options)
    assert running.generator.counters.generated == 0


async def test_a_model_without_a_template_takes_no_conversations(
    run_generator: Callable[..., Any], make_decoder: Callable[..., Path]
) -> None:
    running = run_generator(make_decoder("growing", tokenizer_config=None))
    assert not running.generator.info.accepts_chat
    with pytest.raises(InputRejectedError, match="no template for conversations; send the prompt"):
        await running.answer((("user", "Hello"),))


@pytest.mark.parametrize(
    ("prompt", "reason"), [("secret|", "NaN or infinity"), ("secret<|broken|>", "RuntimeError")]
)
async def test_a_failure_of_the_model_is_that_of_one_generation(
    running: Any, prompt: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = await running.tokens(PROMPT, max_tokens=50)
    good, bad = running.start(PROMPT, max_tokens=50), running.start(prompt)
    with pytest.raises(ModelError, match=rf"model tiny gave no answer \({reason}\)"):
        await bad
    assert [token for piece in (await good).pieces for token in piece.tokens] == expected
    assert "secret" not in caplog.text


async def test_a_generation_that_cannot_begin_gives_all_back(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(capacity: int) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(running.generator._decoder, "start", fail)
        for _ in range(5):
            with pytest.raises(ModelError, match=r"model tiny gave no answer \(MemoryError\)"):
                await running.answer(PROMPT)
    running.assert_nothing_held()
    await running.answer(PROMPT)


async def test_the_memory_of_a_generation_is_filled_beside_the_event_loop(
    running: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, threads = running.generator._decoder.start, []

    def noted(capacity: int) -> Any:
        threads.append(threading.current_thread())
        return start(capacity)

    monkeypatch.setattr(running.generator._decoder, "start", noted)
    await running.answer(PROMPT)
    assert len(threads) == 1
    assert threads[0] is not threading.current_thread()


async def test_memory_that_has_too_little_room_for_any_generation_is_refused_at_the_start(
    decoder_folders: dict[str, Path],
) -> None:
    # 256 tokens, old and new ones.
    needed = 256 * 2 * 2 * 2 * 16 * 4 * 2
    folder = decoder_folders["growing"]
    message = (
        f"model mine: the shortest generation takes {needed} bytes of memory, and there are"
        rf" {needed - 1} for it; raise prefix\.max_bytes"
    )
    with pytest.raises(SetupError, match=message):
        LocalGenerator.load(folder, "mine", prefixes=Prefixes(needed - 1), provider="cpu")
    generator = LocalGenerator.load(folder, "mine", prefixes=Prefixes(needed), provider="cpu")
    await generator.close()


async def test_a_model_that_was_loaded_describes_itself(decoder_folders: dict[str, Path]) -> None:
    generator = LocalGenerator.load(
        decoder_folders["growing"], "mine", prefixes=Prefixes(2**20), provider="cpu", threads=1
    )
    info = generator.info
    assert (info.name, info.context_tokens, info.accepts_chat) == ("mine", 512, True)
    assert (info.runs_on, info.is_local) == ("cpu", True)
    assert info.version == read_decoder_pack(decoder_folders["growing"]).version
    assert generator.info is info
    assert generator.prefix_report().capacity_bytes == 2**20
    await generator.close()


async def test_the_work_is_counted(running: Any) -> None:
    await running.answer(letters(100), max_tokens=5)
    counters = running.generator.counters
    assert (counters.generated, counters.prefill_tokens, counters.decode_tokens) == (1, 100, 4)
    assert counters.prefill_seconds > 0
    assert counters.decode_seconds > 0
    assert (counters.shed, counters.abandoned) == (0, 0)


async def test_pieces_can_be_followed_by_many(running: Any) -> None:
    generation: Generation = running.start(PROMPT)

    async def follow() -> list[str]:
        return [piece.text async for piece in generation.follow()]

    first, second = await asyncio.gather(follow(), follow())
    assert first == second
    assert first
