"""What a sidecar refuses to start with."""

from __future__ import annotations

import grp
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from sidecar.config import Settings
from sidecar.models.errors import SetupError
from sidecar.transport.listening import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Party = Any
    Start = Callable[..., Awaitable[Any]]

ADDRESSES = ("address", "openai_address", "metrics_address")
ALLOWED = {"address": "insecure", "openai_address": "insecure"}


def with_password(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize("optional", [False, True])
async def test_a_certificate_that_cannot_be_used_is_named(
    start: Start, server: Party, tls: dict[str, Any], mutual_tls: dict[str, Any], optional: bool
) -> None:
    addresses = {"metrics_address": "", "openai_address": ""} if optional else {}
    certificate, key = (path.read_bytes() for path in server.files)
    for content, reason in (
        ((certificate, server.authority.issue()[1]), "KEY_VALUES_MISMATCH"),
        ((b"", key), "there is no certificate"),
        ((certificate[:200], key), "there is no certificate"),
        ((certificate, with_password(key)), str(server.pair.key)),
        ((certificate, b""), str(server.pair.key)),
    ):
        server.pair.put(*content)
        with pytest.raises(SetupError, match=f"section tls: .*{reason}"):
            await start(tls=tls, server=addresses)
    server.renew()
    server.ca.write_bytes(b"")
    with pytest.raises(SetupError, match=f"section tls: .*no certificate in {server.ca}"):
        await start(tls=mutual_tls, server=addresses)
    server.ca.unlink()
    with pytest.raises(SetupError, match=f"section tls: cannot read {server.ca}: No such file"):
        await start(tls=mutual_tls, server=addresses)


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.1", "cache.internal"])  # noqa: S104
@pytest.mark.threat("A stranger reaches a sidecar that was opened by mistake")
def test_an_address_that_others_reach_needs_tls_or_an_explicit_setting(
    name: str, host: str, server: Party, tls: dict[str, Any]
) -> None:
    listening: dict[str, Any] = {"address": "127.0.0.1:0", name: f"{host}:7000"}
    with pytest.raises(ValidationError) as error:
        Settings.model_validate({"server": listening})
    allowed = ALLOWED.get(name, "insecure_metrics")
    assert f"server.{name} {host}:7000 can be reached by other machines" in str(error.value)
    assert f"set tls.cert_file, listen on 127.0.0.1, or set server.{allowed}" in str(error.value)
    Settings.model_validate({"server": listening, "tls": tls})
    Settings.model_validate({"server": listening | {allowed: True}})


@pytest.mark.parametrize("name", ADDRESSES)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "127.0.0.9"])
def test_an_address_of_this_machine_alone_needs_nothing(name: str, host: str) -> None:
    Settings.model_validate({"server": {"address": "127.0.0.1:0", name: f"{host}:7000"}})


async def test_a_sidecar_listens_everywhere_with_tls(start: Start, tls: dict[str, Any]) -> None:
    every = dict.fromkeys(("address", "openai_address"), "0.0.0.0:0")
    sidecar = await start(tls=tls, server=every)
    assert sidecar.openai_url.startswith("https://0.0.0.0:")


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def some_group() -> grp.struct_group:
    """A group that this user can give a file to, not the one that a file gets anyway."""
    mine = grp.getgrall() if os.getuid() == 0 else map(grp.getgrgid, os.getgroups())
    for group in mine:
        if group.gr_gid != os.getgid():
            return group
    pytest.skip("this user has one group only")


@pytest.mark.parametrize(("mode", "expected"), [(None, 0o660), ("0600", 0o600), ("666", 0o666)])
@pytest.mark.threat("Another user of the machine connects to the socket")
async def test_the_socket_has_the_mode_that_is_set(
    start: Start, socket_path: Path, mode: str | None, expected: int
) -> None:
    settings = {"socket": str(socket_path)} | ({} if mode is None else {"socket_mode": mode})
    await start(server=settings)
    assert socket_path.stat().st_mode & 0o777 == expected


@pytest.mark.parametrize("by", ["gr_name", "gr_gid"])
async def test_the_socket_has_the_group_that_is_set(
    start: Start, socket_path: Path, some_group: grp.struct_group, by: str
) -> None:
    group = str(getattr(some_group, by))
    await start(server={"socket": str(socket_path), "socket_group": group})
    assert socket_path.stat().st_gid == some_group.gr_gid
    assert socket_path.stat().st_mode & 0o777 == 0o660


async def test_a_group_that_is_not_there_is_named(start: Start, socket_path: Path) -> None:
    with pytest.raises(ListenError, match=r"there is no group no-such-group on this machine"):
        await start(server={"socket": str(socket_path), "socket_group": "no-such-group"})


async def test_a_group_that_this_user_may_not_give_is_named(
    start: Start, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ListenError, match=r"to the group 1 .*\(Operation not permitted\)"):
        await start(server={"socket": str(socket_path), "socket_group": "1"})


@pytest.mark.threat("Another user of the machine connects to the socket")
async def test_nobody_else_may_connect_before_the_socket_has_its_group(
    start: Start, socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    chown = os.chown

    def note(path: str, *owner: int) -> None:
        seen.append(os.stat(path).st_mode & 0o777)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)  # It is there already.
        chown(path, *owner)

    monkeypatch.setattr(os, "chown", note)
    await start(
        server={
            "socket": str(socket_path),
            "socket_mode": "0666",
            "socket_group": str(os.getgid()),
        }
    )
    assert seen == [0o600]
