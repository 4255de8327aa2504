"""Files of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.access.policy import PolicyError
from sidecar.access.tokens import read_token_digests, token_digest

if TYPE_CHECKING:
    from pathlib import Path


def test_each_line_is_a_token_whatever_is_around_it(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"first-token-of-all\r\n\n  second-token-of-all\t\nthird-token-of-all")
    assert read_token_digests(file) == [
        token_digest(f"{name}-token-of-all") for name in ("first", "second", "third")
    ]


@pytest.mark.parametrize(
    "line",
    [
        "too-short-by-one",
        "with a space in the middle",
        "# a comment is no token",
        "umlaut-\N{LATIN SMALL LETTER U WITH DIAERESIS}-in-the-middle",
        "=================",
        "Bearer sixteen-characters",
    ],
)
def test_what_cannot_be_sent_or_is_too_short_is_refused_by_its_line_and_not_quoted(
    tmp_path: Path, line: str
) -> None:
    file = tmp_path / "tokens"
    line = line[:15] if line.startswith("too") else line
    file.write_text(f"a-token-that-is-right\n{line}\n")
    with pytest.raises(PolicyError, match=r"tokens: line 2 is not a token: write at least 16") as e:
        read_token_digests(file)
    assert line not in str(e.value)


def test_sixteen_characters_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("abcdefghijklmnop")
    assert len(read_token_digests(file)) == 1


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_bytes(b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\xfe")
    with pytest.raises(PolicyError, match="it is not text"):
        read_token_digests(file)


def test_what_no_file_can_hold_is_a_token_that_is_not_known() -> None:
    # As an HTTP header has bytes that are no UTF-8.
    assert token_digest("\udcff\udcfe") != token_digest("")
