"""Help, and command lines that make no sense."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner
from embercache import _channel

from sidecar.cli import COMMANDS, main

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


LEAVES = sorted(leaves(main))


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
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


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_command_with_how_its_own_help_begins(name: str) -> None:
    command = main.commands[name]
    assert command.name == name
    assert command.help is not None
    assert command.help.startswith(COMMANDS[name].summary.removesuffix("."))
    listed = CliRunner().invoke(main, ["--help"]).output
    assert COMMANDS[name].summary in " ".join(listed.split())


def test_help_and_version_wait_for_no_command_to_be_imported() -> None:
    code = (
        "import sys; from sidecar.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "print(*(name for name in sys.modules if name.startswith('sidecar.')))"
    )
    for argument in ("--help", "--version"):
        ran = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True
        )
        assert ran.stdout.splitlines()[-1] == "sidecar.cli"


def test_a_command_written_wrongly_is_answered_with_the_one_meant() -> None:
    result = CliRunner().invoke(main, ["srve"])
    assert result.exit_code == 2
    assert "Did you mean 'serve'?" in result.stderr


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
        ("invalidate", "give exactly one of --tag, --id or --text, --document, --query, --prompt"),
        (
            "invalidate --whole-namespace --id b",
            "these are given: --id or --text, --whole-namespace",
        ),
        ("invalidate --tag a --whole-namespace", "these are given: --tag, --whole-namespace"),
        ("invalidate --tag a --kind search", "these are given: --tag, --kind"),
        ("invalidate --kind search --model-version v", "these are given: --kind, --model-version"),
        ("invalidate --document a --query b", "these are given: --document, --query"),
        ("invalidate --kind query", "'query' is not one of 'embed', 'search', 'rerank'"),
        ("invalidate --tag a --collection c", "--collection goes with --document, --query"),
        (
            "invalidate --document a --model m",
            "--model goes with --id or --text, --query, --prompt, ",
        ),
        ("invalidate --document a --input-type query", "--input-type goes with --id or --text"),
        ("invalidate --document a --where lang=en", "--where goes with --query"),
        ("invalidate --kind rerank --rerank", "--rerank goes with --query"),
        ("invalidate --text a --chunk-id 1", "--chunk-id goes with exactly one --id"),
        ("invalidate --id a --id b --chunk-id 1", "--chunk-id goes with exactly one --id"),
        ("invalidate --prompt a --query b", "these are given: --query, --prompt"),
        ("invalidate --prompt a --collection c", "--collection goes with --document, --query"),
        ("flush --tier warm", "'warm' is not one of 'hot', 'disk'"),
        ("models pull", "Missing argument 'NAME'"),
        ("models migrate a", "Missing option '--to'"),
        ("models migrate a --to b --popular -1", "-1 is not in the range x>=0"),
        ("search", "Missing argument 'QUERY'"),
        ("search q --top-k 0", "0 is not in the range 1<=x<=1000"),
        ("search q --where lang", "write a field and a value, like lang=en"),
        ("search q --where year>en", "year is compared with a str; ranges are of numbers"),
        ("generate a --system b --system-file -", "give --system or --system-file, not both"),
        ("generate a --raw --system b", "--raw has no message of the system"),
        ("generate a --temperature 3", "3.0 is not in the range 0<=x<=2"),
        ("generate a --top-p 0", "0.0 is not in the range 0<x<=1"),
        ("generate a --max-tokens 0", "0 is not in the range x>=1"),
        ("generate a --mode cold", "'cold' is not one of 'default', 'refresh'"),
        ("documents add", "Missing argument 'FILE...'"),
        ("documents add --chunk-characters 0 a", "0 is not in the range x>=1"),
        ("documents delete", "Missing argument 'ID...'"),
        ("events publish", "Missing option '--type'"),
        ("events publish --type moved", "'moved' is not one of 'created', 'updated', 'deleted'"),
        ("warm", "give FILE or --popular N"),
        ("warm --popular 3 -", "give FILE or --popular N"),
        ("warm - --per-second 0", "0.0 is not in the range x>0"),
        ("stats --watch --json", "give --watch or --json, not both"),
        ("stats --every 5s", "--every goes with --watch"),
        ("stats --watch --every 5parsecs", "like 90s or 24h"),
        ("plan --entries 1 --dim 1 --hit-rate 2 --hit-ms 1 --miss-ms 1", "range 0<=x<=1"),
        (
            "plan --entries 1 --dim 1 --hit-rate 1 --hit-ms 1 --miss-ms 1 --tokens 3",
            "for money, give --calls-per-second, --tokens and --price-per-1000-tokens",
        ),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused(arguments: str, complaint: str) -> None:
    result = CliRunner().invoke(main, arguments.split())
    assert result.exit_code == 2
    assert complaint in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "embed a",
        "stats",
        "stats --watch",
        "invalidate --tag a",
        "flush",
        "search q",
        "generate p",
        "documents delete a",
        "events publish --type created",
        "warm --popular 3",
        "models migrate a --to b",
        "models rollback a",
    ],
)
def test_without_a_sidecar_one_is_told_how_to_start_it(
    arguments: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(_channel.OPTIONS)
    retries = json.loads(str(options["grpc.service_config"]))
    retries["methodConfig"][0]["retryPolicy"]["initialBackoff"] = "0.01s"
    options["grpc.service_config"] = json.dumps(retries)
    monkeypatch.setattr(_channel, "OPTIONS", tuple(options.items()))
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
