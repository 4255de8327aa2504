"""Files that others replace while a sidecar runs: certificates, tokens, keys, the policy."""

from __future__ import annotations

import asyncio
import os
import traceback
from typing import TYPE_CHECKING, TypeAlias

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

LOOK_SECONDS = 2.0

_State: TypeAlias = tuple[tuple[int, ...], ...]

_log = structlog.get_logger()


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

    ``paths`` is asked each time, since what is in one file may name others. What ``changed`` raises
    is logged, and does not end the watch: other changes may be to lock somebody out.
    """
    before = state_of(paths())
    while True:
        await asyncio.sleep(seconds)
        now = state_of(paths())
        if now != before:
            before = now
            try:
                changed()
            except Exception as error:
                log_unexpected(error)


def log_unexpected(error: Exception) -> None:
    """Logs a fault of what reads files; not in its own words, which may quote a secret."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    _log.error(
        "files that changed could not be read: what was read before stays",
        error=type(error).__name__,
        at=f"{os.path.basename(place.filename)}:{place.lineno}",
    )


def _state(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # The latter where it cannot be a path.
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
