"""Files that others replace while a sidecar runs: certificates, tokens, keys, the policy."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

LOOK_SECONDS = 2.0

_State: TypeAlias = tuple[tuple[int, ...], ...]


def state_of(paths: Iterable[Path]) -> _State:
    """What changes when a file is replaced or written, as through the links of a mounted secret."""
    return tuple(_state(path) for path in paths)


async def watch_files(
    paths: Callable[[], Iterable[Path]],
    changed: Callable[[], None],
    *,
    seconds: float = LOOK_SECONDS,
) -> None:
    """Looks at files every so many seconds, and calls ``changed`` when they are others.

    ``paths`` is asked each time, since what is in one file may name others.
    """
    before = state_of(paths())
    while True:
        await asyncio.sleep(seconds)
        now = state_of(paths())
        if now != before:
            before = now
            changed()


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
