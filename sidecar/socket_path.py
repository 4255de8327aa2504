"""Paths of Unix sockets, as the setting ``server.socket`` has them."""

from __future__ import annotations


def check_socket_path(path: str) -> str:
    """The path; raises `ValueError` if it is an address of gRPC, which names another file."""
    if path.startswith("unix:"):
        raise ValueError("write a path, without unix:")
    return path
