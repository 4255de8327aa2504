"""What the status page shows of the settings in force, and how often it gathers figures."""

from __future__ import annotations

import itertools

import pytest

from sidecar.config import Settings
from sidecar.config_sources import all_settings
from sidecar.open_status import shared, shown_settings

SECRET = "secret-of-an-operator"  # noqa: S105


def shown(**sections: dict[str, object]) -> dict[str, tuple[str, bool]]:
    rows = shown_settings(Settings.model_validate(sections))
    return {row["name"]: (row["value"], row["default"]) for row in rows}


def test_every_setting_is_there_and_those_that_were_set_are_told_apart() -> None:
    rows = shown(hot={"max_bytes": "64MiB"})
    assert list(rows) == [setting.path for setting in all_settings()]
    assert rows.pop("hot.max_bytes") == ("67108864", False)
    assert all(is_default for _, is_default in rows.values())


def test_of_secrets_only_whether_they_are_set() -> None:
    rows = shown(
        redis={"url": f"redis://:{SECRET}@127.0.0.1:1"},
        index={"url": f"postgresql://me:{SECRET}@127.0.0.1/documents"},
        cache={"salt": SECRET},
    )
    for name in ("redis.url", "index.url", "cache.salt"):
        assert rows[name] == ("set", False)
    assert shown()["redis.url"] == ("not set", True)
    assert SECRET not in str(rows)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (f"dns://me:{SECRET}@host:1", "dns://...@host:1"),
        (f"dns://me:{SECRET}@{SECRET}@host:1", "dns://...@host:1"),
        (f"dns://me:{SECRET},{SECRET}@host:1", "dns://...@host:1"),
        (f"dns://me:a/{SECRET}?{SECRET}@host:1", "dns://...@host:1"),
        (f"dns://host:1/?key={SECRET}", "dns://host:1/?..."),
        (f"dns://me:{SECRET}@host:1?key={SECRET}", "dns://...@host:1?..."),
        (f"dns://host:1?key={SECRET}@", "dns://...@"),
        ("host:1", "host:1"),
    ],
)
def test_who_is_named_in_an_address_and_what_is_asked_there_is_not_shown(
    address: str, text: str
) -> None:
    rows = shown(semantic={"verifier": address})
    assert rows["semantic.verifier"] == (text, False)


def test_all_who_look_within_a_while_share_what_was_gathered() -> None:
    now = [0.0]
    current = shared(itertools.count(1).__next__, 1.0, lambda: now[0])
    assert [current(), current()] == [1, 1]
    now[0] = 0.99
    assert current() == 1
    now[0] = 1.0
    assert [current(), current()] == [2, 2]
