"""Help, and command lines that make no sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from sidecar.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Nothing listens there: port 1 is reserved, and only root could.
NOWHERE = "127.0.0.1:1"


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(leaves(main))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    command: click.Command = main
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    assert all(p.help for p in command.params if isinstance(p, click.Option))
    assert f"embercache {' '.join(path)}" in result.output.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("embed --file - a", "give TEXTS, or lines to read (--file, --jsonl), not both"),
        ("embed --jsonl a", "give TEXTS, or lines to read (--file, --jsonl), not both"),
        ("embed --out vectors.txt a", "must end in .npy or .jsonl"),
        ("embed --dev --address 127.0.0.1:50551 a", "give --address or --dev, not both"),
        ("embed --ttl 5parsecs a", "like 90s or 24h"),
        ("embed --mode cold a", "'cold' is not one of 'default', 'refresh'"),
        ("embed --input-type book a", "'book' is not one of 'query', 'document'"),
        ("embed --file none.txt", "none.txt"),
        ("invalidate", "give --tag, or --id and --text, or --whole-namespace"),
        (
            "invalidate --whole-namespace --id b",
            "give --tag, or --id and --text, or --whole-namespace",
        ),
        ("invalidate --tag a --whole-namespace", "give --tag, or --id and --text"),
        ("invalidate --text a --chunk-id 1", "--chunk-id goes with exactly one --id"),
        ("invalidate --id a --id b --chunk-id 1", "--chunk-id goes with exactly one --id"),
        ("flush --tier warm", "'warm' is not one of 'hot', 'disk'"),
        ("models pull", "Missing argument 'NAME'"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: str, complaint: str) -> None:
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "arguments", ["embed a", "stats", "invalidate --tag a", "flush"], ids=lambda a: a.split()[0]
)
def test_without_a_sidecar_one_is_told_how_to_start_it(arguments: str) -> None:
    environment = {"EMBERCACHE_ADDRESS": NOWHERE}
    result = CliRunner(env=environment).invoke(main, arguments.split())
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: no answer from {NOWHERE}: is a sidecar running there?")
    assert "`embercache serve --dev`" in result.stderr


def test_an_address_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(main, ["stats", "--address", "nonsense"])
    assert result.exit_code == 1
    assert "write host:port" in result.stderr


def test_a_model_that_is_not_pulled_is_a_plain_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["models", "verify", "minilm", "--folder", str(tmp_path)])
    assert result.exit_code == 1
    assert "run `embercache models pull minilm`" in result.stderr
