"""Which threads give way to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sidecar.models.local import LocalEmbedder
from sidecar.models.niceness import NICENESS, call_giving_way
from sidecar.models.session import open_session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there have threads their own")


def niceness() -> dict[int, int]:
    """How nice each thread of this process is."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[int(task.name)] = int(fields[16])
    return found


@pytest.fixture
def own() -> int:
    """How nice this thread is."""
    return niceness()[threading.get_native_id()]


def test_a_call_that_gives_way_is_nicer_than_others(own: int) -> None:
    found = call_giving_way(lambda: niceness()[threading.get_native_id()])
    assert found == min(19, own + NICENESS)
    assert niceness()[threading.get_native_id()] == own


def test_a_call_that_gives_way_returns_and_raises_as_others_do(own: int) -> None:
    assert call_giving_way(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        call_giving_way(divmod, 1, 0)
    assert niceness()[threading.get_native_id()] == own


@pytest.mark.parametrize("call", ["getpriority", "setpriority"])
def test_where_it_is_not_allowed_work_goes_on(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, call, refuse)
    assert call_giving_way(max, 1, 2) == 2


def test_the_threads_of_a_session_give_way(make_pack: Any, own: int) -> None:
    before = niceness()
    session, _ = open_session(make_pack.text() / "model.onnx", "cpu", 4)
    new = [nice for thread, nice in niceness().items() if thread not in before]
    # A run has one thread more: that which asks for it.
    assert new.count(min(19, own + NICENESS)) >= 3
    del session


async def test_the_thread_that_runs_the_model_gives_way_and_no_other(
    make_pack: Any, own: int
) -> None:
    model = LocalEmbedder.load(make_pack.text(), "mine", provider="cpu")
    await asyncio.gather(*model.submit(["one"]))
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = {names[thread]: nice for thread, nice in niceness().items() if thread in names}
    assert found["encode-mine"] == min(19, own + NICENESS)
    assert (found["tokenise-mine"], found["MainThread"]) == (own, own)
    await model.close()
