"""What the caller of a gRPC call shows of himself: see `sidecar.transport.admission.Shown`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.transport.handlers import Context


class GrpcCall:
    """A call on a connection of the caller's: see `sidecar.transport.admission.Shown`."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def authorization(self) -> list[str]:
        """See `Shown.authorization`."""
        metadata = self._context.invocation_metadata() or ()
        return [str(value) for key, value in metadata if key == "authorization"]

    def certificate_names(self) -> list[str]:
        """See `Shown.certificate_names`."""
        found = self._context.auth_context()
        names = [*found.get("peer_uri", ()), *found.get("peer_dns", ())]
        names = names or [*found.get("x509_common_name", ())]
        return [name.decode(errors="replace") for name in names]

    def is_on_socket(self) -> bool:
        """See `Shown.is_on_socket`."""
        return self._context.peer().startswith("unix:")


class FrontCall:
    """A call that the front door handed over, which tells in metadata what the caller shows."""

    __slots__ = ("_metadata",)

    def __init__(self, context: Context) -> None:
        self._metadata = context.invocation_metadata() or ()

    def authorization(self) -> list[str]:
        """See `Shown.authorization`."""
        return [str(value) for value in self._values("authorization")]

    def certificate_names(self) -> list[str]:
        """See `Shown.certificate_names`."""
        return [
            name.decode(errors="replace")
            for value in self._values("embercache-certificate-bin")
            if isinstance(value, bytes)
            for name in value.split(b"\0")
        ]

    def is_on_socket(self) -> bool:
        """See `Shown.is_on_socket`."""
        return self._values("embercache-peer") == ["unix"]

    def _values(self, name: str) -> list[str | bytes]:
        return [value for key, value in self._metadata if key == name]
