"""Downloads from a real HTTP server, interrupted and resumed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.models.download import download, find_wheel
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "tiny.whl.part"


@pytest.fixture
def digest(wheel: Path) -> str:
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def fetch(url: str, part: Path, digest: str) -> list[tuple[str, int, int]]:
    told: list[tuple[str, int, int]] = []
    download(url, part, digest, lambda *progress: told.append(progress))
    return told


def test_progress_is_told_in_bytes(index: Any, wheel: Path, part: Path, digest: str) -> None:
    size = wheel.stat().st_size
    told = fetch(index.url, part, digest)
    assert part.read_bytes() == wheel.read_bytes()
    assert told[0] == ("download", 0, size)
    assert told[-1] == ("download", size, size)
    assert told == sorted(told)


def test_an_interrupted_download_goes_on_where_it_ended(
    index: Any, wheel: Path, part: Path, digest: str
) -> None:
    size = wheel.stat().st_size
    index.cuts = [300_000, 400_000]
    for reached in (300_000, 700_000):
        with pytest.raises(SetupError, match=f"ended after {reached} of {size} bytes.*resume"):
            fetch(index.url, part, digest)
        assert part.stat().st_size == reached
    told = fetch(index.url, part, digest)
    assert index.asked == [None, "bytes=300000-", "bytes=700000-"]
    assert told[0] == ("download", 700_000, size)
    assert part.read_bytes() == wheel.read_bytes()


def test_a_server_that_cannot_resume_sends_all_again(
    index: Any, wheel: Path, part: Path, digest: str
) -> None:
    index.ranges = False
    index.cuts = [300_000]
    with pytest.raises(SetupError, match="ended after 300000"):
        fetch(index.url, part, digest)
    assert fetch(index.url, part, digest)[0] == ("download", 0, wheel.stat().st_size)
    assert part.read_bytes() == wheel.read_bytes()


def test_a_complete_part_is_not_fetched_again(
    index: Any, wheel: Path, part: Path, digest: str
) -> None:
    part.write_bytes(wheel.read_bytes())
    assert fetch(index.url, part, digest) == []


@pytest.mark.parametrize("left_over", [b"", b"other bytes", bytes(2_000_000)])
def test_bytes_other_than_expected_are_deleted(
    index: Any, part: Path, digest: str, left_over: bytes
) -> None:
    part.write_bytes(left_over)
    if not left_over:
        digest = "0" * 64
    with pytest.raises(SetupError, match="does not have the expected sha256 and was deleted"):
        fetch(index.url, part, digest)
    assert not part.exists()


def test_a_wheel_in_a_folder_is_copied(wheel: Path, part: Path, digest: str) -> None:
    fetch(wheel.as_uri(), part, digest)
    assert part.read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "/etc/hostname"])
def test_only_the_web_and_files_are_read(part: Path, url: str) -> None:
    with pytest.raises(SetupError, match="neither a web address nor a file"):
        fetch(url, part, "")


def test_a_server_that_refuses_says_how_to_fetch_the_wheel_otherwise(
    index: Any, part: Path
) -> None:
    with pytest.raises(SetupError, match=r"404.*pip download --no-deps.*PIP_FIND_LINKS"):
        fetch(f"{index.root}/none", part, "")


def test_pip_decides_where_the_wheel_comes_from(index: Any) -> None:
    assert find_wheel("tiny-pack", "1.0") == index.url


def test_a_folder_named_to_pip_is_used(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert find_wheel("tiny-pack", "1.0") == wheel.as_uri()


def test_what_pip_does_not_find_is_reported_in_its_words(index: Any) -> None:
    with pytest.raises(SetupError, match=r"not find tiny-pack==2.0; it said: ERROR: No matching"):
        find_wheel("tiny-pack", "2.0")
