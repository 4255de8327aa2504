"""How many connections callers may take of the descriptors that there are."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from sidecar import descriptors


@pytest.mark.parametrize("limit", [4, 64, 256, 1024, 65536, 10**9])
@pytest.mark.parametrize("listeners", [1, 2, 3])
def test_callers_never_get_all_of_them(
    limit: int, listeners: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    most = descriptors.most_connections(listeners)
    assert most >= 1
    if limit >= 64:
        assert most * listeners <= max(limit - 192, limit // 4)


def test_without_a_limit_there_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda _: (endless, endless))
    assert descriptors.most_connections(1) == 100_000


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((256, resource.RLIM_INFINITY), [(100_192, resource.RLIM_INFINITY)]),
        ((1024, 10**9), [(100_192, 10**9)]),
        ((1024, 4096), [(4096, 4096)]),
        ((10**6, 10**9), []),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), []),
    ],
)
def test_the_limit_is_raised_to_what_can_be_used_and_never_lowered(
    limits: tuple[int, int],
    raised: list[tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, to: asked.append(to))
    descriptors.raise_limit()
    assert asked == raised


def test_a_system_that_refuses_to_raise_the_limit_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_what: int, _limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    descriptors.raise_limit()


SCRIPT = """
import os, resource
from sidecar.descriptors import is_one_left, raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 64))
raise_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 64)
taken = []
while is_one_left():
    taken.append(os.open("/dev/null", os.O_RDONLY))
assert len(taken) > 32
os.close(taken.pop())
assert is_one_left()
"""


def test_the_limit_is_raised_and_it_is_told_when_none_is_left() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)
