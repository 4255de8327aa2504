"""Settings of the listeners."""

from __future__ import annotations

import itertools
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sidecar.config_section import Section
from sidecar.descriptors import most_connections
from sidecar.loopback import is_loopback
from sidecar.socket_path import check_socket_path
from sidecar.units import Bytes, Seconds


class ServerSettings(Section):
    """Where the sidecar listens and what it accepts."""

    address: str = Field("127.0.0.1:50551", description="TCP address HOST:PORT; empty for none")
    socket: str = Field("", description="path of a Unix socket; empty for none")
    socket_mode: str = Field(
        "0660", pattern="^0?[0-7]{3}$", description="who may connect to the socket, in octal"
    )
    socket_group: str = Field("", description="group of the socket, by name or number")
    transport: Literal["auto", "native", "grpcio"] = Field(
        "auto",
        description="what listens for gRPC: native is a front door that gives answers from memory"
        " without Python, grpcio is none; auto is native where it is installed",
    )
    insecure: bool = Field(
        False, description="allow addresses that other machines can reach, without encryption"
    )
    insecure_metrics: bool = Field(
        False, description="allow that of server.metrics_address, which shows no text of users"
    )
    metrics_address: str = Field(
        "",
        description="HTTP address HOST:PORT of Prometheus metrics and of probes, which are /livez"
        " and /readyz; empty for none",
    )
    status_page: bool = Field(
        False,
        description="show a page for administrators on server.metrics_address, at /status: figures,"
        " names of namespaces and settings, to whoever may read the metrics",
    )
    openai_address: str = Field(
        "", description="HTTP address HOST:PORT of the OpenAI-compatible API; empty for none"
    )
    max_message_bytes: Bytes = Field(16 * 2**20, ge=1024, description="largest request")
    max_calls: int = Field(10_000, ge=1, description="most calls at once; more are refused")
    max_batch_items: int = Field(10_000, ge=1, description="most inputs in one request")
    max_text_bytes: Bytes = Field(2**20, ge=1, description="longest text, in UTF-8")
    max_connection_age: Seconds = Field(
        0.0,
        description="after how long a connection is ended between two calls, so that callers find"
        " new replicas; 0 for never",
    )
    drain_delay: Seconds = Field(
        0.5, description="after SIGTERM, how long calls are still taken while health says no"
    )
    drain_timeout: Seconds = Field(
        30.0, description="then, how long calls in progress may take to end"
    )

    @field_validator("address", "metrics_address", "openai_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdecimal() and int(port) < 65536):
            raise ValueError("write HOST:PORT, like 127.0.0.1:50551, or nothing")
        return value

    @field_validator("socket")
    @classmethod
    def _is_path(cls, value: str) -> str:
        return check_socket_path(value)

    @model_validator(mode="after")
    def _have_ports_of_their_own(self) -> ServerSettings:
        names = ("address", "openai_address", "metrics_address")
        for one, other in itertools.combinations(names, 2):
            if _collide(getattr(self, one), getattr(self, other)):
                raise ValueError(
                    f"server.{one} and server.{other} have the same port,"
                    f" {getattr(self, one).rpartition(':')[2]}: give each a port of its own"
                )
        return self

    @model_validator(mode="after")
    def _has_a_listener(self) -> ServerSettings:
        if not self.address and not self.socket:
            raise ValueError("set server.address, server.socket or both: there is no listener")
        return self

    @model_validator(mode="after")
    def _has_a_place_for_the_page(self) -> ServerSettings:
        if self.status_page and not self.metrics_address:
            raise ValueError(
                "server.status_page is served on server.metrics_address, which is empty: set it,"
                " to 127.0.0.1:50552 for one"
            )
        return self

    @property
    def most_connections(self) -> int:
        """The most connections of callers that each listener takes; the front door is one."""
        # Behind the front door each may have another one, with both of its ends here.
        grpc = 3 if self.transport == "native" else bool(self.address) + bool(self.socket)
        return most_connections(grpc + bool(self.openai_address))

    def refuse_open_addresses(self) -> None:
        """Raises `ValueError` for what others could reach unencrypted, unless that is allowed."""
        for name, address, allowed in (
            ("address", self.address, "insecure"),
            ("openai_address", self.openai_address, "insecure"),
            ("metrics_address", self.metrics_address, "insecure_metrics"),
        ):
            is_open = address and not is_loopback(address.rpartition(":")[0])
            if is_open and not getattr(self, allowed):
                raise ValueError(
                    f"server.{name} {address} can be reached by other machines and is not"
                    f" encrypted: set tls.cert_file, listen on 127.0.0.1, or set server.{allowed}"
                )


def _collide(one: str, other: str) -> bool:
    """Whether two addresses cannot both be listened on."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    if not host or not other_host or int(port) != int(other_port) or not int(port):
        return False
    return host == other_host or bool({host, other_host} & {"0.0.0.0", "[::]"})  # noqa: S104
