"""File descriptors: how many the process may have, and how many of them are for callers.

A process without any left can take no connection, and make none to Redis or to an encoder. So
callers get a part of them, and the rest is for what a sidecar needs itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

# For files, Redis, the index, encoders, probes, and to spare.
_RESERVED = 192
_MOST = 100_000


def raise_limit() -> None:
    """Allows this process as many as it may allow itself and can use; the usual 1,024 are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    most = _MOST + _RESERVED
    if hard != resource.RLIM_INFINITY:
        most = min(hard, most)
    if most > soft:
        # A system may have a bound of its own below that; then the limit stays as it is.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def most_connections(listeners: int) -> int:
    """The most connections of callers that each of so many listeners is to take."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    room = max(soft - _RESERVED, soft // 4)
    return min(max(1, room // listeners), _MOST)


def is_one_left() -> bool:
    """Whether a file or a connection could be opened now."""
    try:
        os.close(os.dup(0))
    except OSError as error:
        # Without a standard input, nothing is copied, but there was room for it.
        return error.errno not in (errno.EMFILE, errno.ENFILE)
    return True
