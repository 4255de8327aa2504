"""``embercache models``: fetches, lists and checks model packs."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from sidecar.cli.migrate import migrate, rollback
from sidecar.config_sources import ConfigError, load_settings
from sidecar.models import packs
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.errors import SetupError
from sidecar.models.manifest import read_manifest, write_manifest
from sidecar.models.pack import read_pack
from sidecar.models.pack_folder import PackFolder
from sidecar.models.pull import pull as pull_pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.models.download import Progress


def _folder_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command ``folder``, which defaults to the setting ``model.folder``.

    A `SetupError` ends the command with its message.
    """

    @functools.wraps(command)
    def wrapper(config: Path | None, folder: str | None, **values: Any) -> Any:
        try:
            settings = load_settings(config, os.environ, {"model.folder": folder})
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        try:
            return command(folder=settings.model.folder, **values)
        except SetupError as error:
            raise click.ClickException(str(error)) from error

    wrapper = click.option(
        "--folder",
        metavar="FOLDER",
        help="where packs are kept  [default: the setting model.folder, or EMBERCACHE_MODEL_FOLDER;"
        f" else {packs.default_folder()}]",
    )(wrapper)
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="EMBERCACHE_CONFIG",
        help="YAML file of settings",
    )(wrapper)


@click.group()
def models() -> None:
    """Fetch, list and check model packs."""


models.add_command(migrate)
models.add_command(rollback)


@models.command()
@click.argument("name")
@_folder_option
def pull(name: str, folder: Path) -> None:
    """Fetch the built-in pack NAME, and print the folder it is in.

    A pack that is there and whole is left as it is; a download that was interrupted goes on where
    it stopped. Names are shown by `embercache models list`.

    \b
    Examples:
      embercache models pull minilm
      embercache models pull smollm2-135m --folder /models
    """
    with _progress(name) as progress:
        path = pull_pack(name, folder, progress)
    click.echo(path)


@models.command("list")
@_folder_option
def list_(folder: Path) -> None:
    """List the built-in packs: what they are, where they are, and their version.

    The version is the one that is part of every key, and that `embercache stats` shows.

    \b
    Examples:
      embercache models list
    """
    for status in packs.list_packs(folder):
        click.echo(f"{status.pack.name}: {status.pack.summary}")
        if status.path is None:
            click.echo(f"  not pulled: run `embercache models pull {status.pack.name}`")
        else:
            version = _version(status.pack, status.path)
            click.echo(f"  {status.path}, {decimal(_size(status.path))}, {version}")
            if not packs.is_current(status.pack, folder):
                click.echo(f"  not what `embercache models pull {status.pack.name}` makes today")


@models.command()
@click.argument("name_or_path", required=False)
@_folder_option
def verify(name_or_path: str | None, folder: Path) -> None:
    """Compare every file of a pack with its manifest.

    NAME is one of a built-in pack, or the path of a folder; @sha256: and a digest may follow.
    Without it, all packs in the folder of packs are checked.

    \b
    Examples:
      embercache models verify
      embercache models verify minilm
    """
    if name_or_path is not None:
        names = [name_or_path]
    else:
        names = [status.pack.name for status in packs.list_packs(folder) if status.path]
    if not names:
        raise SetupError(f"no pack is in {folder}: run `embercache models pull NAME`")
    for name in names:
        path = packs.resolve(name, folder)
        PackFolder(path).verify()
        click.echo(f"{path}: whole")


@models.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
def pin(path: Path) -> None:
    """Write down the sha256 of every file in the folder PATH, and print what pins them.

    What is printed goes into the setting model.packs, model.rerankers or generator.packs: then a
    sidecar starts only with exactly these files. They are written to manifest.json.

    \b
    Examples:
      embercache models pin /models/multilingual-e5-small
    """
    try:
        read_manifest(path)  # a file of that name that is none of ours is not overwritten
        manifest = write_manifest(path)
    except SetupError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be pinned ({error.strerror})") from None
    click.echo(packs.pinned(path, manifest))


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Progress]:
    """What to tell of a pull's progress: a bar on a terminal, else a line for each stage."""
    if not sys.stderr.isatty():
        begun: set[str] = set()

        def write_line(stage: str, done: int, total: int) -> None:
            if stage not in begun:
                begun.add(stage)
                size = f" {decimal(total)}" if stage == "download" and total else ""
                click.echo(f"{name}: {stage}{size}", err=True)

        yield write_line
        return
    columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.fields[size]}"))
    with Bar(*columns, console=Console(stderr=True)) as bar:
        tasks = {}

        def move_bar(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, size="")
            size = f"{decimal(done)} of {decimal(total)}" if stage == "download" else ""
            # A stage of which nothing is done yet is shown as one of unknown length.
            bar.update(tasks[stage], completed=done, total=total if done else None, size=size)

        yield move_bar


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _version(pack: packs.BuiltInPack, path: Path) -> str:
    read = read_decoder_pack if pack.generates else read_pack
    try:
        return f"version {read(path).version}"
    except SetupError as error:
        return f"damaged: {error}"
