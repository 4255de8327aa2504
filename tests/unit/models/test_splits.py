from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.splits import Splits

if TYPE_CHECKING:
    from collections.abc import Sequence

SPLITS = st.builds(Splits, st.sampled_from([1, 2, 16, 64, 100]), is_free=st.booleans())


def runs(splits: Splits, start: int, prompt: int, alone: Sequence[bool] = (True,)) -> list[int]:
    """The ends of the runs that read a prompt from ``start`` on."""
    ends = [start]
    while ends[-1] < prompt:
        others = alone[len(ends) % len(alone)]
        ends.append(ends[-1] + splits.run_tokens(ends[-1], prompt, alone=others))
    return ends


@given(SPLITS, st.integers(1, 1500), st.data())
def test_runs_read_the_whole_prompt_and_free_ones_never_a_single_token(
    splits: Splits, prompt: int, data: Any
) -> None:
    reused = data.draw(st.integers(0, splits.reusable_blocks(prompt))) * splits.block_tokens
    alone = data.draw(st.lists(st.booleans(), min_size=1, max_size=8))
    ends = runs(splits, reused, prompt, alone)
    assert ends[-1] == prompt
    assert reused < prompt
    lengths = [end - start for start, end in pairwise(ends)]
    assert max(lengths) <= 256
    if splits.is_free and prompt > 1:
        assert min(lengths) >= 2


@given(st.sampled_from([16, 64]), st.integers(1, 1500), st.data())
def test_fixed_runs_after_reused_blocks_are_those_that_would_have_been_without(
    block: int, prompt: int, data: Any
) -> None:
    splits = Splits(block, is_free=False)
    reused = data.draw(st.integers(0, splits.reusable_blocks(prompt))) * block
    whole = runs(splits, 0, prompt)
    assert runs(splits, reused, prompt) == whole[whole.index(reused) :]


@given(st.sampled_from([16, 64]), st.integers(1, 1500), st.integers(1, 1500))
def test_blocks_of_fixed_runs_are_read_the_same_way_in_every_prompt(
    block: int, first: int, second: int
) -> None:
    splits = Splits(block, is_free=False)
    shared = min(splits.blocks(first), splits.blocks(second)) + 1
    assert runs(splits, 0, first)[:shared] == runs(splits, 0, second)[:shared]


@pytest.mark.parametrize(
    ("is_free", "prompt", "reusable", "blocks"),
    [
        (True, 1, 0, 0),
        (True, 17, 0, 1),
        (True, 18, 1, 1),
        (True, 32, 1, 2),
        (True, 34, 2, 2),
        (False, 16, 0, 1),
        (False, 17, 1, 1),
        (False, 33, 2, 2),
    ],
)
def test_the_end_of_a_prompt_is_read_anew_and_whole_blocks_are_kept(
    is_free: bool, prompt: int, reusable: int, blocks: int
) -> None:
    splits = Splits(16, is_free=is_free)
    assert (splits.reusable_blocks(prompt), splits.blocks(prompt)) == (reusable, blocks)


def test_a_prompt_of_one_token_keeps_no_block_that_others_would_read_in_another_way() -> None:
    assert Splits(1, is_free=True).blocks(1) == 0


@pytest.mark.parametrize(
    ("prompt", "alone", "lengths"),
    [
        (1, True, [1]),
        (256, True, [256]),
        (257, True, [255, 2]),
        (258, True, [256, 2]),
        (513, True, [256, 255, 2]),
        (65, False, [63, 2]),
    ],
)
def test_no_single_token_is_left_for_the_last_run(
    prompt: int, alone: bool, lengths: list[int]
) -> None:
    ends = runs(Splits(16, is_free=True), 0, prompt, [alone])
    assert [end - start for start, end in pairwise(ends)] == lengths


def test_runs_are_shorter_while_others_wait() -> None:
    splits = Splits(16, is_free=True)
    assert splits.run_tokens(0, 1000, alone=True) == 256
    assert splits.run_tokens(0, 1000, alone=False) == 64


@pytest.mark.parametrize(
    ("splits_freely", "device", "wanted", "block"),
    [
        (True, "cpu", 16, 16),
        (True, "cuda", 100, 100),
        (False, "cpu", 16, 64),
        (False, "cpu", 24, 72),
        (False, "cpu", 100, 100),
        (False, "cuda", 16, 256),
    ],
)
def test_blocks_are_as_asked_or_a_multiple_where_runs_are_fixed(
    splits_freely: bool, device: str, wanted: int, block: int
) -> None:
    class Model:
        pass

    model: Any = Model()
    model.splits_freely, model.device = splits_freely, device
    assert Splits.of(model, wanted) == Splits(block, is_free=splits_freely)
