"""Reading GGUF files as the format's own library does, and refusing what is not well-formed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.models.errors import SetupError
from sidecar.models.gguf_file import MAX_ENTRIES, MAX_ITEMS, MAX_TENSORS, read_gguf

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = np.arange(64, dtype=np.float32)
BLOCKS = np.arange(2 * 3 * 20, dtype=np.uint8).reshape(2, 60)


def write(path: Path) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_uint32("small", 7)
    writer.add_float32("epsilon", 1e-5)
    writer.add_bool("flag", True)
    writer.add_int64("negative", -(2**40))
    writer.add_array("tokens", ["a", "\u0120b", ""])
    writer.add_array("types", [1, -3])
    writer.add_tensor("norm", NUMBERS)
    writer.add_tensor("matrix", BLOCKS, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def file_bytes(*, tensors: int = 0, entries: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def test_a_file_has_the_metadata_that_the_formats_library_wrote(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    theirs = {
        name: field.contents()
        for name, field in GGUFReader(path).fields.items()
        if not name.startswith("GGUF.")
    }
    metadata = read_gguf(path).metadata
    assert metadata == theirs
    assert metadata["tokens"] == ["a", "\u0120b", ""]
    assert metadata["flag"] is True


def test_a_file_has_the_tensors_that_the_formats_library_wrote(tmp_path: Path) -> None:
    gguf = read_gguf(write(tmp_path / "a.gguf"))
    np.testing.assert_array_equal(gguf.tensor("norm", "F32", 64), NUMBERS)
    np.testing.assert_array_equal(gguf.tensor("matrix", "Q4_1", 2), BLOCKS)


@pytest.mark.parametrize("wanted", [("other", "F32", 64), ("norm", "Q4_1", 64), ("norm", "F32", 9)])
def test_a_tensor_other_than_expected_is_named(
    tmp_path: Path, wanted: tuple[str, str, int]
) -> None:
    gguf = read_gguf(write(tmp_path / "a.gguf"))
    with pytest.raises(SetupError, match=rf"a\.gguf: {wanted[0]} is .*; it is another model"):
        gguf.tensor(*wanted)


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    content = path.read_bytes()
    padding = len(content) - max(i for i, byte in enumerate(content) if byte) - 1
    for length in range(len(content) - padding):
        path.write_bytes(content[:length])
        with pytest.raises(SetupError, match=r"a\.gguf: not a GGUF file, or damaged"):
            read_gguf(path)


def entry(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, items: bytes = b"") -> bytes:
    return entry("array", 9, struct.pack("<IQ", kind, count) + items)


def place(name: str, sizes: list[int], kind: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return text(name) + shape + struct.pack("<IQ", kind, offset)


BODY = bytes(32)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "damaged"),
    "other version": ({"version": 4}, "neither version 2 nor 3"),
    "big-endian": ({"version": 3 << 24}, "neither version 2 nor 3"),
    "too many entries": ({"entries": MAX_ENTRIES + 1}, "are too many"),
    "too many tensors": ({"tensors": MAX_TENSORS + 1}, "are too many"),
    "string beyond the end": ({"entries": 1, "rest": b"\xff" * 8}, "cut short"),
    "no UTF-8": ({"entries": 1, "rest": struct.pack("<Q", 1) + b"\xff"}, "utf-8"),
    "twice": ({"entries": 2, "rest": entry("a", 0, b"1") * 2}, "'a' is there twice"),
    "unknown type": ({"entries": 1, "rest": entry("a", 13, b"1")}, "unknown type 13"),
    "endless array": ({"entries": 1, "rest": array(0, 2**63)}, f"more than {MAX_ITEMS} items"),
    "array beyond the end": ({"entries": 1, "rest": array(7, MAX_ITEMS)}, "cut short"),
    "strings beyond the end": ({"entries": 1, "rest": array(8, MAX_ITEMS)}, "cut short"),
    "nested array": ({"entries": 1, "rest": array(9, 1)}, "array of the unknown type 9"),
    "no alignment": (
        {"entries": 1, "rest": entry("general.alignment", 4, bytes(4))},
        "no power of two",
    ),
    "odd alignment": (
        {"entries": 1, "rest": entry("general.alignment", 4, b"\x03\0\0\0")},
        "no power of two",
    ),
    "no dimensions": ({"tensors": 1, "rest": place("t", [], 0, 0)}, "has 0 dimensions"),
    "many dimensions": ({"tensors": 1, "rest": place("t", [1] * 5, 0, 0)}, "has 5 dimensions"),
    "other kind": ({"tensors": 1, "rest": place("t", [1], 2, 0) + BODY}, "is of the type 2"),
    "huge": ({"tensors": 1, "rest": place("t", [2**63] * 4, 0, 0) + BODY}, "not within the file"),
    "nothing": ({"tensors": 1, "rest": place("t", [0, 2**63], 0, 0)}, "not within the file"),
    "far away": ({"tensors": 1, "rest": place("t", [1], 0, 2**63)}, "not within the file"),
    "half a block": ({"tensors": 1, "rest": place("t", [31], 3, 0) + BODY}, "not within the file"),
    "same name": (
        {"tensors": 2, "rest": place("t", [1], 0, 0) * 2 + BODY + BODY},
        "two tensors have the same name",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_well_formed_is_refused(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(file_bytes(**content) if content else b"")
    with pytest.raises(SetupError, match=rf"a\.gguf: not a GGUF file.*{message}"):
        read_gguf(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.integers(0, 400), st.integers(0, 255))
def test_no_changed_byte_is_more_than_a_setup_error(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "a.gguf"
    content = bytearray(write(path).read_bytes())
    content[at % len(content)] = value
    path.write_bytes(content)
    try:
        gguf = read_gguf(path)
    except SetupError:
        return
    assert sum(data.nbytes for _, data in gguf.tensors.values()) <= len(content)
