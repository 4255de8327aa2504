"""Models whose results depend on how a prompt is cut, as those with matrices of 8 bits."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.models.decoder import Decoder
from sidecar.models.decoder_pack import read_decoder_pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = [(31 * place) % 97 for place in range(150)]


def letters(count: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices("abcdefghij ", k=count))


@pytest.mark.parametrize("kind", ["quantized", "quantized logits", "quantized keys"])
def test_they_are_recognised_at_the_start(decoder_folders: dict[str, Path], kind: str) -> None:
    assert not Decoder(read_decoder_pack(decoder_folders[kind]), "cpu", 2).splits_freely


def test_each_half_of_the_comparison_is_needed(decoder_folders: dict[str, Path]) -> None:
    """What the fixtures claim: else the test before might pass for another reason."""
    if not Decoder(read_decoder_pack(decoder_folders["growing"]), "cpu", 2).splits_freely:
        pytest.skip("this processor's other kernels round by the length of a run as well")
    differs = {}
    for kind in ("quantized logits", "quantized keys"):
        decoder = Decoder(read_decoder_pack(decoder_folders[kind]), "cpu", 2)
        whole, parted = decoder.start(150), decoder.start(150)
        expected = whole.run(TOKENS)
        parted.run(TOKENS[:70])
        logits = not np.array_equal(parted.run(TOKENS[70:]), expected)
        (one,), (other,) = (state.export(0, 150, 150) for state in (whole, parted))
        differs[kind] = (logits, not np.array_equal(one, other))
    assert differs == {"quantized logits": (True, False), "quantized keys": (False, True)}


async def test_a_greedy_answer_is_the_same_whatever_of_its_prompt_was_kept(
    run_generator: Callable[..., Any], decoder_folders: dict[str, Path]
) -> None:
    running = run_generator(decoder_folders["quantized"])
    reused = 0
    for length in (63, 64, 65, 66, 128, 200, 257, 300):
        prompt = letters(length, seed=length)
        expected = await running.tokens(prompt, reads_prefix=False, keeps_prefix=False)
        for shared in {0, length // 3, length // 2, length - 1, length}:
            running.generator.forget_prompts()
            await running.answer(prompt[:shared] + "#", max_tokens=1)
            completion = await running.answer(prompt)
            found = [token for piece in completion.pieces for token in piece.tokens]
            assert found == expected, (length, shared)
            count = sum(completion.reused.values())
            assert count % 64 == 0
            reused += count
    assert reused
