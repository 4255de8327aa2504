"""What `embercache embed` writes."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest
from embercache import Entity
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.embed_outputs import Embedded, JsonLinesWriter, NpyWriter, Row, open_writer

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def row(index: int, vector: list[float] | NDArray[np.float32], **more: Any) -> Row:
    values = {"tier": "hot", "truncated": False} | more
    return Row(index, "a text", Embedded(vector=np.array(vector, np.float32), **values))


def load(rows: list[Row], dimensions: int) -> NDArray[np.float32]:
    file = io.BytesIO()
    writer = NpyWriter(file, dimensions)
    for each in rows:
        writer.write(each)
    writer.finish()
    return np.load(io.BytesIO(file.getvalue()), allow_pickle=False)


def lines(*rows: Row, dimensions: int = 2) -> list[Any]:
    file = io.BytesIO()
    writer = JsonLinesWriter(file, dimensions)
    for each in rows:
        writer.write(each)
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_npy_is_one_float32_row_for_each_input() -> None:
    array = load([row(0, [1, 2]), row(1, [3, 4]), row(2, [5, 6])], 2)
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_npy_has_a_row_of_nan_where_there_is_no_vector() -> None:
    array = load([row(0, [1, 2]), Row(1, None, "not UTF-8"), row(2, [5, 6])], 2)
    np.testing.assert_array_equal(array, [[1, 2], [np.nan, np.nan], [5, 6]])


def test_npy_of_no_inputs_still_has_dimensions() -> None:
    assert load([], 384).shape == (0, 384)


def test_npy_says_its_number_of_rows_however_many_digits_it_has() -> None:
    rows = [row(index, [index]) for index in range(1234)]
    np.testing.assert_array_equal(load(rows, 1)[:, 0], np.arange(1234))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_json_lines_hold_vectors_exactly(vector: list[float]) -> None:
    (line,) = lines(row(0, vector), dimensions=len(vector))
    assert np.array(line["vector"], np.float32).tolist() == vector


def test_json_lines_tell_what_answered() -> None:
    assert lines(row(3, [0.5, 1], tier="warm", truncated=True)) == [
        {"index": 3, "tier": "warm", "truncated": True, "vector": [0.5, 1.0]}
    ]


def test_json_lines_name_entities() -> None:
    outcome = Embedded("hot", truncated=False, vector=np.zeros(2, np.float32))
    first, second = lines(
        Row(0, Entity("é", "text"), outcome), Row(1, Entity("a", "text", "7"), outcome)
    )
    assert first["id"] == "é"
    assert "chunk_id" not in first
    assert (second["id"], second["chunk_id"]) == ("a", "7")


def test_json_lines_say_why_there_is_no_vector() -> None:
    assert lines(Row(0, None, "not UTF-8"), Row(1, Entity("a", "text"), "too long")) == [
        {"index": 0, "error": "not UTF-8"},
        {"index": 1, "id": "a", "error": "too long"},
    ]


@pytest.mark.parametrize("name", ["out.npy", "out.jsonl"])
def test_a_file_appears_only_when_it_is_whole(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    out.write_text("from before")

    def write_and_fail() -> None:
        with open_writer(out, 2) as writer:
            writer.write(row(0, [1, 2]))
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        write_and_fail()
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_text() == "from before"
    with open_writer(out, 2) as writer:
        writer.write(row(0, [1, 2]))
    assert list(tmp_path.iterdir()) == [out]
    assert out.read_bytes() != b"from before"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    out = tmp_path / "none" / "out.npy"
    with pytest.raises(click.ClickException) as caught, open_writer(out, 2):
        pass
    assert caught.value.message == f"cannot write {out}: No such file or directory"
