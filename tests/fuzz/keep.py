"""Chooses the inputs that are kept: small ones that together reach all that is reached."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import CORPUS, Target

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of one target. Inputs of bugs that were found have names of their own, and stay.
MAX_KEPT_BYTES = 48 * 1024
_FOUND = "found-"
_OURS = str(Path(__file__).parents[2] / "sidecar")


def keep(name: str, new: Path) -> None:
    """Renews the corpus of a target from itself and from a folder of new inputs."""
    # In a process of its own, as tracing and what targets leave behind are of no use here.
    worker = multiprocessing.get_context("spawn").Process(target=_keep, args=(name, new))
    worker.start()
    worker.join()
    if worker.exitcode != 0:
        raise RuntimeError(f"the corpus of {name} stays as it is: see {new.parent / 'keep.log'}")


def _keep(name: str, new: Path) -> None:
    # Where targets make libraries complain.
    log = (new.parent / "keep.log").open("wb")
    os.dup2(log.fileno(), 2)
    target = Target(name)
    folder = CORPUS / name
    old = [path for path in folder.glob("*") if not path.name.startswith(_FOUND)]
    found = [path.read_bytes() for path in folder.glob(f"{_FOUND}*")]
    inputs = {path.read_bytes() for path in (*old, *new.glob("*"))}
    chosen = _cover(target, sorted(inputs, key=len), [*target.seeds, *found])
    for path in old:
        path.unlink()
    for data in chosen:
        (folder / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)


def _cover(target: Target, inputs: Iterable[bytes], known: Iterable[bytes]) -> list[bytes]:
    """Inputs that reach what none before them and none that is known reaches."""
    reached: set[Any] = set()
    for data in known:
        reached |= _lines(target, data)
    chosen, size = [], 0
    for data in inputs:
        lines = _lines(target, data)
        if lines <= reached or size + len(data) > MAX_KEPT_BYTES:
            continue
        reached |= lines
        size += len(data)
        chosen.append(data)
    return chosen


def _lines(target: Target, data: bytes) -> set[Any]:
    """The steps from line to line of our own modules that an input takes, and its outcome."""
    found: set[Any] = set()

    def enter(frame: Any, _event: str, _argument: object) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_OURS):
            return None
        last = 0

        def step(frame: Any, event: str, _argument: object) -> Any:
            nonlocal last
            found.add((file, last, frame.f_lineno, event == "exception"))
            last = frame.f_lineno
            return step

        return step

    sys.settrace(enter)
    try:
        taken = target.run(data)
    finally:
        sys.settrace(None)
    return found | {taken}
