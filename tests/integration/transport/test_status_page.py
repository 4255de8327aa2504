"""The page for administrators: who gets it, and what keeps other pages from it."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog
from prometheus_client import CollectorRegistry

from sidecar import open_status
from sidecar.app import App
from sidecar.config import Settings
from sidecar.services.cache_admin import CacheAdmin
from sidecar.transport.status import StatusListener
from sidecar.transport.status_page import StatusPage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

FILES = {
    "/status/": "text/html",
    "/status/page.css": "text/css",
    "/status/page.js": "text/javascript",
}
PATHS = [*FILES, "/status/data", "/", "/status"]


@pytest.fixture
def page() -> StatusPage:
    return StatusPage()


@pytest.fixture(params=["127.0.0.1:0", "[::]:0"])
async def http(
    page: StatusPage, request: pytest.FixtureRequest
) -> AsyncIterator[aiohttp.ClientSession]:
    """Calls a listener with the page, that only this machine reaches and that all reach."""
    listener = StatusListener(request.param, CollectorRegistry(), page=page)
    await listener.start()
    port = listener.address.rpartition(":")[2]
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session
    await listener.close()


@pytest.mark.parametrize("path", PATHS)
async def test_there_is_no_page_unless_it_is_asked_for(path: str) -> None:
    listener = StatusListener("127.0.0.1:0", CollectorRegistry())
    await listener.start()
    async with (
        aiohttp.ClientSession(f"http://{listener.address}") as http,
        http.get(path) as answer,
    ):
        assert answer.status == 404
    await listener.close()


@pytest.mark.parametrize("path", ["/", "/status"])
async def test_short_paths_lead_to_the_page(path: str, http: aiohttp.ClientSession) -> None:
    async with http.get(path) as response:
        assert response.url.path == "/status/"
        assert "<h1>" in await response.text()


@pytest.mark.parametrize("path", FILES)
async def test_a_file_comes_with_its_type_and_forbids_all_that_the_page_does_without(
    path: str, http: aiohttp.ClientSession
) -> None:
    async with http.get(path) as response:
        assert response.content_type == FILES[path]
        policy = dict(
            part.strip().split(" ", 1)
            for part in response.headers["Content-Security-Policy"].split(";")
        )
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in response.headers
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"


async def test_the_page_names_nothing_outside_itself(http: aiohttp.ClientSession) -> None:
    for path in FILES:
        async with http.get(path) as response:
            text = (await response.text()).replace("http://www.w3.org/2000/svg", "")
        assert not re.findall(r"https?://|//\w+\.\w+|@import|url\(", text)


@pytest.mark.threat("A page in a browser reads the status page")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "rebound.example:50552"},
        {"Origin": "http://x.example"},
    ],
)
async def test_pages_of_other_sites_are_refused_whoever_reaches_the_listener(
    path: str, headers: dict[str, str], http: aiohttp.ClientSession
) -> None:
    async with http.get(path, headers=headers, allow_redirects=False) as response:
        assert response.status == 403


@pytest.mark.threat("A page in a browser reads the status page")
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_figures_are_not_gathered_for_an_image_in_a_page_of_another_site(
    site: str, http: aiohttp.ClientSession
) -> None:
    async with http.get("/status/data", headers={"Sec-Fetch-Site": site}) as response:
        assert response.status == 403
    for own in ("same-origin", "none"):
        async with http.get("/status/data", headers={"Sec-Fetch-Site": own}) as response:
            assert response.status == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed(path: str, method: str, http: aiohttp.ClientSession) -> None:
    async with http.request(method, path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_it_says_that_the_sidecar_starts_until_there_is_more_to_say(
    page: StatusPage, http: aiohttp.ClientSession
) -> None:
    async with http.get("/status/data") as response:
        assert await response.json() == {"state": "starting"}
        assert response.headers["Cache-Control"] == "no-store"

    async def data(after: int) -> Mapping[str, Any]:
        return {"state": "serving", "after": after}

    page.data = data
    async with http.get("/status/data?after=7") as response:
        assert await response.json() == {"state": "serving", "after": 7}


async def test_answers_are_written_beside_the_event_loop(
    page: StatusPage, http: aiohttp.ClientSession
) -> None:
    threads: list[int] = []

    class Noted(dict[str, int]):
        def items(self) -> Any:
            threads.append(threading.get_ident())
            return super().items()

    async def data(_after: int) -> Mapping[str, Any]:
        return Noted(a=1)

    page.data = data
    async with http.get("/status/data") as response:
        assert await response.json() == {"a": 1}
    assert threading.get_ident() not in threads
    assert threads


async def test_figures_are_gathered_once_for_all_who_look(monkeypatch: pytest.MonkeyPatch) -> None:
    real, gathered = CacheAdmin.collect, []

    def collect(self: CacheAdmin, *, by_use: bool = True) -> Any:
        gathered.append(by_use)
        return real(self, by_use=by_use)

    monkeypatch.setattr(CacheAdmin, "collect", collect)
    monkeypatch.setattr(open_status, "FRESH_SECONDS", 3600.0)
    server = {"address": "127.0.0.1:0", "metrics_address": "127.0.0.1:0", "drain_delay": 0}
    with structlog.testing.capture_logs() as logs:
        async with (
            App(Settings.model_validate({"server": server | {"status_page": True}})),
            aiohttp.ClientSession() as http,
        ):
            (url,) = (log["status_page"] for log in logs if log["event"] == "serving")
            for after in (0, 7, 0):
                async with http.get(f"{url}data?after={after}") as response:
                    assert (await response.json())["stats"]["uptime_seconds"] > 0
    assert gathered.count(True) == 1


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "%C2%B2", "9" * 16])
async def test_what_is_no_step_is_refused(after: str, http: aiohttp.ClientSession) -> None:
    async with http.get(f"/status/data?after={after}") as response:
        assert response.status == 400
        assert "after: write" in await response.text()
