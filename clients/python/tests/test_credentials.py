"""Tokens and certificates. Real TLS sidecars are called in tests/integration."""

from pathlib import Path

import pytest

from embercache import Client, InvalidArgumentError, _channel
from embercache._credentials import REREAD_SECONDS, Credentials

LOOPBACK = _channel.place("127.0.0.1:1")
TABLE = Path(__file__).parents[2] / "testdata/addresses.txt"
LINES = [line.split(" ", 1) for line in TABLE.read_text("utf-8").splitlines()]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    return file


def shown(credentials: Credentials) -> str:
    metadata = credentials.metadata()
    assert metadata is not None
    ((name, value),) = metadata
    assert name == "authorization"
    return value


def test_every_call_carries_the_token(token_file: Path) -> None:
    assert shown(Credentials(LOOPBACK, token_file=token_file)) == "Bearer first-token"


def test_the_environment_names_the_files_that_are_not_given(token_file, monkeypatch) -> None:
    monkeypatch.setenv("EMBERCACHE_TOKEN_FILE", str(token_file))
    assert shown(Credentials(LOOPBACK)) == "Bearer first-token"


def test_without_a_token_calls_carry_nothing() -> None:
    assert Credentials(LOOPBACK).metadata() is None


def test_a_token_that_is_replaced_is_shown_within_ten_seconds(token_file: Path) -> None:
    now = 0.0
    credentials = Credentials(LOOPBACK, token_file=token_file, clock=lambda: now)
    token_file.write_text("second-token")
    assert shown(credentials) == "Bearer first-token"
    now = REREAD_SECONDS + 0.1
    assert shown(credentials) == "Bearer second-token"


def test_while_a_token_is_being_replaced_the_last_one_is_shown(token_file: Path) -> None:
    now = 0.0
    credentials = Credentials(LOOPBACK, token_file=token_file, clock=lambda: now)
    token_file.unlink()
    now = REREAD_SECONDS + 0.1
    assert shown(credentials) == "Bearer first-token"


@pytest.mark.parametrize("address", [each for of, each in LINES if of == "public"])
def test_a_token_is_not_sent_to_other_machines_unencrypted(token_file: Path, address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="write tls://host:port"):
        Client(address, token_file=token_file)


@pytest.mark.parametrize("address", [each for of, each in LINES if of == "private"])
def test_a_token_is_sent_where_nobody_else_can_read_it(token_file: Path, address: str) -> None:
    Client(address, token_file=token_file).close()


@pytest.mark.parametrize("name", ["token_file", "ca_file", "cert_file"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    files = {name: tmp_path / "missing", "key_file": tmp_path / "missing"}
    if name != "cert_file":
        del files["key_file"]
    with pytest.raises(InvalidArgumentError, match="missing cannot be read: No such file"):
        Client("tls://localhost:1", **files)


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    with pytest.raises(InvalidArgumentError, match="holds no token"):
        Client(token_file=tmp_path / "token")


def test_certificates_are_for_addresses_of_tls(token_file: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="tls://host:port"):
        Client("localhost:1", ca_file=token_file)


def test_a_certificate_needs_its_key(token_file: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="a certificate file and a key file"):
        Client("tls://localhost:1", cert_file=token_file)
