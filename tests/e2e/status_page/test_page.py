"""The status page as people see it, in a real browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Open = Callable[..., Any]

PASSWORD = "secret-of-redis"  # noqa: S105
MARKER = "marker-of-a-user"
NAMESPACE = "namespace-of-users"
LOOKS = [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
SHIFTS = """
window.shifted = 0;
new PerformanceObserver(list => list.getEntries().forEach(e => { shifted += e.value; }))
    .observe({type: "layout-shift", buffered: false});
"""
# Of the window, times how far: a hundredth of what is still called good for a whole visit.
MOST_SHIFTED = 0.001


@pytest.mark.threat("The status page shows texts or secrets")
def test_it_shows_what_was_called_and_no_text_nor_secret(open_page: Open, watched: Any) -> None:
    opened = open_page()
    assert opened.text("#verdict") == "Healthy"
    row = opened.text("#usage tbody tr").split()
    assert row[:3] == ["embed", NAMESPACE, "tiny"]
    assert row[3:7] == ["90.0", "%", "180", "20"]
    assert "up" in opened.text("#redis-title")
    assert float(opened.text("#tile-money")) > 0
    opened.wait_for("document.querySelectorAll('#hottest tbody td').length > 1")
    kind, digest, *more = opened.text("#hottest tbody tr >> nth=0").split()
    assert (kind, len(digest), more[0]) == ("embed", 16, NAMESPACE)
    opened.page.locator("#changed").uncheck()
    opened.page.locator("#filter").fill("redis.url")
    assert opened.text("#settings tbody tr >> nth=0").split()[:2] == ["redis.url", "set"]
    opened.page.locator("#filter").fill("")
    for secret in (MARKER, PASSWORD):
        assert secret not in opened.page.content()
    assert opened.said == []
    assert all(url.startswith(watched.url) for url in opened.asked)


def test_nothing_moves_while_it_is_brought_up_to_date(open_page: Open, watched: Any) -> None:
    opened = open_page()

    def without_findings(route: Any) -> None:
        # What is found to be wrong on a busy machine comes on top, and is meant to.
        answer = route.fetch()
        route.fulfill(response=answer, json=answer.json() | {"findings": []})

    opened.page.route("**/status/data*", without_findings)
    opened.wait_for_updates(2)
    opened.page.evaluate(SHIFTS)
    for first in (100, 200):
        watched.call(first)
        opened.wait_for_updates(1)
    assert opened.page.evaluate("shifted") < MOST_SHIFTED
    # The observer sees what does move.
    opened.page.evaluate("document.querySelector('#health').style.marginTop = '99px'")
    opened.wait_for(f"shifted > {MOST_SHIFTED}")


def test_it_asks_once_at_a_time_however_often_it_is_paused(open_page: Open) -> None:
    opened = open_page()
    held: list[Any] = []
    opened.page.route("**/status/data*", lambda route: held.append(route))
    opened.wait_for_requests(held, 1)
    for _ in range(4):
        opened.page.locator("#pause").click()
    # Requests come in their order.
    assert opened.page.evaluate("fetch('page.css').then(answer => answer.status)") == 200
    assert len(held) == 1
    held[0].continue_()
    opened.wait_for_requests(held, 2)


def test_a_sidecar_that_was_started_anew_is_shown_from_its_beginning(open_page: Open) -> None:
    opened = open_page()
    opened.wait_for_updates(2)
    since: list[int] = []

    def from_another(route: Any) -> None:
        since.append(int(route.request.url.rpartition("=")[2]))
        answer = route.fetch()
        # It may have run longer than the one that was looked at last.
        route.fulfill(response=answer, json=answer.json() | {"process": "another"})

    opened.page.route("**/status/data*", from_another)
    opened.wait_for_requests(since, 3)
    opened.page.unroute("**/status/data*")
    assert since[0] > 0
    assert since[1] == 0
    assert since[2] >= since[0]


def test_all_of_it_can_be_used_with_the_keyboard(open_page: Open) -> None:
    opened = open_page()
    opened.wait_for_updates(1)
    keyboard = opened.page.keyboard
    opened.page.locator("#chart-share .plot").focus()
    keyboard.press("Home")
    assert opened.text("#chart-share .readout") == "not measured"
    keyboard.press("End")
    assert re.match(r"\d\d:\d\d:\d\d · ", opened.text("#chart-share .readout"))
    label = opened.page.locator("#chart-share .plot").get_attribute("aria-label")
    assert "Hit rate now" in label
    opened.page.locator("#pause").focus()
    keyboard.press("Enter")
    assert opened.text("#pause") == "Go on"
    assert opened.text("#updated").startswith("paused")
    opened.page.locator("#filter").focus()
    keyboard.type("no such setting")
    assert "None" in opened.text("#settings tbody")


def test_a_redis_that_is_gone_is_told_first_and_every_look_can_be_used_by_everybody(
    open_page: Open, watched: Any
) -> None:
    # Here: it needs what the fixture has looked for.
    from axe_playwright_python.sync_playwright import Axe

    opened = {look: open_page(*look) for look in LOOKS}

    def check(state: str) -> None:
        for look, each in opened.items():
            each.wait_for(f"document.querySelector('#health').dataset.level === '{state}'")
            each.picture("-".join((*look, state)))
            assert Axe().run(each.page).response["violations"] == []
            wider = each.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wider <= 0
            assert each.page.evaluate("document.getAnimations().length") == 0

    check("good")
    watched.redis.kill()
    check("warning")
    for each in opened.values():
        assert each.text("#verdict") == "Needs attention"
        assert each.page.title() == "▲ Needs attention - Embercache"
        each.wait_for("document.querySelector('#findings').textContent.includes('Look at Redis')")
        assert each.text("#redis-state") == "left alone"


def test_a_sidecar_that_is_gone_is_told_and_its_last_figures_stay(
    open_page: Open, watched: Any
) -> None:
    opened = open_page()
    watched.process.kill()
    opened.wait_for("document.querySelector('#verdict').textContent.startsWith('No answer')")
    assert "What is below is of" in opened.text("#verdict-more")
    assert NAMESPACE in opened.text("#usage")
