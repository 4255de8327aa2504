"""GGUF files: what they say of their sizes is not believed."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError
from sidecar.models.gguf_file import read_gguf

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (SetupError,)
_FILE = Path(tempfile.mkdtemp(prefix="fuzz-")) / "a.gguf"


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def seeds() -> Iterator[bytes]:
    entries = [
        _text("name") + struct.pack("<I", 8) + _text("a model"),
        _text("words") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("b"),
        _text("numbers") + struct.pack("<IIQ3i", 9, 5, 3, 1, 2, 3),
        _text("general.alignment") + struct.pack("<II", 4, 32),
        *(_text(f"n{kind}") + struct.pack("<I", kind) + bytes(8) for kind in (10, 11, 12)),
    ]
    places = [
        _text("floats") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0),
        _text("blocks") + struct.pack("<IQQIQ", 2, 32, 2, 3, 32),
        _text("bytes") + struct.pack("<IQIQ", 1, 32, 8, 96),
    ]
    head = b"GGUF" + struct.pack("<IQQ", 3, len(places), len(entries))
    whole = head + b"".join(entries + places)
    yield whole + bytes(-len(whole) % 32) + bytes(160)
    yield b"GGUF" + struct.pack("<IQQ", 2, 0, 0)


def run(data: bytes) -> None:
    _FILE.write_bytes(data)
    gguf = read_gguf(_FILE)
    assert all(tensor.nbytes <= len(data) for _, tensor in gguf.tensors.values())
