"""Writes what ``embercache embed`` embedded, in bounded memory."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import click
import numpy as np
from embercache import Entity
from numpy.lib import format as npy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embercache import EmbedInput, Tier
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Embedded:
    """What answered an input, and its vector."""

    tier: Tier
    truncated: bool
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Row:
    """The input at ``index`` and its vector, or why there is none.

    ``input`` is None if the input could not even be read.
    """

    index: int
    input: EmbedInput | None
    outcome: Embedded | str


class Writer(Protocol):
    """Takes rows in their order."""

    def write(self, row: Row) -> None:
        """Writes a row."""
        ...


class JsonLinesWriter:
    """One JSON object for each row: its index, tier and vector, or its error."""

    def __init__(self, file: BinaryIO, dimensions: int) -> None:
        self._file = file
        # Nine digits are enough for any float32, and json.dumps would write up to twenty.
        self._vector = f', "vector": [{", ".join(["%.9g"] * dimensions)}]'

    def write(self, row: Row) -> None:
        """Writes a row."""
        values: dict[str, Any] = {"index": row.index}
        vector = ""
        if isinstance(row.input, Entity):
            values["id"] = row.input.id
            if row.input.chunk_id:
                values["chunk_id"] = row.input.chunk_id
        if isinstance(row.outcome, str):
            values["error"] = row.outcome
        else:
            values["tier"] = row.outcome.tier
            values["truncated"] = row.outcome.truncated
            vector = self._vector % tuple(row.outcome.vector.tolist())
        line = json.dumps(values, ensure_ascii=False).removesuffix("}") + vector + "}\n"
        self._file.write(line.encode())


class NpyWriter:
    """A float32 array [n, dimensions]; a row without a vector is NaN."""

    def __init__(self, file: BinaryIO, dimensions: int) -> None:
        self._file = file
        self._dimensions = dimensions
        self._missing = np.full(dimensions, np.nan, "<f4").tobytes()
        self._rows = 0
        self._write_header()

    def write(self, row: Row) -> None:
        """Writes a row."""
        if isinstance(row.outcome, str):
            self._file.write(self._missing)
        else:
            self._file.write(row.outcome.vector.astype("<f4").tobytes())
        self._rows += 1

    def finish(self) -> None:
        """Puts the number of rows into the header, in which numpy leaves room for any."""
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        shape = (self._rows, self._dimensions)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)


@contextlib.contextmanager
def open_writer(out: Path | None, dimensions: int) -> Iterator[Writer]:
    """A writer to a ``.npy`` or ``.jsonl`` file, or of JSON lines to standard output.

    The file appears whole, when the context is left without an error.
    """
    if out is None:
        yield JsonLinesWriter(sys.stdout.buffer, dimensions)
        return
    part = out.with_name(f".{out.name}.part")
    try:
        with part.open("wb") as file:
            if out.suffix == ".npy":
                npy_writer = NpyWriter(file, dimensions)
                yield npy_writer
                npy_writer.finish()
            else:
                yield JsonLinesWriter(file, dimensions)
        part.replace(out)
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
