"""One run: all parts, load, and faults by the schedule of a seed."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embercache.aio import AsyncClient

from sidecar.models.packs import default_folder
from sidecar.models.pull import pull
from tests.chaos.breakers import BreakerLog
from tests.chaos.caller import DEADLINE, Caller
from tests.chaos.inject import Injector
from tests.chaos.load import Client, World
from tests.chaos.parts import Cluster
from tests.chaos.promises import Documents, Promises
from tests.chaos.record import BROKEN, Record
from tests.chaos.report import Report, show_plan
from tests.chaos.schedule import plan
from tests.chaos.texts import prompts, texts
from tests.chaos.timeline import Circumstances, Timeline
from tests.chaos.truth import compute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.truth import Prompt, Truth

_TICK = 0.01
# So that some calls are under way whenever a sidecar is asked to end, but not many more than that.
_STEADY_PAUSE = 0.04


@dataclass(frozen=True)
class Options:
    """Of a run. ``seconds`` are those in which faults begin, ``calm`` those after the last."""

    seconds: float = 120
    seed: int = 1
    clients: int = 8
    pause: float = 0.03
    calm: float = 5
    texts: int = 400
    prompts: int = 8
    show: bool = True
    name: str = "chaos"


@dataclass(frozen=True)
class Subjects:
    """What is asked for."""

    texts: Sequence[str]
    few_texts: Sequence[str]
    contents: Sequence[str]
    queries: Sequence[str]
    prompts: Sequence[Prompt]

    @classmethod
    def make(cls, options: Options) -> Subjects:
        """The same for the same options."""
        return cls(
            texts=texts("text", options.texts),
            few_texts=texts("tagged", max(4, options.texts // 40)),
            contents=texts("content", max(4, options.texts // 4)),
            queries=texts("query", max(2, options.texts // 80)),
            prompts=prompts(options.prompts),
        )

    async def truth(self, minilm: Path, generator: Path) -> Truth:
        """What the models say to all of it."""
        all_texts = [*self.texts, *self.few_texts, *self.contents, *self.queries]
        return await compute(minilm, all_texts, generator, self.prompts)


def packs() -> tuple[Path, Path]:
    """The folders of the encoder and the generator, pulled if they are not there."""
    minilm, generator = (
        pull(name, default_folder(), lambda stage, done, total: None)
        for name in ("minilm", "smollm2-135m")
    )
    return minilm, generator


class Run:
    """A cluster under load. `asking` has clients ask for as long as the context lasts."""

    def __init__(
        self, cluster: Cluster, subjects: Subjects, truth: Truth, options: Options
    ) -> None:
        self.cluster = cluster
        self.options = options
        self.record = Record()
        self.timeline = Timeline()
        breakers = BreakerLog(lambda sidecar: cluster.sidecars[sidecar].logs)
        self.circumstances = Circumstances(self.timeline, breakers.episodes)
        promises = Promises(self.circumstances)
        self.late = 0.0
        self.world = World(
            name=options.name,
            truth=truth,
            promises=promises,
            documents=Documents(promises, truth),
            record=self.record,
            **vars(subjects),
        )

    @contextlib.asynccontextmanager
    async def asking(self, addresses: dict[str, str]):
        """Clients ask the sidecars, which are found at ``addresses``, and check what they say."""
        ended = asyncio.Event()
        async with contextlib.AsyncExitStack() as exits, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._watch(ended))]
            servers = list(self.cluster.sidecars.values())
            steady = range(self.options.clients, self.options.clients + len(servers))
            for number in range(steady.stop):
                clients = {
                    name: await exits.enter_async_context(AsyncClient(address, timeout=DEADLINE))
                    for name, address in addresses.items()
                }
                # Its own sidecar first.
                first = number % len(servers)
                order = servers[first:] + servers[:first]
                caller = Caller(order, clients, self.circumstances, self.record)
                is_steady = number in steady
                client = Client(number, self.options.seed, self.world, caller, steady=is_steady)
                pause = _STEADY_PAUSE if is_steady else self.options.pause
                tasks.append(group.create_task(client.run(ended, pause)))
            try:
                yield
            finally:
                ended.set()
            await asyncio.wait(tasks)

    async def _watch(self, ended: asyncio.Event) -> None:
        """Measures how late this process is, and notices parts that died."""
        dead: set[str] = set()
        while not ended.is_set():
            before = time.monotonic()
            await asyncio.sleep(_TICK)
            self.late = max(self.late, time.monotonic() - before - _TICK)
            for name, server in self.cluster.servers.items():
                if server.died and name not in dead:
                    dead.add(name)
                    self.record.violated(BROKEN, f"{name} died", time.time(), time.time())


async def run(options: Options) -> Report:
    """A whole run."""
    minilm, generator = packs()
    subjects = Subjects.make(options)
    lanes = plan(options.seed, options.seconds)
    if options.show:
        print(f"seed {options.seed}, {options.seconds:.0f} s")
        show_plan(lanes)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        cluster = Cluster(Path(folder), minilm, generator, options.seed)
        computing = asyncio.create_task(subjects.truth(minilm, generator))
        async with cluster:
            truth = await computing
            run = Run(cluster, subjects, truth, options)
            addresses = {name: server.address for name, server in cluster.sidecars.items()}
            injector = Injector(cluster, run.timeline, show=options.show)
            async with run.asking(addresses):
                await injector.run(lanes, options.seconds)
                await asyncio.sleep(options.calm)
                ended_at = time.time()
        complaints = [one for server in cluster.servers.values() for one in server.complaints()]
        for words in [*injector.bad_ends, *complaints]:
            run.record.violated(BROKEN, words, time.time(), time.time())
    return Report(
        seed=options.seed,
        seconds=options.seconds,
        record=run.record,
        timeline=Timeline(
            run.timeline.began,
            [*run.timeline.disturbances, *run.circumstances.left_alone()],
        ),
        reached=run.circumstances.shares_of_time(run.timeline.began, ended_at),
        faults=injector.done,
        late=run.late,
    )
