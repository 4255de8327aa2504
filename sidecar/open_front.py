"""Opens the native front door, where there is one."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import structlog

from sidecar import __version__
from sidecar.access.caller import Right
from sidecar.models.errors import SetupError
from sidecar.open_tiers import keep_running
from sidecar.telemetry.front_counts import FrontCounts
from sidecar.telemetry.metrics import BUCKETS
from sidecar.transport.front_door import METHODS, FrontDoor
from sidecar.transport.private_socket import PrivateSocket
from sidecar.transport.server import GrpcServer

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterable, Sequence

    import grpc
    from embercache_native import Front
    from prometheus_client import CollectorRegistry

    from sidecar.access.caller import Caller
    from sidecar.access.live import Access
    from sidecar.access.table import CallerTable
    from sidecar.cache.follower import InvalidationFollower
    from sidecar.cache.hot import HotTier
    from sidecar.config import ServerSettings, Settings
    from sidecar.services.stored import StoredResponses
    from sidecar.telemetry.metrics import CallMetrics
    from sidecar.transport.certificate import ServerCertificate


# Of the staleness that is allowed; the rest of it is for the time since Redis was asked last.
_TRUSTED_SHARE = 0.4
_TOLD = "what listens for gRPC"

_log = structlog.get_logger()


class _NotNativeError(Exception):
    """The front door cannot be used here. The message says why, and what to do.

    ``is_odd`` if it is there to be used.
    """

    def __init__(self, message: str, *, is_odd: bool = False) -> None:
        super().__init__(message)
        self.is_odd = is_odd


@dataclass(frozen=True, slots=True)
class Native:
    """The front door, the hot tier that it answers from, and the way to what is behind it."""

    hot: HotTier[Any]
    front: Front
    private: PrivateSocket
    trusted: float
    """For how many seconds it answers while the event loop hangs."""


def open_native(
    settings: Settings,
    certificate: ServerCertificate | None,
    exits: contextlib.AsyncExitStack,
    *,
    is_traced: bool,
) -> Native | None:
    """The front door, not open yet; None where gRPC's own server is to listen.

    The log says which, and why. Raises `SetupError` if it is set and cannot be used.
    """
    chosen = settings.server.transport
    if chosen == "grpcio":
        _log.info(_TOLD, transport="grpcio", reason="it is set")
        return None
    try:
        native = _open(settings, certificate, exits, is_traced=is_traced)
    except _NotNativeError as error:
        if chosen == "native":
            raise SetupError(f"server.transport is native: {error}") from None
        log = _log.warning if error.is_odd else _log.info
        log(_TOLD, transport="grpcio", reason=str(error))
        return None
    reason = "it is set" if chosen == "native" else "it is installed"
    _log.info(_TOLD, transport="native", reason=reason)
    return native


def with_transport(settings: Settings, native: Native | None) -> Settings:
    """The settings, with the transport that ``auto`` has become."""
    transport = "grpcio" if native is None else "native"
    server = settings.server.model_copy(update={"transport": transport})
    return settings.model_copy(update={"server": server})


def keep_callers(front: Front, access: Access) -> None:
    """Has a front door know the callers of the policy in force."""

    def tell(table: CallerTable) -> None:
        if access.tells_callers_apart:
            on_socket = table.on_socket
            front.set_callers(
                {key: who.scope for key, who in table.tokens.items() if _reads(who)},
                # All names: of those in a certificate, the first that is known counts.
                {
                    name: who.scope if _reads(who) else b""
                    for name, who in table.certificates.items()
                },
                on_socket.scope if on_socket is not None and _reads(on_socket) else None,
            )

    access.subscribe_to_callers(tell)


def count_front(
    native: Native | None,
    metrics: CallMetrics,
    responses: Sequence[StoredResponses],
    follower: InvalidationFollower | None,
    registry: CollectorRegistry,
    exits: contextlib.AsyncExitStack,
) -> Callable[[], None]:
    """Counts what a front door answers, once in a while and whenever what is returned is called."""
    if native is None:
        return _nothing
    believed_for = _for_ever if follower is None else follower.believed_for
    counts = FrontCounts(native.front, METHODS, metrics, responses, native.trusted, believed_for)
    registry.register(counts)
    keep_running(counts.run(), exits)
    return counts.settle


def grpc_server(
    settings: ServerSettings,
    handlers: Iterable[grpc.GenericRpcHandler],
    certificate: ServerCertificate | None,
    native: Native | None,
    settle: Callable[[], None],
) -> GrpcServer | FrontDoor:
    """What listens for gRPC: the front door, if there is one."""
    if native is None:
        return GrpcServer(settings, handlers, certificate)
    return FrontDoor(
        settings,
        handlers,
        native.front,
        native.private,
        is_encrypted=certificate is not None,
        drained=settle,
    )


def _open(
    settings: Settings,
    certificate: ServerCertificate | None,
    exits: contextlib.AsyncExitStack,
    *,
    is_traced: bool,
) -> Native:
    try:
        import embercache_native
    except ImportError as error:
        raise _NotNativeError(
            f"embercache-native cannot be imported ({error}): install it, or set server.transport"
            " to grpcio"
        ) from None
    found = getattr(embercache_native, "__version__", "an older one")
    if not _is_same_version(found, __version__):
        raise _NotNativeError(
            f"embercache-native is {found}, and this sidecar is {__version__}: install"
            f" embercache-native=={__version__}, or set server.transport to grpcio",
            is_odd=True,
        )
    try:
        private = PrivateSocket()
    except OSError as error:
        raise _NotNativeError(
            f"there is no folder for a socket of its own ({error.strerror}): let this user write to"
            " /tmp or to the folder that TMPDIR names, or set server.transport to grpcio",
            is_odd=True,
        ) from None
    exits.callback(private.close)
    hot: embercache_native.HotTier[Any]
    hot = embercache_native.HotTier(settings.hot.max_bytes, time.monotonic, settings.hot.policy)
    server = settings.server.model_copy(update={"transport": "native"})
    try:
        front = embercache_native.Front(
            hot,
            private.address,
            METHODS,
            secret=private.secret,
            bounds=BUCKETS,
            most_connections=server.most_connections,
            max_connection_age=server.max_connection_age,
            traced=is_traced,
        )
    except TypeError as error:
        raise _NotNativeError(
            f"embercache-native is another build of {found} ({error}): install it anew, or set"
            " server.transport to grpcio",
            is_odd=True,
        ) from None
    except OSError as error:
        raise _NotNativeError(
            f"its threads cannot be started ({error.strerror or error}): allow this user more"
            " processes and open files, or set server.transport to grpcio",
            is_odd=True,
        ) from None
    if certificate is not None:
        try:
            certificate.share(lambda pem: front.set_certificate(*pem))
        except ValueError as error:
            raise _NotNativeError(
                f"section tls: {error}: use other files, or set server.transport to grpcio",
                is_odd=True,
            ) from None
    trusted = _TRUSTED_SHARE * settings.cache.staleness
    return Native(cast("HotTier[Any]", hot), front, private, trusted)


def _is_same_version(native: str, ours: str) -> bool:
    """Cargo writes 0.2.0-rc.1 for what is 0.2.0rc1 in Python."""
    return re.sub(r"-(a|b|rc)(?:lpha|eta)?\.(\d+)$", r"\1\2", native) == ours


def _nothing() -> None:
    """What there is to count where all calls are answered in Python."""


def _for_ever() -> float:
    """For how many seconds is believed what nobody else can change."""
    return math.inf


def _reads(who: Caller) -> bool:
    return Right.READ in who.rights
