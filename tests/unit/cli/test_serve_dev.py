"""What `embercache serve --dev` sets, and what it leaves as it is set."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sidecar.cli.serve import for_trying_out
from sidecar.config_sources import load_settings

REDIS: Any = SimpleNamespace(url="redis://127.0.0.1:1")


def test_the_page_is_shown_on_some_port_with_popular_queries_of_its_own() -> None:
    settings = for_trying_out(load_settings(None, {}, {}), REDIS)
    assert settings.server.status_page
    assert settings.server.metrics_address == "127.0.0.1:0"
    assert settings.popular.queries == 1000
    assert settings.redis.url.get_secret_value() == REDIS.url


@pytest.mark.parametrize("source", ["environment", "flags"])
def test_what_is_set_stays_so_even_if_that_is_the_default(source: str) -> None:
    given = {
        "environment": {
            "EMBERCACHE_SERVER_STATUS_PAGE": "false",
            "EMBERCACHE_SERVER_METRICS_ADDRESS": "127.0.0.1:7000",
            "EMBERCACHE_POPULAR_QUERIES": "0",
        },
        "flags": {
            "server.status_page": "false",
            "server.metrics_address": "127.0.0.1:7000",
            "popular.queries": "0",
        },
    }
    environment, flags = (given[name] if name == source else {} for name in given)
    settings = for_trying_out(load_settings(None, environment, flags), REDIS)
    assert not settings.server.status_page
    assert settings.server.metrics_address == "127.0.0.1:7000"
    assert settings.popular.queries == 0
