"""Safetensors files: eight bytes of length, a header in JSON, and numbers."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError
from sidecar.models.safetensors import read_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (SetupError,)
MAX_BYTES = 16_384
TOKENS = ("dtype", "shape", "data_offsets", "F32", "I64", "__metadata__")
_FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "a.safetensors"


def seeds() -> Iterator[bytes]:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
        "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]},
    }
    text = json.dumps(header).encode()
    yield len(text).to_bytes(8, "little") + text + bytes(24)
    yield (2).to_bytes(8, "little") + b"{}"


def run(data: bytes) -> None:
    for content in (data, len(data).to_bytes(8, "little") + data):
        _FILE.write_bytes(content)
        tensors = read_safetensors(_FILE)
        assert all(tensor.nbytes <= len(content) for tensor in tensors.values())
