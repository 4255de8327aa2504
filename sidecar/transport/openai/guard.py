"""Keeps the pages of browsers out.

A browser on this machine reaches loopback addresses, so that any page that is open in it could
call the sidecar in its user's place. Browsers name the page's origin in every request that one site
makes of another and in every POST; a page that had its own host name resolve to this address
(DNS rebinding) gives itself away by that name in Host; and a form, which needs no leave to be
posted elsewhere, cannot be of the type application/json. No API client does any of this.

A listener that other machines reach is called by names that are not known here, those of a service
in a cluster for one. It takes every name: who may call it is for the network to say.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.loopback import is_loopback
from sidecar.transport.openai.errors import ApiError

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

_HOST = re.compile(r"(\[[^\]]+\]|[^:]+)(?::\d*)?")


def guard(listen_host: str) -> Middleware:
    """A middleware that refuses what no API client sends. Raises `ApiError`."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        refuse_pages(request, listen_host)
        if request.method == "POST":
            _check_content(request)
        return await handler(request)

    return check


def refuse_pages(request: web.BaseRequest, listen_host: str) -> None:
    """Raises `ApiError` if a page of a browser made the request, or might have."""
    if "Origin" in request.headers:
        raise ApiError(403, "requests of web pages are refused: call from a program", code="origin")
    if is_loopback(listen_host) and not _is_address(request.headers.get("Host", "")):
        raise ApiError(
            403,
            "the host name of the URL is not this sidecar's: call it by IP address, or as"
            " localhost",
            code="host",
        )


def _check_content(request: web.Request) -> None:
    if request.content_type != "application/json":
        raise ApiError(415, "send JSON, and Content-Type: application/json")
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise ApiError(415, "compressed requests are not taken: send the JSON as it is")


def _is_address(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1].lower()
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
