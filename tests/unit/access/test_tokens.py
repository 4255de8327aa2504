"""Files of tokens."""

from __future__ import annotations

import pytest

from sidecar.access.policy import PolicyError
from sidecar.access.tokens import read_token_digests, token_digest


def test_each_line_is_a_token_whatever_is_around_it() -> None:
    content = b"first-token-of-all\r\n\n  second-token-of-all\t\nthird-token-of-all"
    assert read_token_digests(content) == [
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
    line: str,
) -> None:
    line = line[:15] if line.startswith("too") else line
    with pytest.raises(PolicyError, match=r"^line 2 is not a token: write at least 16") as e:
        read_token_digests(f"a-token-that-is-right\n{line}\n".encode())
    assert line not in str(e.value)


def test_sixteen_characters_are_enough() -> None:
    assert len(read_token_digests(b"abcdefghijklmnop")) == 1


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(PolicyError, match="it is not text"):
        read_token_digests(b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe\xff\xfe")


def test_what_no_file_can_hold_is_a_token_that_is_not_known() -> None:
    # As an HTTP header has bytes that are no UTF-8.
    assert token_digest("\udcff\udcfe") != token_digest("")
