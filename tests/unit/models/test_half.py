from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sidecar.models.half import narrow, widen

ALL = np.arange(2**16, dtype=np.uint16).view(np.float16)
FINITE = ALL[np.isfinite(ALL)]


def test_every_finite_float16_is_widened_exactly() -> None:
    wide = np.full(len(FINITE), np.nan, np.float32)
    widen(FINITE, wide)
    assert np.array_equal(wide.view(np.uint32), FINITE.astype(np.float32).view(np.uint32))


def test_widening_writes_to_a_part_of_an_array_and_to_nothing_else() -> None:
    whole = np.full((4, 3, 5), 7, np.float32)
    part = np.arange(24, dtype=np.float16).reshape(4, 3, 2)
    widen(part, whole[:, :, 1:3])
    assert np.array_equal(whole[:, :, 1:3], part)
    assert (whole[:, :, [0, 3, 4]] == 7).all()


def test_what_came_from_float16_becomes_float16_again() -> None:
    back = narrow(FINITE.astype(np.float32))
    assert back.dtype == np.float16
    assert np.array_equal(back.view(np.uint16), FINITE.view(np.uint16))


@pytest.mark.parametrize("value", [65536.0, -65536.0, np.inf, -np.inf, np.nan])
def test_what_float16_has_no_finite_number_for_stays_float32(value: float) -> None:
    # Bits of infinity, widened as if they were a number's, are those of 65536.
    assert narrow(np.array([1, value], np.float32)).dtype == np.float32


@pytest.mark.parametrize("shape", [(60, 3, 16, 64), (3, 2**16), (2**17,), (0, 4), (4, 0)])
def test_arrays_of_any_size_are_converted_whole(shape: tuple[int, ...]) -> None:
    values = np.resize(FINITE, shape).astype(np.float32)
    back = narrow(values)
    assert back.dtype == np.float16
    assert np.array_equal(back.astype(np.float32), values)
    if values.size:
        values.flat[-1] = 1 / 3
        assert narrow(values) is values


@given(arrays(np.float32, 3, elements=st.floats(width=32)))
def test_narrowing_never_changes_a_value(values: np.ndarray) -> None:
    result = narrow(values.copy())
    if result.dtype == np.float32:
        assert np.array_equal(result.view(np.uint32), values.view(np.uint32))
    else:
        assert np.isfinite(values).all()
        again = result.astype(np.float32)
        assert np.array_equal(again.view(np.uint32), values.view(np.uint32))
