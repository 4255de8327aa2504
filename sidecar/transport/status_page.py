"""The page for administrators on the listener of metrics: its files, and what it shows as JSON.

It is read with GET alone, and nothing can be changed by it. No other site's page can read it: there
is no header that would allow that, and one that had its own name resolve to this address (DNS
rebinding) gives itself away by that name. So the page is called by IP address or as localhost, also
where other machines reach the listener: `kubectl port-forward` does. Nor can a page elsewhere have
figures gathered in vain, with an image of their address: browsers say whose page asks.
"""

from __future__ import annotations

import asyncio
import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aiohttp import web

from sidecar.transport.openai.errors import ApiError
from sidecar.transport.openai.guard import refuse_pages

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Handler

_LOOPBACK = "127.0.0.1"
# Who asks, as browsers say it: the page, or the user himself. Another port is another origin.
_OWN_SITES = ("same-origin", "none")
_FILES = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class StatusPage:
    """``/status/`` and the files that it needs; ``/`` and ``/status`` lead there.

    ``data`` gives what ``/status/data`` answers, given the number of the last step of the history
    that the page has, 0 for none.
    """

    def __init__(self) -> None:
        self.data: Callable[[int], Awaitable[Mapping[str, Any]]] = _starting
        folder = files("sidecar.transport") / "page"
        self._bodies = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }

    def add_to(
        self, router: web.UrlDispatcher, refuse_strangers: Callable[[web.Request], None]
    ) -> None:
        """Adds the paths; whom ``refuse_strangers`` raises for gets no answer from any."""

        def guarded(handler: Handler) -> Handler:
            async def handle(request: web.Request) -> web.StreamResponse:
                refuse_strangers(request)
                refuse_pages(request, _LOOPBACK)
                return await handler(request)

            return handle

        router.add_get("/", guarded(_lead_to_page))
        router.add_get("/status", guarded(_lead_to_page))
        router.add_get("/status/data", guarded(self._answer))
        for path in _FILES:
            router.add_get(f"/status/{path}", guarded(self._file))

    async def _file(self, request: web.Request) -> web.Response:
        body, kind = self._bodies[request.path.removeprefix("/status/")]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    async def _answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES:
            raise ApiError(403, "only the status page itself may ask for this", code="origin")
        after = request.query.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) < 16):
            return web.Response(text="after: write the number of a step\n", status=400)
        data = await self.data(int(after))
        # A quarter of an hour takes long enough that calls would wait for it.
        text = await asyncio.to_thread(_dump, data)
        return web.Response(text=text, content_type="application/json", headers=_HEADERS)


def _dump(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


async def _lead_to_page(_request: web.Request) -> web.StreamResponse:
    # By a relative path, for those who forward the port under another one.
    raise web.HTTPFound("status/", headers=_HEADERS)


async def _starting(_after: int) -> Mapping[str, Any]:
    """What there is to show before models and tiers are open."""
    return {"state": "starting"}
