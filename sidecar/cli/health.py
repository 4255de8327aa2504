"""``embercache health``: asks a sidecar whether it serves. A probe runs it every few seconds, so it
imports little.
"""

from __future__ import annotations

import os
from pathlib import Path

import click
import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from sidecar.cli.duration import DurationType
from sidecar.socket_path import check_socket_path

_DEFAULT_ADDRESS = "127.0.0.1:50551"


@click.command()
@click.option(
    "--address",
    envvar="EMBERCACHE_ADDRESS",
    show_envvar=True,
    help="the sidecar: HOST:PORT, tls://HOST:PORT or unix:PATH  [default: where a sidecar of this"
    " environment listens: EMBERCACHE_SERVER_SOCKET, EMBERCACHE_SERVER_ADDRESS, else"
    f" {_DEFAULT_ADDRESS}]",
)
@click.option("--service", default="", help="one gRPC service  [default: the whole sidecar]")
@click.option(
    "--timeout", type=DurationType(), default="1s", show_default=True, help="longest wait"
)
def health(address: str | None, service: str, timeout: float) -> None:
    """Ask a sidecar whether it serves: the exit status is 0 if it does, else 1, with the reason.

    It is a probe for containers: while the sidecar loads its models it does not answer, and from
    SIGTERM on it says that it does not serve. A settings file is not read.

    \b
    Examples:
      embercache health
      embercache health --address unix:/run/embercache/embercache.sock
      embercache health --service embercache.v1.EmbedService --timeout 500ms
    """
    address = address or _own_address()
    status = _status(address, service, timeout)
    if status != "SERVING":
        raise click.ClickException(f"{address} says {status}")
    click.echo("SERVING")


def _own_address() -> str:
    """Where a sidecar that is started with this environment listens."""
    if socket := os.environ.get("EMBERCACHE_SERVER_SOCKET"):
        try:
            return f"unix:{os.path.abspath(check_socket_path(socket))}"
        except ValueError as error:
            name = "server.socket (EMBERCACHE_SERVER_SOCKET)"
            raise click.ClickException(f"{name}: {error}") from None
    scheme = "tls://" if os.environ.get("EMBERCACHE_TLS_CERT_FILE") else ""
    return scheme + (os.environ.get("EMBERCACHE_SERVER_ADDRESS") or _DEFAULT_ADDRESS)


def _status(address: str, service: str, timeout: float) -> str:
    """What the health service says. An error ends the command with one line."""
    with _channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        try:
            answer = check(HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            raise click.ClickException(_reason(error, address, service, timeout)) from None
    return HealthCheckResponse.ServingStatus.Name(answer.status)


def _channel(address: str) -> grpc.Channel:
    """A channel as clients make it, from the same variables."""
    # A sidecar is next door: http_proxy in the environment is not meant for it.
    options = [("grpc.enable_http_proxy", 0)]
    target = address.removeprefix("tls://")
    if target == address:
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(
        *(_contents(f"EMBERCACHE_{name}_FILE") for name in ("CA", "KEY", "CERT"))
    )
    return grpc.secure_channel(target, credentials, options)


def _contents(variable: str) -> bytes | None:
    file = os.environ.get(variable)
    try:
        return Path(file).read_bytes() if file else None
    except OSError as error:
        raise click.ClickException(f"{variable}: {file}: {error.strerror}") from None


def _reason(error: grpc.RpcError, address: str, service: str, timeout: float) -> str:
    match error.code():
        case grpc.StatusCode.NOT_FOUND:
            return f"{address} has no service {service}"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"no answer from {address} within {timeout:g} s"
        case code:
            details = " ".join((error.details() or "").split())
            return f"no answer from {address}: {code.name}: {details}"
