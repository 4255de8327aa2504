"""What seals refuse is counted and alarmed on; without keys they let everything through."""

from __future__ import annotations

from structlog.testing import capture_logs

from sidecar.cache.key_ring import KeyRing
from sidecar.cache.sealing import Sealer
from sidecar.cache.seals import KeyedSeal, Seals


class Keys:
    """A key that does not change."""

    ring = KeyRing("k1", {"k1": bytes(32)})


SEALER = Sealer(Keys())


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_keys_values_are_kept_as_they_are() -> None:
    seals = Seals(None)
    seal = seals.of("warm", "entries")
    assert not seals.are_on
    assert seal.seal(b"name", b"data") == b"data"
    assert seal.open(b"another", b"data") == b"data"
    assert seals.refusals() == []


def test_each_kind_of_values_has_a_domain_of_its_own() -> None:
    seals = Seals(SEALER)
    sealed = seals.of("warm", "entries").seal(b"name", b"data")
    assert seals.of("warm", "entries").open(b"name", sealed) == b"data"
    assert seals.of("warm", "prompts").open(b"name", sealed) is None


def test_what_does_not_open_is_counted_by_place_kind_and_reason() -> None:
    seals = Seals(SEALER)
    warm, disk = seals.of("warm", "entries"), seals.of("disk", "entries")
    warm.open(b"name", b"plain")
    warm.open(b"name", warm.seal(b"another", b"data"))
    disk.open(b"name", b"plain")
    counts = {(each.place, each.what): dict(each.counts) for each in seals.refusals()}
    assert counts == {
        ("warm", "entries"): {"unsealed": 1, "unknown_key": 0, "forged": 1},
        ("disk", "entries"): {"unsealed": 1, "unknown_key": 0, "forged": 0},
    }


def test_a_refusal_is_logged_at_first_and_then_once_a_minute() -> None:
    clock = Clock()
    seal = KeyedSeal(SEALER, "warm", "entries", clock)
    with capture_logs() as logs:
        for seconds in (0, 1, 58, 1, 1, 200):
            clock.now += seconds
            seal.open(b"a secret name", b"a secret value")
    assert [(log["log_level"], log["unsealed"]) for log in logs] == [
        ("warning", 1),
        ("warning", 4),
        ("warning", 6),
    ]
    assert all((log["tier"], log["what"]) == ("warm", "entries") for log in logs)
    assert "secret" not in str(logs)


def test_the_same_seal_is_shared_by_all_who_ask_for_it() -> None:
    seals = Seals(SEALER)
    assert seals.of("warm", "prompts") is seals.of("warm", "prompts")
