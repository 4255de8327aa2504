"""A real browser, and a sidecar of its own to look at."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from embercache import Client

from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HANG_GUARD = 60.0
PASSWORD = "secret-of-redis"  # noqa: S105
MARKER = "marker-of-a-user"
NAMESPACE = "namespace-of-users"
# Pictures of the last run, to be looked at.
PICTURES = Path(__file__).parents[3] / "build/status-page"
SIZES = {"desktop": (1280, 860), "phone": (390, 844)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Watched:
    """A sidecar with a Redis of its own, and calls that its figures come from."""

    def __init__(self, pack: Path) -> None:
        self.redis = DevRedis(port=_free_port(), arguments=["--requirepass", PASSWORD])
        self.redis.start()
        self.address = f"127.0.0.1:{_free_port()}"
        metrics = f"127.0.0.1:{_free_port()}"
        self.url = f"http://{metrics}/"
        flags = [f"--server-address={self.address}", f"--server-metrics-address={metrics}"]
        flags += ["--server-status-page=true", "--server-drain-delay=0", "--popular-queries=100"]
        flags += [f"--model-packs={pack}", "--model-provider=cpu", "--log-level=error"]
        flags += ["--prices-per-1000-tokens=0.1"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
        secret = {"EMBERCACHE_REDIS_URL": f"redis://:{PASSWORD}@127.0.0.1:{self.redis.port}"}
        secret["EMBERCACHE_INDEX_URL"] = "memory://"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "serve", *flags], env=clean | secret
        )
        give_up = time.monotonic() + HANG_GUARD
        while not self._is_ready():
            assert self.process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}readyz", timeout=HANG_GUARD) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def call(self, first: int = 0) -> None:
        """Asks for texts from that number on, with the marker in each: 20 that are new, 180 again.

        One is so popular that it is noted.
        """
        with Client(self.address) as client:
            for number in [*range(first, first + 20), *[first] * 180]:
                client.embed([f"{MARKER} {number}"], namespace=NAMESPACE, tags=[MARKER])
            client.invalidate(tags=[MARKER])

    def close(self) -> None:
        """Ends it all."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(HANG_GUARD)
        self.redis.__exit__(None, None, None)


@pytest.fixture(scope="module")
def watched(tiny_pack: Path) -> Iterator[Watched]:
    """A sidecar that has answered some calls. What breaks it is tested last."""
    running = Watched(tiny_pack)
    running.call()
    yield running
    running.close()


def _do_without(reason: str) -> NoReturn:
    """Skips what needs a browser; in CI there has to be one."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


# Not of the whole session: while it is open, no other event loop runs in this thread.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        _do_without("there is no browser: install Debian's package chromium, or Google Chrome")
    try:
        from playwright import sync_api as playwright
    except ModuleNotFoundError:
        _do_without("playwright is not installed: run make setup")
    with playwright.sync_playwright() as tool:
        # Root, as in a container, has no sandbox.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = tool.chromium.launch(executable_path=found, args=arguments)
        yield running
        running.close()


class Opened:
    """The page in a browser: what it asked for, and what the browser had to say."""

    def __init__(self, browser: Any, url: str, size: str, scheme: str) -> None:
        width, height = SIZES[size]
        self._context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            reduced_motion="reduce",
            has_touch=size == "phone",
        )
        self._context.set_default_timeout(HANG_GUARD * 1000)
        self.page = self._context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def text(self, selector: str) -> str:
        """What an element shows."""
        shown: str = self.page.locator(selector).inner_text()
        return shown

    def wait_for(self, script: str) -> None:
        """Waits until a script says yes. Playwright's own way is against the page's policy."""
        give_up = time.monotonic() + HANG_GUARD
        while not self.page.evaluate(script):
            assert time.monotonic() < give_up, script
            self.page.wait_for_timeout(50)

    def wait_for_updates(self, count: int) -> None:
        """Waits until the page was written anew so many times."""
        for _ in range(count):
            before = self.text("#updated")
            self.wait_for(f"document.querySelector('#updated').textContent !== '{before}'")

    def wait_for_requests(self, seen: list[Any], count: int) -> None:
        """Waits until a route has seen so many."""
        give_up = time.monotonic() + HANG_GUARD
        while len(seen) < count:
            assert time.monotonic() < give_up
            self.page.wait_for_timeout(50)

    def picture(self, name: str) -> None:
        """Takes a picture of all of it."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", full_page=True)

    def close(self) -> None:
        """Closes it."""
        self._context.close()


@pytest.fixture
def open_page(browser: Any, watched: Watched) -> Iterator[Callable[..., Opened]]:
    """Opens the page of the sidecar, and waits until it shows what was called."""
    pages: list[Opened] = []

    def open_one(size: str = "desktop", scheme: str = "light") -> Opened:
        pages.append(Opened(browser, watched.url, size, scheme))
        pages[-1].wait_for("document.querySelector('#usage tbody th')?.textContent === 'embed'")
        return pages[-1]

    yield open_one
    for page in pages:
        page.close()
