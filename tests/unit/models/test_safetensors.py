"""Reading weights, and refusing what is not well-formed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.models.errors import SetupError
from sidecar.models.safetensors import read_safetensors

if TYPE_CHECKING:
    from pathlib import Path


def file_bytes(header: Any, body: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + body


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_tensors_are_read_by_name(tmp_path: Path) -> None:
    matrix, ids = np.arange(6, dtype="<f4").reshape(2, 3), np.array([7], "<i8")
    header = {
        "__metadata__": {"format": "pt"},
        "matrix": entry("F32", [2, 3], 0, 24),
        "ids": entry("I64", [1], 24, 32),
    }
    path = tmp_path / "w"
    path.write_bytes(file_bytes(header, matrix.tobytes() + ids.tobytes()))
    tensors = read_safetensors(path)
    assert set(tensors) == {"matrix", "ids"}
    np.testing.assert_array_equal(tensors["matrix"], matrix)
    np.testing.assert_array_equal(tensors["ids"], ids)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"\xff" * 8,
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{",
        file_bytes([], b""),
        file_bytes({"t": entry("F32", [1], 0, 8)}, bytes(8)),  # too many bytes for the shape
        file_bytes({"t": entry("F32", [2], 4, 12)}, bytes(8)),  # past the end
        file_bytes({"t": entry("F32", [2], -8, 0)}, bytes(8)),
        file_bytes({"t": entry("F32", [2], -16, -8)}, bytes(16)),
        file_bytes({"t": entry("F32", [-1, -2], 0, 8)}, bytes(8)),
        file_bytes({"t": entry("F32", [0], 8, 0)}, bytes(8)),
        file_bytes({"t": entry("F16", [2], 0, 4)}, bytes(4)),
        file_bytes({"t": {"dtype": "F32"}}, b""),
        file_bytes({"t": None}, b""),
        file_bytes({"t": entry("F32", ["2"], 0, 8)}, bytes(8)),  # type: ignore[list-item]
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"weights\.safetensors: .*fetch it again"):
        read_safetensors(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.integers(0, 119), st.integers(0, 255))
def test_no_changed_byte_is_more_than_a_setup_error(tmp_path: Path, at: int, value: int) -> None:
    content = bytearray(file_bytes({"t": entry("F32", [2, 2], 0, 16)}, bytes(60)))
    content[at % len(content)] = value
    path = tmp_path / "w"
    path.write_bytes(content)
    try:
        tensors = read_safetensors(path)
    except SetupError:
        return
    assert all(tensor.nbytes <= 76 for tensor in tensors.values())
