"""Calls of the front for callers whom the policy names: see `sidecar.transport.openai.counted`.

As in `sidecar.transport.guarded_handlers`, what is refused is counted but begins no span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.access.caller import Right
from sidecar.services.errors import CallError
from sidecar.transport.admission import admit
from sidecar.transport.openai.counted import CountedCalls
from sidecar.transport.openai.errors import as_api_error

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler

    from sidecar.access.live import Access
    from sidecar.transport.openai.methods import Methods


class GuardedCalls(CountedCalls):
    """Puts the policy before the handlers that ``inner`` makes."""

    def __init__(self, inner: CountedCalls, access: Access) -> None:
        super().__init__(inner.metrics)
        self._inner = inner
        self._access = access

    def methods(self, methods: Methods) -> Methods:
        """See `CountedCalls.methods`."""
        return self._inner.methods(methods)

    def of(self, name: str, route: str, handle: Handler) -> Handler:
        """See `CountedCalls.of`."""
        access, metrics = self._access, self.metrics
        answer = self._inner.of(name, route, handle)

        async def guarded(request: web.Request) -> web.StreamResponse:
            try:
                admit(access, _HttpCall(request), Right.READ, route)
            except CallError as error:
                failure = as_api_error(error)
                metrics.failed(name, failure.reason)
                return failure.response()
            return await answer(request)

        return guarded


class _HttpCall:
    """A call: see `sidecar.transport.admission.Shown`."""

    __slots__ = ("_request",)

    def __init__(self, request: web.Request) -> None:
        self._request = request

    def authorization(self) -> list[str]:
        return self._request.headers.getall("Authorization", [])

    def certificate_names(self) -> list[str]:
        transport = self._request.transport
        # Without TLS, or without a certificate, there is none; one that is there was checked.
        certificate = (transport and transport.get_extra_info("peercert")) or {}
        alternatives = certificate.get("subjectAltName", ())
        names = [name for wanted in ("URI", "DNS") for kind, name in alternatives if kind == wanted]
        subject = certificate.get("subject", ())
        return names or [
            value for parts in subject for kind, value in parts if kind == "commonName"
        ]

    def is_on_socket(self) -> bool:
        return False
