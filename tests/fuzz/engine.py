"""What every fuzz target is run by: limits on one input, and mutations that know JSON.

A target is a file in ``targets``. It has ``run``, which takes one input and raises only what is
named in ``ALLOWED``; ``seeds``, inputs to begin with, made by the code that writes them in earnest;
where more is done with what ``run`` returns, ``verify``, which takes that and raises nothing, so
that what is allowed of hostile bytes is not of our own; and, if it needs others than these,
``MAX_BYTES`` of an input, ``CPU_SECONDS`` and ``MEGABYTES`` that one input may take, ``TOKENS``
that inputs are likely to have, and ``IS_JSON``.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
NAMES = sorted(path.stem for path in (HERE / "targets").glob("*.py"))

_ODD_VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, "", "a", "0", "\0",
    "\ud800", "\N{SNOWMAN}", "../../etc/passwd", "a" * 300, [], {}, [[]], [None], {"": None}, ["a"],
]  # fmt: skip


class HangError(BaseException):
    """An input took too much CPU time."""


class GrowthError(Exception):
    """An input took too much memory."""


class Target:
    """A target, and the limits under which it is run."""

    def __init__(self, name: str) -> None:
        module = _load(name)
        self.name = name
        self.seeds: list[bytes] = list(module.seeds())
        self.max_bytes: int = getattr(module, "MAX_BYTES", 4096)
        self.tokens: tuple[str, ...] = getattr(module, "TOKENS", ())
        self.is_json: bool = getattr(module, "IS_JSON", False)
        self._run: Callable[[bytes], Any] = module.run
        self._verify: Callable[[Any], None] = getattr(module, "verify", lambda _: None)
        self._allowed: tuple[type[BaseException], ...] = module.ALLOWED
        self._cpu_seconds: float = getattr(module, "CPU_SECONDS", 5.0)
        self._kilobytes: int = getattr(module, "MEGABYTES", 128) * 1024
        signal.signal(signal.SIGPROF, _stop)

    def run(self, data: bytes) -> bool:
        """Runs one input; returns whether it was taken. Raises what is a bug."""
        peak = _peak_kilobytes()
        signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)
        try:
            taken = self._run_checked(data)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        if (grown := _peak_kilobytes() - peak) > self._kilobytes:
            raise GrowthError(f"{len(data)} bytes of input took {grown >> 10} MiB")
        return taken

    def _run_checked(self, data: bytes) -> bool:
        try:
            made = self._run(data)
        except self._allowed:
            return False
        self._verify(made)
        return True

    def corpus(self) -> Iterator[bytes]:
        """The inputs that are kept in the repository."""
        for path in sorted((CORPUS / self.name).glob("*")):
            yield path.read_bytes()


def mutate_json(
    data: bytes, mutate: Callable[[bytes, int], bytes], max_bytes: int, seed: int
) -> bytes:
    """Another JSON text: one value in it is replaced, copied, removed, or put elsewhere."""
    chance = random.Random(seed)
    if chance.random() < 0.3:
        return mutate(data, max_bytes)
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return mutate(data, max_bytes)
    places = list(_places(root))
    for _ in range(chance.randint(1, 3)):
        _change(*chance.choice(places), places, mutate, chance)
    try:
        made = json.dumps(root[0]).encode()
    except (ValueError, RecursionError):  # put into itself
        return mutate(data, max_bytes)
    return made if len(made) <= max_bytes else mutate(data, max_bytes)


def _change(
    holder: Any,
    key: Any,
    places: list[tuple[Any, Any]],
    mutate: Callable[[bytes, int], bytes],
    chance: random.Random,
) -> None:
    action = chance.randrange(5)
    try:
        value = holder[key]
        if action == 0:
            holder[key] = copy.deepcopy(chance.choice(_ODD_VALUES))
        elif action == 1 and holder is not places[0][0]:
            del holder[key]
        elif action == 2:
            other, place = chance.choice(places)
            holder[key] = other[place]
        elif action == 3 and isinstance(holder, dict):
            holder[str(chance.choice(_ODD_VALUES))] = holder.pop(key)
        elif isinstance(value, str):
            holder[key] = mutate(value.encode(errors="replace"), 200).decode(errors="replace")
        elif isinstance(value, list):
            value.extend(value[:1] * chance.choice((1, 20)))
        elif isinstance(value, int):
            holder[key] = value + chance.choice((-1, 1, 7, 2**32))
    except (LookupError, TypeError):  # another change has taken it away
        return


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    for key in keys:
        yield holder, key
        if isinstance(holder[key], (dict, list)):
            yield from _places(holder[key])


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", HERE / "targets" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _stop(_signal: int, _frame: object) -> None:
    raise HangError


def _peak_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
