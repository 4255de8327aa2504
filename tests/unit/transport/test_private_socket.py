"""The socket between the front door and the server behind it."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest

from sidecar.transport import private_socket
from sidecar.transport.private_socket import PrivateSocket


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def connect(address: str) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    try:
        caller.connect(address)
    except OSError:
        caller.close()
        raise
    return caller


def test_only_this_user_reaches_the_path_and_nobody_does_once_it_is_hidden(place: Path) -> None:
    private = PrivateSocket()
    (folder,) = place.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(private.path)
        server.listen()
        private.hide()
        assert not list(place.iterdir())
        with pytest.raises(FileNotFoundError):
            connect(private.path)
    private.close()


def test_this_process_connects_by_a_descriptor_as_often_as_it_likes() -> None:
    private = PrivateSocket()
    with pytest.raises(OSError, match="refused"):
        connect(private.address)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(private.path)
        server.listen()
        private.hide()
        for _ in range(3):
            with connect(private.address) as caller, server.accept()[0] as taken:
                caller.sendall(b"hello")
                assert taken.recv(5) == b"hello"
    private.close()


def test_nothing_is_left_of_one_that_was_never_used(place: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    PrivateSocket().close()
    assert not list(place.iterdir())
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_folder_whose_path_is_too_long_for_a_socket_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short = place / ("x" * 100), place / "s"
    long.mkdir()
    short.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(private_socket, "_SHARED_MEMORY", str(short))
    private = PrivateSocket()
    assert Path(private.path).parent.parent == short
    assert not list(long.iterdir())
    private.close()


def test_without_any_place_it_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "missing"))
    monkeypatch.setattr(private_socket, "_SHARED_MEMORY", str(place / "missing"))
    with pytest.raises(OSError, match="No such file"):
        PrivateSocket()
