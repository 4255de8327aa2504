from __future__ import annotations

import threading
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.models.decoder import Decoder
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.decoder_state import GrowingState
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENS = [(31 * place) % 97 for place in range(150)]
KINDS = ["in place", "growing", "half", "merged"]


@pytest.fixture(params=KINDS)
def decoder(request: pytest.FixtureRequest, decoder_folders: dict[str, Path]) -> Decoder:
    return Decoder(read_decoder_pack(decoder_folders[request.param]), "cpu", threads=1)


def read(decoder: Decoder, *runs: int) -> tuple[Any, Any]:
    """The logits behind the tokens that the runs read together, and the state."""
    state = decoder.start(160)
    for count in runs:
        logits = state.run(TOKENS[state.length : state.length + count])
    return logits, state


def test_reading_in_parts_gives_the_logits_of_reading_at_once(decoder: Decoder) -> None:
    at_once, state = read(decoder, 100)
    in_parts, _ = read(decoder, 40, 1, 1, 50, 8)
    assert at_once.shape == (300,)
    assert at_once.dtype == np.float32
    assert state.length == 100
    # Half precision rounds what it keeps.
    np.testing.assert_allclose(
        in_parts, at_once, atol=1e-2 if decoder.pack.kv.dtype == "e" else 1e-4
    )
    assert not np.allclose(at_once, read(decoder, 99)[0], atol=0.1)


def test_a_model_that_splits_freely_gives_the_same_bits_for_any_runs_of_two_and_more(
    decoder: Decoder,
) -> None:
    if not decoder.splits_freely:
        pytest.skip("this processor's kernels round by the length of a run")
    at_once, state = read(decoder, 150)
    for runs in ([2, 148], [148, 2], [3] * 50, [64, 64, 22], [7, 100, 43]):
        logits, parted = read(decoder, *runs)
        assert np.array_equal(logits, at_once)
        pairs = zip(state.export(0, 150, 50), parted.export(0, 150, 50), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)


def test_loaded_keys_and_values_are_as_if_they_had_been_read(decoder: Decoder) -> None:
    expected, state = read(decoder, 96, 20)
    blocks = state.export(0, 96, 16)
    assert [block.shape for block in blocks] == [(4, 2, 16, 16)] * 6
    loaded = decoder.start(160)
    loaded.load(blocks)
    assert loaded.length == 96
    assert np.array_equal(loaded.run(TOKENS[96:116]), expected)


def test_exported_blocks_stay_as_they_are_while_reading_goes_on(decoder: Decoder) -> None:
    _, state = read(decoder, 32)
    (block,) = state.export(0, 32, 32)
    before = block.copy()
    state.run(TOKENS[32:64])
    (again,) = state.export(0, 32, 32)
    assert np.array_equal(block, before)
    assert np.array_equal(block, again)
    assert block.base is None


def test_reading_goes_on_while_blocks_are_copied(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, state = read(decoder, 96)
    expected = state.export(0, 96, 32)
    stack = np.stack

    def read_on(*args: Any, **options: Any) -> Any:
        for _ in range(3):
            state.run(TOKENS[state.length : state.length + 2])
        return stack(*args, **options)

    monkeypatch.setattr(np, "stack", read_on)
    found = state.export(0, 96, 32)
    assert state.length > 96
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_blocks_are_float16_only_where_that_is_exact(decoder_folders: dict[str, Path]) -> None:
    half = Decoder(read_decoder_pack(decoder_folders["half"]), "cpu", threads=1)
    assert read(half, 32)[1].export(0, 32, 32)[0].dtype == np.float16
    full = Decoder(read_decoder_pack(decoder_folders["in place"]), "cpu", threads=1)
    (block,) = read(full, 32)[1].export(0, 32, 32)
    assert block.dtype == np.float32
    rounded = full.start(160)
    rounded.load([block.astype(np.float16)])
    (back,) = rounded.export(0, 32, 32)
    assert back.dtype == np.float16
    assert np.array_equal(back, block.astype(np.float16))


def test_texts_do_not_disturb_each_other(decoder: Decoder) -> None:
    expected, _ = read(decoder, 30, 1)
    first, second = decoder.start(160), decoder.start(160)
    first.run(TOKENS[:30])
    second.run(TOKENS[50:90])
    assert np.array_equal(first.run(TOKENS[30:31]), expected)


def test_logits_that_are_not_numbers_are_told_as_they_are(decoder: Decoder) -> None:
    assert np.isnan(decoder.start(16).run([ord("a"), ord("|"), ord("b")])).any()


def test_memory_is_that_of_one_buffer_where_it_is_written_in_place(
    decoder_folders: dict[str, Path],
) -> None:
    sizes = {
        kind: Decoder(read_decoder_pack(decoder_folders[kind]), "cpu", threads=1).state_bytes(256)
        for kind in ("in place", "growing", "half")
    }
    one = 256 * 2 * 2 * 2 * 16 * 4
    assert sizes == {"in place": one, "growing": 2 * one, "half": one}


def test_a_buffer_that_is_written_in_place_has_no_numbers_of_others(
    decoder_folders: dict[str, Path],
) -> None:
    decoder = Decoder(read_decoder_pack(decoder_folders["in place"]), "cpu", threads=1)
    for _ in range(20):
        garbage = np.full((4, 2, 16, 16), np.nan, np.float32)
        del garbage
        assert not decoder.start(16).export(0, 16, 16)[0].any()


def test_a_text_takes_the_memory_that_was_told(decoder: Decoder) -> None:
    told = decoder.state_bytes(20_000)
    tracemalloc.start()
    try:
        state = decoder.start(20_000)
        for _ in range(10):
            state.run(TOKENS[:9])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told <= peak < told + 2**20


@pytest.mark.parametrize("kind", ["growing", "half", "merged"])
def test_keys_and_values_that_stay_on_a_device_give_the_same(
    decoder_folders: dict[str, Path], kind: str
) -> None:
    decoder = Decoder(read_decoder_pack(decoder_folders[kind]), "cpu", threads=1)
    expected, state = read(decoder, 64, 30, 1)
    on_device = GrowingState(decoder._model)
    on_device.run(TOKENS[:64])
    (block,) = on_device.export(0, 64, 64)
    assert np.array_equal(block, state.export(0, 64, 64)[0])
    loaded = GrowingState(decoder._model)
    loaded.load([block])
    loaded.run(TOKENS[64:94])
    assert np.array_equal(loaded.run(TOKENS[94:95]), expected)


@pytest.mark.parametrize(("threads", "copiers"), [(1, 0), (2, 2)])
def test_blocks_are_loaded_by_two_threads_that_stay_unless_one_is_all_there_may_be(
    decoder_folders: dict[str, Path], threads: int, copiers: int
) -> None:
    before = set(threading.enumerate())
    decoder = Decoder(read_decoder_pack(decoder_folders["in place"]), "cpu", threads)
    (block,) = read(decoder, 32)[1].export(0, 32, 32)
    for _ in range(5):
        decoder.start(160).load([block])
    started = [thread for thread in threading.enumerate() if thread not in before]
    assert len(started) == copiers


def test_a_graph_that_does_not_run_is_told_at_the_start(
    make_decoder: Callable[..., Path],
) -> None:
    # It is tried out with tokens that it has no embedding of.
    folder = make_decoder("growing", config={"max_position_embeddings": 512, "vocab_size": 9999})
    with pytest.raises(SetupError, match=r"model.onnx: its first run failed"):
        Decoder(read_decoder_pack(folder), "cpu", threads=1)
