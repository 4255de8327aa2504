"""Who may connect to a Unix socket: its group and mode."""

from __future__ import annotations

import grp
import os

from sidecar.transport.listening import ListenError


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
