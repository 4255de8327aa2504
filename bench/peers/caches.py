"""The caches that are compared, and how each is opened on a Redis with a model."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.peers import servers
from bench.peers.drive import Driven
from bench.peers.environments import python_of
from bench.processes import sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a peer is opened.

    ``pack`` is the folder of the model, ``model`` its name, ``upstream`` the address of the model
    server with it. ``folder`` is the peer's own; two processes of one peer share it.
    """

    redis: str
    pack: str
    model: str
    upstream: str
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """For the driver."""
        computed = f"{self.upstream}/computed"
        own = {"redis": self.redis, "pack": self.pack, "model": self.model}
        return {**own, "folder": str(self.folder), "computed": computed}


@dataclass(frozen=True)
class Cache:
    """A cache to compare.

    ``module`` names what drives it and its requirements. ``shared`` says whether several processes
    can have one cache, in Redis. ``remote`` says whether it has the model behind HTTP, where
    computations of all its processes are counted together.
    """

    name: str
    module: str
    shared: bool
    remote: bool
    serve: Callable[[str, Place], AbstractContextManager[dict[str, str]]]

    def python(self) -> str:
        """Its Python; raises `bench.peers.environments.NotInstalledError`."""
        return sys.executable if self.module == "embercache" else python_of(self.module)

    @contextlib.contextmanager
    def opened(self, python: str, place: Place) -> Iterator[Driven]:
        """A process that asks it, and its server, if it is one."""
        with (
            self.serve(python, place) as more,
            (place.folder / f"{self.module}.log").open("a") as log,
        ):
            driven = Driven(python, self.module, {**place.settings, **more}, log)
            try:
                yield driven
            finally:
                driven.end()


@contextlib.contextmanager
def _in_process(python: str, place: Place) -> Iterator[dict[str, str]]:
    yield {}


@contextlib.contextmanager
def _embercache(python: str, place: Place) -> Iterator[dict[str, str]]:
    socket = place.folder / f"embercache-{servers.free_port()}.sock"
    listen = ("--server-address", "", "--server-socket", str(socket), "--server-drain-delay", "0")
    environment = {"EMBERCACHE_REDIS_URL": place.redis}
    model = ("--model-packs", place.pack, "--model-provider", "cpu")
    with sidecar(*listen, *model, environment=environment):
        yield {"address": f"unix://{socket}"}


@contextlib.contextmanager
def _litellm(python: str, place: Place) -> Iterator[dict[str, str]]:
    with servers.litellm(python, place.model, place.upstream, place.redis, place.folder) as more:
        yield more


@contextlib.contextmanager
def _triton(python: str, place: Place) -> Iterator[dict[str, str]]:
    with servers.triton(python, place.upstream, place.folder) as address:
        yield {"address": address}


CACHES = (
    Cache("Embercache", "embercache", shared=True, remote=False, serve=_embercache),
    Cache("RedisVL", "redisvl", shared=True, remote=False, serve=_in_process),
    Cache("LangChain", "langchain", shared=True, remote=False, serve=_in_process),
    Cache("GPTCache", "gptcache", shared=False, remote=False, serve=_in_process),
    Cache("LiteLLM proxy", "litellm", shared=True, remote=True, serve=_litellm),
    Cache("Triton", "triton", shared=False, remote=True, serve=_triton),
)
