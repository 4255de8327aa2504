"""Reads tensors from a safetensors file.

The format: eight bytes with the length of a JSON header (little-endian), the header, which maps
each name to dtype, shape and byte range, then the bytes (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8")}
_MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Returns all tensors of the file, read-only, by name.

    Raises `SetupError` if the file is not well-formed or holds a dtype other than F32 and I64.
    """
    data = path.read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or header_bytes > min(len(data) - 8, _MAX_HEADER_BYTES):
        raise SetupError(f"{path}: not a safetensors file, or cut short; fetch it again")
    body = memoryview(data)[8 + header_bytes :]
    try:
        header = json.loads(data[8 : 8 + header_bytes])
        header.pop("__metadata__", None)
        return {name: _tensor(body, entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SetupError(f"{path}: damaged safetensors header ({error}); fetch it again") from error


def _tensor(body: memoryview, entry: dict[str, Any]) -> NDArray[Any]:
    dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end <= len(body):
        raise ValueError(f"bytes {begin}-{end} lie outside the file")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"bytes {begin}-{end} do not hold shape {shape}")
    return np.frombuffer(body[begin:end], dtype).reshape(shape)
