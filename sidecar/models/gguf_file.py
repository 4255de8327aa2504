"""Reads GGUF files: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

Only as much of the format as packs are made of: version 2 and 3, little-endian, arrays of numbers
and strings, tensors of the types F32, Q4_1 and Q8_0. Nothing that a file says of its own sizes is
believed before it is compared with how much of it there is.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_ENTRIES = 10_000
"""Of metadata; models have some dozens."""
MAX_ITEMS = 2**22
"""Of all arrays of metadata together; a vocabulary has some hundred thousand."""
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 4

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


class _Type(NamedTuple):
    """A block of so many numbers takes so many bytes."""

    name: str
    numbers: int
    n_bytes: int


_TYPES = {0: _Type("F32", 1, 4), 3: _Type("Q4_1", 32, 20), 8: _Type("Q8_0", 32, 34)}


@dataclass(frozen=True, slots=True)
class Gguf:
    """A GGUF file: its metadata, and its tensors with a name and a type ("F32", "Q4_1") each.

    Numbers of a quantised tensor are the bytes of its blocks, a row of them for each row.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, tuple[str, NDArray[Any]]]

    def tensor(self, name: str, kind: str, rows: int) -> NDArray[Any]:
        """Returns a tensor; raises `SetupError` if it is not there, or not of this kind."""
        found, data = self.tensors.get(name, ("none", np.empty(0)))
        if found != kind or len(data) != rows:
            raise SetupError(
                f"{self.path}: {name} is {found} with {len(data)} rows, not {kind} with {rows};"
                " it is another model"
            )
        return data


def read_gguf(path: Path) -> Gguf:
    """Reads a GGUF file; tensors are mapped, not read. Raises `SetupError` if it is damaged."""
    try:
        metadata, tensors = _Reader(np.asarray(np.memmap(path, mode="r"))).read()
    except (ValueError, OSError) as error:
        raise SetupError(f"{path}: not a GGUF file, or damaged ({error})") from error
    return Gguf(path, metadata, tensors)


class _Place(NamedTuple):
    """What a file says of a tensor."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    def find(self, body: NDArray[np.uint8]) -> NDArray[Any]:
        """The tensor within what the file has behind all else."""
        block = _TYPES[self.kind]
        *outer, row = self.shape
        end = self.offset + math.prod(self.shape) // block.numbers * block.n_bytes
        if 0 in self.shape or row % block.numbers or end > len(body):
            raise ValueError(f"{self.name!r} is not within the file")
        data = body[self.offset : end]
        if block.name == "F32":
            return data.view("<f4").reshape(self.shape)
        return data.reshape(*outer, row // block.numbers * block.n_bytes)


class _Reader:
    """Reads a file from front to end. Everything raises `ValueError` where it is not well-formed.

    Attributes:
        items: how many more items arrays of metadata may have.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self._bytes = data.data
        self._at = 0
        self.items = MAX_ITEMS

    def read(self) -> tuple[dict[str, Any], dict[str, tuple[str, NDArray[Any]]]]:
        """Metadata and tensors."""
        if self.take(4) != _MAGIC or self.scalar("I") not in _VERSIONS:
            raise ValueError("neither version 2 nor 3 of the format")
        tensors, entries = self.scalar("Q"), self.scalar("Q")
        if entries > MAX_ENTRIES or tensors > MAX_TENSORS:
            raise ValueError(f"{entries} entries and {tensors} tensors are too many")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            name = self.text()
            if name in metadata:
                raise ValueError(f"{name!r} is there twice")
            metadata[name] = self.value(self.scalar("I"))
        places = [self.place() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment.bit_count() != 1:
            raise ValueError("the alignment is no power of two")
        body = self._data[self._at + -self._at % alignment :]
        found = {place.name: (_TYPES[place.kind].name, place.find(body)) for place in places}
        if len(found) < tensors:
            raise ValueError("two tensors have the same name")
        return metadata, found

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if size > len(self._bytes) - self._at:
            raise ValueError("it is cut short")
        self._at += size
        return self._bytes[self._at - size : self._at].tobytes()

    def scalar(self, kind: str) -> Any:
        """A number, by its name in `struct`."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        """A string."""
        return self.take(self.scalar("Q")).decode()

    def value(self, kind: int) -> Any:
        """What metadata say, of a type by its number in the format."""
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _ARRAY:
            return self.array(self.scalar("I"), self.scalar("Q"))
        raise ValueError(f"metadata of the unknown type {kind}")

    def array(self, kind: int, count: int) -> list[Any]:
        """So many items of a type."""
        self.items -= count
        if self.items < 0:
            raise ValueError(f"its arrays have more than {MAX_ITEMS} items")
        if kind == _STRING:
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS:
            raise ValueError(f"an array of the unknown type {kind}")
        form = f"<{count}{_SCALARS[kind]}"
        return list(struct.unpack(form, self.take(struct.calcsize(form))))

    def place(self) -> _Place:
        """Where a tensor is."""
        name, dimensions = self.text(), self.scalar("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"{name!r} has {dimensions} dimensions")
        sizes = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions))
        kind = self.scalar("I")
        if kind not in _TYPES:
            raise ValueError(f"{name!r} is of the type {kind}, which packs are not made of")
        # The file has the size of a row first.
        return _Place(name, sizes[::-1], kind, self.scalar("Q"))
