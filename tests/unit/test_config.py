from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sidecar.cli import main
from sidecar.config import Settings
from sidecar.config_sources import ConfigError, all_settings, load_settings
from sidecar.units import Bytes, Lifetime, Seconds, Words

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def complaint(file: Path | None = None, environment: dict[str, str] | None = None, **flags: str):
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environment or {}, {k.replace("__", "."): v for k, v in flags.items()})
    return str(caught.value)


def test_without_any_settings_the_defaults_apply() -> None:
    assert load_settings(None, {}, {}) == Settings()


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(file: Path) -> None:
    file.write_text("hot: {max_bytes: 1MiB}\nlog: {level: error}\ndisk: {max_bytes: 16MiB}\n")
    settings = load_settings(
        file,
        {"EMBERCACHE_HOT_MAX_BYTES": "2MiB", "EMBERCACHE_LOG_LEVEL": "debug"},
        {"hot.max_bytes": "3MiB"},
    )
    assert settings.hot.max_bytes == 3 * 2**20
    assert settings.log.level == "debug"
    assert settings.disk.max_bytes == 2**24


def test_a_bad_value_is_reported_with_its_field_and_where_it_came_from(file: Path) -> None:
    file.write_text("hot: {max_bytes: plenty}\n")
    assert complaint(file).startswith(f"hot.max_bytes ({file}): write a number")
    assert "log.level (EMBERCACHE_LOG_LEVEL): " in complaint(
        environment={"EMBERCACHE_LOG_LEVEL": "loud"}
    )
    assert "redis.timeout (--redis-timeout): " in complaint(redis__timeout="-1s")


def test_every_bad_field_is_reported_at_once(file: Path) -> None:
    file.write_text("hot: {max_bytes: x}\ncache: {codec: int4}\n")
    assert len(complaint(file).splitlines()) == 2


def test_an_unknown_field_in_the_file_is_reported(file: Path) -> None:
    file.write_text("hot: {max_byte: 1}\nwarm: {}\n")
    text = complaint(file)
    assert "hot.max_byte (" in text
    assert "warm (" in text


@pytest.mark.parametrize("content", ["[1, 2]", "hot: {", "hot: 3", "\x00"])
def test_a_file_that_is_no_mapping_of_sections_is_refused(file: Path, content: str) -> None:
    file.write_text(content)
    assert complaint(file)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('hot:\n  max_bytes: 1\nredis:\n  url: "redis://:hunter2@h/0\n', 5),
        ("cache:\n  salt: hunter2: x\n", 2),
        ("cache:\n  salt: *hunter2\n", 2),
        ("cache:\n  salt: !hunter2 x\n", 2),
        ("cache:\n  salt: !hunter2's x\n", 2),
        ("cache:\n  salt: !h'hunter2%22hunter2 x\n", 2),
        ("cache:\n  salt: &hunter2 x\n  prefix: &hunter2 y\n", 3),
        ("cache:\n  salt: [hunter2\nhot:\n", 3),
    ],
)
def test_a_file_that_is_not_yaml_is_refused_with_the_line_but_not_what_it_holds(
    file: Path, content: str, line: int
) -> None:
    file.write_text(content)
    text = complaint(file)
    assert text.startswith(f"{file}, line {line}: not YAML: ")
    assert "hunter2" not in text


@pytest.mark.parametrize("content", [b"cache:\n  salt: hunter2\xff", b"cache: {salt: 0x_, a: 0b2}"])
def test_a_file_with_a_value_that_yaml_cannot_read_is_refused(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    text = complaint(file)
    assert str(file) in text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "content",
    [
        "redis: redis://:hunter2@h/0\n",
        "redis: {url:redis://:hunter2@h/0}\n",
        "redis://:hunter2@h/0:\n",
        "redis: {url: [hunter2]}\n",
        "redis: {url: {hunter2: hunter2}}\n",
        "cache: {salt: hunter2, codec: 1, prefix: ' '}\n",
    ],
)
def test_a_complaint_holds_no_secret_that_is_in_the_wrong_place(file: Path, content: str) -> None:
    file.write_text(content)
    assert "hunter2" not in complaint(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in complaint(tmp_path / "none.yaml")


def test_an_empty_file_and_empty_sections_mean_the_defaults(file: Path) -> None:
    file.write_text("hot:\ncache:\n")
    assert load_settings(file, {}, {}) == Settings()


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.1.2.3:50551", "[::]:1", "example.com:1"])
def test_an_address_that_others_can_reach_needs_an_explicit_word(address: str) -> None:
    assert "server.insecure" in complaint(server__address=address)
    settings = load_settings(None, {}, {"server.address": address, "server.insecure": "true"})
    assert settings.server.address == address


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "127.8.9.1:1"])
def test_a_loopback_address_needs_none(address: str) -> None:
    assert load_settings(None, {}, {"server.address": address}).server.address == address


@pytest.mark.parametrize("address", ["50551", ":50551", "127.0.0.1:", "127.0.0.1:99999", "a:b"])
def test_an_address_has_a_host_and_a_port(address: str) -> None:
    assert "HOST:PORT" in complaint(server__address=address)


@pytest.mark.parametrize("socket", ["unix:/x.sock", "unix:///x.sock", "unix:x.sock"])
def test_a_socket_is_a_path_and_no_address(socket: str) -> None:
    assert "write a path, without unix:" in complaint(server__socket=socket)


def test_a_server_without_any_listener_is_refused() -> None:
    assert "no listener" in complaint(server__address="")
    assert load_settings(None, {}, {"server.address": "", "server.socket": "/tmp/s"})  # noqa: S108


def test_a_queue_that_the_largest_batch_does_not_fit_is_refused() -> None:
    assert "encoder.queue_inputs" in complaint(encoder__queue_inputs="9999")


def test_a_window_without_anything_to_warm_in_it_is_refused() -> None:
    assert "set popular.queries" in complaint(warming__window="02:00-05:00")
    flags = {"warming.window": "02:00-05:00", "popular.queries": "100"}
    assert load_settings(None, {}, flags).warming.window


@pytest.mark.parametrize("url", ["redis://h", "RedisS://h", "unix:///s", "postgresql://u@h/d"])
def test_a_shared_index_needs_the_redis_that_tells_others_of_changes(url: str) -> None:
    assert "set redis.url too" in complaint(index__url=url)
    assert load_settings(None, {}, {"index.url": url, "redis.url": "redis://h"}).index.url


@pytest.mark.parametrize("url", ["", "memory://", "memory:///folder", "Memory://"])
def test_an_index_of_its_own_needs_none(url: str) -> None:
    assert load_settings(None, {}, {"index.url": url}).index.url.get_secret_value() == url


def test_secrets_are_not_in_the_settings_representation() -> None:
    settings = load_settings(
        None,
        {"EMBERCACHE_REDIS_URL": "redis://:hunter2@h", "EMBERCACHE_CACHE_SALT": "pepper"},
        {},
    )
    assert "hunter2" not in repr(settings)
    assert "pepper" not in repr(settings)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Bytes, "0", 0),
        (Bytes, "1.5KiB", 1536),
        (Bytes, " 2 MB ", 2_000_000),
        (Bytes, 7, 7),
        (Seconds, "500ms", 0.5),
        (Seconds, "2m", 120),
        (Seconds, "1.5", 1.5),
        (Lifetime, "24h", 86400),
        (Lifetime, "never", None),
        (Words, "a, b,", ("a", "b")),
        (Words, "", ()),
        (Words, ["a"], ("a",)),
    ],
)
def test_quantities_are_written_as_people_do(kind: object, text: object, value: object) -> None:
    assert TypeAdapter(kind).validate_python(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Bytes, "-1"), (Bytes, "1 parsec"), (Seconds, "1e9d"), (Lifetime, "0s"), (Lifetime, "soon")],
)
def test_a_wrong_quantity_is_refused(kind: object, text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(text)


@given(st.text(max_size=10))
def test_any_text_is_a_quantity_or_a_validation_error(text: str) -> None:
    for kind in (Bytes, Seconds, Lifetime, Words):
        try:
            TypeAdapter(kind).validate_python(text)
        except ValidationError:
            continue


def test_every_setting_says_what_it_is() -> None:
    for setting in all_settings():
        assert setting.field.description, setting.path


def test_what_config_show_prints_is_the_settings_again(file: Path) -> None:
    arguments = ["--hot-max-bytes=1MiB", "--cache-document-ttl=never", "--model-normalise=nfc"]
    shown = CliRunner().invoke(main, ["config", "show", *arguments])
    file.write_text(shown.output)
    again = CliRunner().invoke(main, ["config", "show", "--config", str(file)])
    assert again.output == shown.output
    assert load_settings(file, {}, {}).hot.max_bytes == 2**20


def test_config_show_shows_no_secret() -> None:
    result = CliRunner().invoke(
        main, ["config", "show"], env={"EMBERCACHE_REDIS_URL": "redis://:hunter2@h"}
    )
    assert "hunter2" not in result.output
    assert "# url: set" in result.output


def test_config_check_names_the_bad_field_and_fails() -> None:
    result = CliRunner().invoke(main, ["config", "check", "--redis-timeout", "soon"])
    assert result.exit_code != 0
    assert "redis.timeout (--redis-timeout)" in result.output


def test_config_check_warns_of_variables_that_have_no_effect() -> None:
    result = CliRunner().invoke(
        main,
        ["config", "check"],
        env={"EMBERCACHE_HOT_MAXBYTES": "1", "EMBERCACHE_SERVICE_HOST": "10.0.0.1"},
    )
    assert result.exit_code == 0
    assert "EMBERCACHE_HOT_MAXBYTES" in result.output
    assert "EMBERCACHE_SERVICE_HOST" not in result.output


@pytest.mark.parametrize("number", ["nan", "inf", "0"])
def test_a_pace_of_warming_that_makes_no_sense_is_refused(number: str) -> None:
    result = CliRunner().invoke(main, ["config", "check", "--warming-per-second", number])
    assert result.exit_code != 0
    assert "warming.per_second (--warming-per-second)" in result.output
