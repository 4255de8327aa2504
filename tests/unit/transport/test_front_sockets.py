"""The sockets of the front door, which are those that gRPC would open."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

import pytest

from sidecar.transport.front_sockets import UnixListener, listen_tcp
from sidecar.transport.listening import ListenError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def closing(sockets: list[socket.socket]) -> Iterator[None]:
    with contextlib.ExitStack() as exits:
        for each in sockets:
            exits.enter_context(each)
        yield


def reaches(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port)):
            return True
    except OSError:
        return False


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


async def test_the_port_that_was_bound_is_told_with_the_host_as_it_was_written() -> None:
    sockets, address = await listen_tcp("127.0.0.1:0")
    with closing(sockets):
        host, _, port = address.rpartition(":")
        assert (host, reaches("127.0.0.1", int(port))) == ("127.0.0.1", True)


@pytest.mark.parametrize("host", ["[::]", "0.0.0.0"])  # noqa: S104
async def test_every_address_is_that_of_both_families(host: str) -> None:
    sockets, address = await listen_tcp(f"{host}:0")
    with closing(sockets):
        port = int(address.removeprefix(f"{host}:"))
        assert reaches("127.0.0.1", port)
        assert reaches("::1", port) == has_ipv6()


async def test_a_name_of_several_addresses_has_one_port_on_all() -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    sockets, address = await listen_tcp("localhost:0")
    with closing(sockets):
        ports = {each.getsockname()[1] for each in sockets}
        assert ports == {int(address.removeprefix("localhost:"))}
        assert reaches("127.0.0.1", *ports)


async def test_an_address_that_the_machine_has_not_is_left_out_if_another_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [("192.0.2.1", 0), ("127.0.0.1", 0)]
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in found]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    sockets, _ = await listen_tcp("somewhere:0")
    with closing(sockets):
        assert [each.getsockname()[0] for each in sockets] == ["127.0.0.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer[:1])
    with pytest.raises(ListenError, match="cannot listen on somewhere:0"):
        await listen_tcp("somewhere:0")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::]"])
async def test_a_port_that_is_taken_is_refused_by_its_address(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"{host}:{other.getsockname()[1]}"
        with pytest.raises(ListenError) as raised:
            await listen_tcp(address)
    assert str(raised.value) == (
        f"cannot listen on {address}: is another process using it? Set server.address"
    )


async def test_a_host_that_can_be_no_name_is_refused() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on a\.\.b:0"):
        await listen_tcp("a..b:0")


def test_a_unix_socket_is_for_whom_its_mode_says(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = UnixListener(str(path), "0660", str(os.getgid()))
    found = path.stat()
    assert (found.st_mode & 0o777, found.st_gid) == (0o660, os.getgid())
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    listener.close()
    assert not path.exists()


def test_one_that_was_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    UnixListener(str(path), "0600", "").close()


def test_one_on_which_another_process_listens_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="another process listens on the socket"):
            UnixListener(str(path), "0600", "")
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


@pytest.mark.parametrize("place", ["missing/s", "x" * 200])
def test_a_path_that_cannot_be_bound_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="does its folder exist, and may this user"):
        UnixListener(str(tmp_path / place), "0600", "")


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("kept")
    with pytest.raises(ListenError):
        UnixListener(str(path), "0600", "")
    assert path.read_text() == "kept"


def test_a_group_that_is_not_there_leaves_no_socket_behind(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="there is no group nobody-has-this"):
        UnixListener(str(tmp_path / "s"), "0600", "nobody-has-this")
    assert not list(tmp_path.iterdir())


def test_a_path_that_is_another_s_by_now_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = UnixListener(str(path), "0600", "")
    path.unlink()
    path.write_text("another's")
    listener.close()
    assert path.exists()
