"""The file of keys: what may be in it, and that it may be replaced while a sidecar runs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidecar.cache.key_ring import KeyFile, KeyRingError, read_key_ring

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = bytes(range(32)), bytes(range(32, 64))


def line(name: str, key: bytes) -> str:
    return f"{name}:{base64.b64encode(key).decode()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_the_first_key_seals_and_all_are_known(file: Path) -> None:
    file.write_text(f"# of this year\n\n  {line('k-2', TWO)}  \n{line('k_1', ONE)}\n")
    ring = read_key_ring(file)
    assert (ring.first, ring.keys) == ("k-2", {"k-2": TWO, "k_1": ONE})


def test_a_key_never_shows(file: Path) -> None:
    file.write_text(line("k1", ONE))
    assert repr(read_key_ring(file)) == "KeyRing(first='k1')"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "has no key in it"),
        ("# nothing\n", "has no key in it"),
        (f"{line('k1', ONE)}\nk2", "line 2: write ID:BASE64"),
        (base64.b64encode(ONE).decode(), "line 1: write ID:BASE64"),
        (line("k1", ONE[:31]), "line 1: write ID:BASE64"),
        (line("k1", ONE + b"1"), "line 1: write ID:BASE64"),
        (line("k1", ONE)[:-1] + "!", "line 1: write ID:BASE64"),
        (line("", ONE), "line 1: write ID:BASE64"),
        (line("k 1", ONE), "line 1: write ID:BASE64"),
        (line("k" * 17, ONE), "line 1: write ID:BASE64"),
        (f"{line('k1', ONE)}\n{line('k1', TWO)}", "line 2: another key has the same id"),
        (f"\N{KEY}{line('k1', ONE)}", "other characters than ASCII"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error_that_shows_no_key(
    file: Path, content: str, problem: str
) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(KeyRingError, match=problem) as error:
        read_key_ring(file)
    assert str(file) in str(error.value)
    assert base64.b64encode(ONE).decode()[:10] not in str(error.value)


def test_a_file_that_is_not_there_is_an_error(file: Path) -> None:
    with pytest.raises(KeyRingError, match="cannot be read"):
        KeyFile(file)


def test_the_keys_are_those_that_the_file_holds_now(file: Path) -> None:
    file.write_text(line("k1", ONE))
    keys = KeyFile(file)
    file.write_text(f"{line('k2', TWO)}\n{line('k1', ONE)}")
    with capture_logs() as logs:
        keys.reload()
    assert keys.ring == read_key_ring(file)
    assert [(log["seals"], log["opens"]) for log in logs] == [("k2", ["k2", "k1"])]
    ring = keys.ring
    keys.reload()
    assert keys.ring is ring


def test_a_file_that_is_spoilt_meanwhile_changes_nothing_and_is_logged_once(file: Path) -> None:
    file.write_text(line("k1", ONE))
    keys = KeyFile(file)
    ring = keys.ring
    with capture_logs() as logs:
        file.write_text("half of")
        keys.reload()
        keys.reload()
        file.unlink()
        keys.reload()
        keys.reload()
        file.write_text(line("k1", ONE))
        keys.reload()
        file.unlink()
        keys.reload()
    assert keys.ring is ring
    assert [log["log_level"] for log in logs] == ["warning"] * 3
