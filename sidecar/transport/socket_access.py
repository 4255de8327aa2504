"""Who may connect to a Unix socket: its group and mode."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
from typing import TYPE_CHECKING

from sidecar.transport.listening import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def bound_to(path: str) -> Iterator[None]:
    """For binding a socket to a path, on which nobody listens; it is for this user alone then.

    Raises `ListenError`, for an `OSError` or `RuntimeError` of binding, too.
    """
    if _is_listened_on(path):
        # The path would be taken from the other one, which would go on without callers.
        raise ListenError(f"another process listens on the socket {path}: set server.socket")
    previous = os.umask(0o177)
    try:
        yield
    except (OSError, RuntimeError):
        raise ListenError(
            f"cannot listen on the socket {path}: does its folder exist, and may this user"
            " write there? Set server.socket"
        ) from None
    finally:
        os.umask(previous)


def give_access(path: str, mode: str, group: str) -> None:
    """Sets the group of a socket, by name or number, if one is given, then its mode, in octal.

    Raises `ListenError`.
    """
    try:
        if group:
            os.chown(path, -1, _number(group))
        os.chmod(path, int(mode, 8))
    except OSError as error:
        who = f" to the group {group}" if group else ""
        raise ListenError(
            f"cannot give the socket {path}{who} with the mode {mode} ({error.strerror}): this user"
            " has to be a member of the group. Set server.socket_group and server.socket_mode"
        ) from None


def _is_listened_on(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def _number(group: str) -> int:
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(
            f"there is no group {group} on this machine: set server.socket_group to the name of"
            " one, or to its number"
        ) from None
