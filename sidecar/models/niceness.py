"""Has the threads that run models give way to the event loop, which answers what is cached."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

# Measured with bench/overload.py on two CPUs. Without it, hits beside a busy model had a twentieth
# of their throughput; with 5 half of it, with 10 two thirds, with 19 nine tenths, and then misses
# get next to nothing while hits take all they can.
NICENESS = 15


def give_way() -> None:
    """Makes this thread, and those that it will start, nicer than the others of this process.

    Only for threads of ONNX Runtime and those that call it, whose own part of a run is a large one.
    Where other processes want the CPU, a nice thread is put off while it holds the interpreter's
    lock, and the event loop waits for that: threads that mostly run Python stay as they are.
    On Linux, where each thread has a niceness of its own; elsewhere it does nothing.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):  # a sandbox may not allow it
        nicer = os.getpriority(os.PRIO_PROCESS, thread) + NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, nicer)


def call_giving_way(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function on a thread that gives way, as do the threads that it starts, which go on.

    A thread of its own, because none may take back that it gives way.
    """
    with ThreadPoolExecutor(1, "give-way", initializer=give_way) as thread:
        return thread.submit(function, *args, **kwargs).result()
