"""What becomes of what was made of files when these change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.files_in_use import FilesError, FilesInUse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two files that belong together if they hold the same."""
    found = [tmp_path / "one", tmp_path / "other"]
    write(found, "first")
    return found


def write(paths: Sequence[Path], *contents: str) -> None:
    for path, content in zip(paths, contents * (len(paths) // len(contents)), strict=True):
        path.write_text(content)


def load(contents: Sequence[bytes]) -> str:
    one, other = contents
    if one != other:
        raise ValueError("they do not belong together")
    return one.decode()


def test_a_new_content_is_taken_once(paths: list[Path]) -> None:
    files = FilesInUse(paths, load)
    assert files.value == "first"
    assert not files.look()
    write(paths, "second")
    assert files.look()
    assert files.value == "second"
    assert not files.look()


def test_what_is_no_good_is_told_once_and_the_last_good_stays(paths: list[Path]) -> None:
    files = FilesInUse(paths, load)
    write(paths, "second", "another")
    with pytest.raises(FilesError, match=f"{paths[0]} with {paths[1]}: they do not belong"):
        files.look()
    assert not files.look()
    assert files.value == "first"
    write(paths, "first")
    assert files.look()


def test_files_that_are_not_there_are_told_once(paths: list[Path]) -> None:
    files = FilesInUse(paths, load)
    paths[1].unlink()
    with pytest.raises(FilesError, match=f"cannot read {paths[1]}: No such file"):
        files.look()
    assert not files.look()
    assert files.value == "first"


def test_without_a_good_content_there_is_nothing(paths: list[Path]) -> None:
    write(paths, "one", "another")
    with pytest.raises(FilesError):
        FilesInUse(paths, load)


def test_files_that_change_while_they_are_read_are_read_again(paths: list[Path]) -> None:
    changes = iter(["second", "third"])

    def load_in_change(contents: Sequence[bytes]) -> str:
        if (content := next(changes, None)) is not None:
            write(paths, content)
        return load(contents)

    assert FilesInUse(paths, load_in_change).value == "third"


def test_files_that_never_rest_are_given_up(paths: list[Path]) -> None:
    def load_in_change(contents: Sequence[bytes]) -> str:
        write(paths, contents[0].decode() + "!")
        return load(contents)

    with pytest.raises(FilesError, match="change while they are read"):
        FilesInUse(paths, load_in_change)


def test_without_files_there_is_one_value_for_ever() -> None:
    files = FilesInUse([], lambda contents: len(contents))
    assert files.value == 0
    assert not files.look()


async def test_changes_are_followed_also_those_between_the_start_and_the_first_look(
    paths: list[Path], eventually: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    files = FilesInUse(paths, load)
    write(paths, "second")
    told: list[str] = []
    following = asyncio.create_task(
        files.follow(
            lambda: told.append(files.value), lambda error: told.append("failed"), seconds=0.01
        )
    )
    await eventually(lambda: told == ["second"])
    write(paths, "third", "another")
    await eventually(lambda: told == ["second", "failed"])
    write(paths, "third")
    await eventually(lambda: told == ["second", "failed", "third"])
    following.cancel()


async def test_files_are_followed_after_an_unexpected_error(
    paths: list[Path], eventually: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    def odd(contents: Sequence[bytes]) -> str:
        if contents[0] == b"odd":
            raise KeyError
        return load(contents)

    files = FilesInUse(paths, odd)
    write(paths, "odd")
    renewed: list[str] = []
    following = asyncio.create_task(
        files.follow(lambda: renewed.append(files.value), pytest.fail, seconds=0.001)
    )
    try:
        await asyncio.sleep(0)
        write(paths, "second")
        await eventually(lambda: renewed == ["second"])
    finally:
        following.cancel()
        await asyncio.wait({following})
