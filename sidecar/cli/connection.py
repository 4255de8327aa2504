"""What the commands that call a sidecar have in common: its address and what to say of errors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click
from embercache import Client, DeadlineExceededError, EmbercacheError, UnavailableError

from sidecar.config import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PROBE_SECONDS = 1.0

address_option: Callable[[click.decorators.FC], click.decorators.FC] = click.option(
    "--address",
    envvar="EMBERCACHE_ADDRESS",
    default=ServerSettings().address,
    show_default=True,
    show_envvar=True,
    help="the sidecar: HOST:PORT, tls://HOST:PORT or unix:PATH; the token and certificates that are"
    " shown to it are in files that EMBERCACHE_TOKEN_FILE, _CA_FILE, _CERT_FILE and _KEY_FILE name",
)


@contextlib.contextmanager
def connected(address: str) -> Iterator[Client]:
    """A client of the sidecar. Its errors end the command, with a message that says what to do."""
    try:
        with Client(address) as client:
            try:
                yield client
            except (UnavailableError, DeadlineExceededError):
                _check_is_there(client, address)
                raise
    except EmbercacheError as error:
        raise click.ClickException(error.message) from error


def _check_is_there(client: Client, address: str) -> None:
    """Tells a sidecar that is not there from one that cannot do what was asked."""
    try:
        client.health(timeout=_PROBE_SECONDS)
    except EmbercacheError:
        raise click.ClickException(
            f"no answer from {address}: is a sidecar running there? Start one with"
            " `embercache serve --dev`, or name its address with --address or EMBERCACHE_ADDRESS"
        ) from None
