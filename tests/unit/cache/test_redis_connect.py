"""Which client a Redis URL makes, which URLs are refused, and that no secret gets out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection

from bench.certificates import Authority
from sidecar.cache.redis_connect import RedisUrlError, connect, redact

if TYPE_CHECKING:
    from pathlib import Path

HUSH = "hush"


def options(url: str, **more: Any) -> dict[str, Any]:
    client = connect(url, connect_timeout=0.5, **more)
    if isinstance(client, RedisCluster):
        return client.connection_kwargs
    return client.connection_pool.connection_kwargs


@pytest.mark.parametrize(
    ("url", "connection"),
    [
        ("redis://cache:7000/3", Connection),
        ("rediss://cache:7000/3", SSLConnection),
        ("unix:///run/redis.sock?db=3", UnixDomainSocketConnection),
    ],
)
def test_the_scheme_decides_how_one_server_is_reached(url: str, connection: type) -> None:
    client = connect(url, connect_timeout=0.5)
    assert issubclass(client.connection_pool.connection_class, connection)
    assert client.connection_pool.connection_kwargs["db"] == 3


def test_a_sentinel_url_asks_every_sentinel_for_the_service() -> None:
    client = connect("redis+sentinel://u:hush@one:1,two,[::1]:3/main/2", connect_timeout=0.5)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (2, HUSH)
    sentinels = [s.connection_pool.connection_kwargs for s in pool.sentinel_manager.sentinels]
    assert [(s["host"], s["port"]) for s in sentinels] == [("one", 1), ("two", 26379), ("::1", 3)]
    assert {s["password"] for s in sentinels} == {None}


def test_sentinels_get_the_password_when_the_url_says_so() -> None:
    client = connect("redis+sentinel://u:hush@one/main?sentinel_auth=true", connect_timeout=0.5)
    sentinel = client.connection_pool.sentinel_manager.sentinels[0]
    assert sentinel.connection_pool.connection_kwargs["username"] == "u"
    assert sentinel.connection_pool.connection_kwargs["password"] == HUSH


def test_a_sentinel_that_hangs_leaves_time_for_the_next() -> None:
    client = connect("redis+sentinel://one,two/main", connect_timeout=0.5)
    for sentinel in client.connection_pool.sentinel_manager.sentinels:
        assert sentinel.connection_pool.connection_kwargs["socket_timeout"] == 0.5


def test_tls_reaches_sentinels_and_servers_alike(tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(Authority().pem)
    url = f"rediss+sentinel://one/main?ssl_ca_certs={authority}"
    pool = connect(url, connect_timeout=0.5).connection_pool
    sentinel = pool.sentinel_manager.sentinels[0].connection_pool
    assert issubclass(pool.connection_class, SentinelManagedConnection)
    contexts = [each.make_connection()._connection_arguments()["ssl"] for each in (pool, sentinel)]
    assert contexts[0] is contexts[1]
    assert contexts[0].get_ca_certs()


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("ssl_ca_certs=/nowhere/ca.pem", "cannot read /nowhere/ca.pem: No such file or directory"),
        ("ssl_cert_reqs=maybe", "maybe"),
    ],
)
@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster", "rediss+sentinel"])
def test_tls_that_cannot_work_is_refused(scheme: str, option: str, reason: str) -> None:
    place = f"{scheme}://127.0.0.1/{'main' * scheme.endswith('sentinel')}"
    with pytest.raises(RedisUrlError, match=f"TLS to {re.escape(place)} is not possible.*{reason}"):
        connect(f"{place}?{option}", connect_timeout=0.5)


def test_a_cluster_url_names_some_of_its_nodes() -> None:
    client = connect("redis+cluster://u:hush@127.0.0.1:1,127.0.0.2", connect_timeout=0.5)
    assert isinstance(client, RedisCluster)
    assert [(n.host, n.port) for n in client.startup_nodes] == [
        ("127.0.0.1", 1),
        ("127.0.0.2", 6379),
    ]
    assert client.connection_kwargs["password"] == HUSH


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "unix:///run/redis.sock",
        "redis+sentinel://cache/main",
        "redis+cluster://127.0.0.1",
        "redis://cache?socket_timeout=9&decode_responses=true&protocol=3",
    ],
)
def test_the_client_neither_retries_nor_decodes_nor_has_limits_of_its_own(url: str) -> None:
    got = options(url)
    client = connect(url, connect_timeout=0.5)
    retry = client.retry if isinstance(client, RedisCluster) else got["retry"]
    assert retry.get_retries() == 0
    assert got["socket_timeout"] is None
    assert got["socket_connect_timeout"] == 0.5
    assert got.get("decode_responses", False) is False
    assert got["protocol"] == 2


@pytest.mark.parametrize("content", [HUSH, HUSH + "\n", HUSH + "\r\n"])
@pytest.mark.parametrize(
    "url", ["redis://cache", "redis+sentinel://cache/main", "redis+cluster://127.0.0.1"]
)
def test_the_password_may_come_from_a_file(url: str, content: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    assert options(url, password_file=file)["password"] == HUSH


def test_a_password_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect("redis://cache", connect_timeout=0.5, password_file=tmp_path / "none")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://cache", "no Redis URL"),
        ("redis+other://cache", "no Redis URL"),
        ("unix+cluster:///run/redis.sock", "no Redis URL"),
        ("cache:6379", "no Redis URL"),
        ("", "no Redis URL"),
        ("redis://[::1", "cannot read"),
        ("redis://cache:66000", "cannot read"),
        ("redis://cache/first", "database"),
        ("redis+cluster://127.0.0.1/3", "no databases"),
        ("redis+sentinel://cache", "name of the service"),
        ("redis+sentinel://cache/main/first", "database"),
        ("redis+cluster://127.0.0.1:x", "HOST:PORT"),
        ("unix://", "names no socket"),
        ("redis://cache?colour=blue", "option"),
        ("redis+sentinel://cache/main?colour=blue", "option"),
        ("redis+cluster://127.0.0.1?colour=blue", "option"),
    ],
)
def test_a_bad_url_is_refused_with_what_is_wrong(url: str, what: str) -> None:
    with pytest.raises(RedisUrlError, match=what):
        connect(url, connect_timeout=0.5)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hunter2@cache/x",
        "http://user:hunter2@cache",
        "redis://user:hunter2/more@cache:1",
        "redis://:hunter2@cache:66000",
        "redis://cache?password=hunter2&colour=blue",
        "redis+cluster://:hunter2@a:b",
        "hunter2@cache",
        "redis://:hunter2@[::1",
        "redis+sentinel://:hunter2@127.0.0.1",
    ],
)
def test_the_message_of_a_refusal_has_no_secret(url: str) -> None:
    with pytest.raises(RedisUrlError) as refusal:
        connect(url, connect_timeout=0.5)
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache:1/2", "redis://cache:1/2"),
        ("redis://user:pass@cache:1/2", "redis://***@cache:1/2"),
        ("redis+sentinel://:pass@a:1,b:2/main/0", "redis+sentinel://***@a:1,b:2/main/0"),
        ("unix:///run/redis.sock?password=pass", "unix:///run/redis.sock"),
        ("redis://user:pa/ss@cache", "redis://***@cache"),
        ("redis://user:pa?ss@cache", "redis://***@cache"),
        ("redis://user:pa#ss@cache?x=y", "redis://***@cache"),
        ("redis://user:pa@ss@cache", "redis://***@cache"),
        ("secret", "***"),
    ],
)
def test_a_redacted_url_keeps_the_place_only(url: str, shown: str) -> None:
    assert redact(url) == shown
