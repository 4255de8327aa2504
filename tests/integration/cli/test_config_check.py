"""``embercache config check`` reads the files that a sidecar would not start without."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sidecar.cli import main
from sidecar.config_sources import load_settings
from sidecar.models.errors import SetupError
from sidecar.open_access import read_access
from sidecar.open_sealing import open_keys, with_salt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

TOKEN = "the-secret-token-of-shop"  # noqa: S105
KEY = base64.b64encode(bytes(range(32))).decode()


class Files:
    """A configuration whose files are all good, until one is written anew."""

    def __init__(self, folder: Path) -> None:
        self.names = {name: folder / name for name in ("policy", "tokens", "keys", "salt")}
        self.write("tokens", TOKEN)
        self.write("keys", f"k1:{KEY}")
        self.write("salt", "a secret salt")
        tokens = self.names["tokens"]
        self.write("policy", f"callers: [{{name: shop, token_file: {tokens}, namespaces: [a]}}]")
        self.settings = folder / "embercache.yaml"
        self.settings.write_text(
            f"access: {{policy_file: {self.names['policy']}}}\n"
            f"encryption: {{keys_file: {self.names['keys']}}}\n"
            f"cache: {{salt_file: {self.names['salt']}}}\n"
        )

    def write(self, name: str, text: str) -> None:
        self.names[name].write_text(text)

    def check(self) -> Result:
        result = CliRunner().invoke(main, ["config", "check", "--config", str(self.settings)])
        assert not any(secret in result.output for secret in (TOKEN, KEY, KEY[1:], "a secret salt"))
        return result


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_files_that_can_be_used_are_right(files: Files) -> None:
    result = files.check()
    assert (result.exit_code, result.output) == (0, "settings are right\n")


@pytest.mark.parametrize(
    ("name", "text", "opened"),
    [
        ("policy", "callers: [", read_access),
        ("tokens", f"{TOKEN}\nshort", read_access),
        ("keys", f"k1:{KEY}\nk2:{KEY[1:]}", open_keys),
        ("salt", "", with_salt),
    ],
)
def test_what_is_wrong_is_told_in_the_words_of_a_start(
    files: Files, name: str, text: str, opened: Callable[..., object]
) -> None:
    files.write(name, text)
    with pytest.raises(SetupError) as error:
        opened(load_settings(files.settings, {}, {}))
    result = files.check()
    assert (result.exit_code, result.output) == (1, f"Error: {error.value}\n")


def test_every_file_that_is_wrong_is_told(files: Files) -> None:
    for file in files.names.values():
        file.unlink()
    lines = files.check().output.removeprefix("Error: ").splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "access.policy_file",
        "encryption.keys_file",
        "cache.salt_file",
    ]
