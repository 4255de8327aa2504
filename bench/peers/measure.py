"""What is measured of a cache: each time in the same order, with the same texts."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import redis

from bench.peers.caches import Place
from bench.peers.encoder import Encoder
from bench.peers.servers import model_server, redis_server
from bench.peers.texts import Texts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.peers.caches import Cache
    from bench.peers.drive import Driven

STORED, BATCH, CALLERS, THREADS = 500, 64, 200, 8
_ASKED, _ROUNDS, _SECONDS = 100, 5, 2.0
_CHANGED, _KNOWN, _NEW = 100, 100, 20
_SHORTER = '{"max_seq_length": 16, "do_lower_case": false}'


@dataclass
class Figures:
    """What was measured of one cache; what does not apply to it is None. Times in milliseconds."""

    version: str
    hit_p50: float = 0.0
    hit_p99: float = 0.0
    hits_per_second: float = 0.0
    hits_computed: float = 0.0
    batch_ms: float = 0.0
    partial_ms: float = 0.0
    partial_computed: float = 0.0
    stampede_computed: float = 0.0
    stampede_ms: float = 0.0
    stampede_failed: float = 0.0
    stampede_said: str = ""
    stampede_two: float = 0.0
    redis_bytes: float | None = None
    wrong_same_name: float = 0.0
    wrong_new_name: float = 0.0
    outage_known: float | None = None
    outage_new: float | None = None
    outage_ms: float | None = None
    outage_worst_ms: float | None = None
    outage_said: str = ""


def measure(cache: Cache, pack: Path, corpus: Sequence[str]) -> Figures:
    """All figures of one cache.

    Raises `NotInstalledError` or `PeerError` if it cannot be had.
    """
    python = cache.python()
    texts = Texts(corpus)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(_folder()))
        server = stack.enter_context(redis_server())
        models = _models(pack, folder)
        upstreams = [stack.enter_context(model_server(str(m), folder)) for m in models]
        url = f"redis://127.0.0.1:{server.port}/0"  # of TCP, as in a cluster
        place = Place(url, str(models[0]), "minilm", upstreams[0], folder)
        with cache.opened(python, place) as first:
            figures = Figures(first.version)
            stored = texts.take(STORED)
            _store(first, stored, url, figures)
            if not cache.shared:
                figures.redis_bytes = None
            _hits(first, stored, figures)
            _batches(first, stored, texts, figures)
            _stampede(first, texts, figures)
            with cache.opened(python, place) as second:
                _two(cache, (first, second), texts, figures)
        changed = replace(place, pack=str(models[1]), upstream=upstreams[1])
        _wrong(cache, python, (place, changed), stored[:_CHANGED], figures)
        with cache.opened(python, place) as last:
            if cache.shared:
                last.ask("singly", texts=stored[:_KNOWN])
                server.kill()
                _outage(last, stored[:_KNOWN], texts.take(_NEW), figures)
    return figures


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as name:
        yield name


def _models(pack: Path, folder: Path) -> tuple[Path, Path]:
    """The pack, and one of the same name that reads 16 tokens of a text in place of 256.

    Without the manifest, with which a sidecar would refuse the changed one.
    """
    models = folder / "first" / "minilm", folder / "second" / "minilm"
    for model in models:
        shutil.copytree(pack, model, ignore=shutil.ignore_patterns("manifest.json"))
    (models[1] / "sentence_bert_config.json").write_text(_SHORTER, "utf-8")
    return models


def _store(driven: Driven, stored: list[str], url: str, figures: Figures) -> None:
    """Memory of Redis before and after, once all is written."""
    client = redis.Redis.from_url(url)
    before = client.info("memory")["used_memory"]
    for start in range(0, len(stored), 100):
        driven.ask("embed", texts=stored[start : start + 100])
    seen = -1
    while seen != (seen := client.dbsize()):
        time.sleep(0.5)
    figures.redis_bytes = (client.info("memory")["used_memory"] - before) / len(stored)
    client.close()


def _hits(driven: Driven, stored: list[str], figures: Figures) -> None:
    asked = stored[:_ASKED]
    driven.ask("singly", texts=asked)
    before = driven.ask("computed")
    times = driven.ask("latencies", texts=asked * _ROUNDS)
    figures.hits_computed = (driven.ask("computed") - before) / len(times)
    figures.hit_p50, figures.hit_p99 = (float(np.percentile(times, q)) for q in (50, 99))
    figures.hits_per_second = driven.ask(
        "throughput", texts=asked, threads=THREADS, seconds=_SECONDS
    )


def _batches(driven: Driven, stored: list[str], texts: Texts, figures: Figures) -> None:
    """The same batch again; and batches of which one text is new."""
    batch = stored[:BATCH]
    driven.ask("embed", texts=batch)  # whole requests are kept by some
    figures.batch_ms = median(driven.ask("embed", texts=batch)["ms"] for _ in range(_ROUNDS))
    partial = [
        driven.ask("embed", texts=[*stored[start : start + BATCH - 1], *texts.take(1)])
        for start in range(_ROUNDS)
    ]
    figures.partial_ms = median(each["ms"] for each in partial)
    figures.partial_computed = median(each["computed"] for each in partial)


def _stampede(driven: Driven, texts: Texts, figures: Figures) -> None:
    rounds = []
    for text in texts.take(3):
        before = driven.ask("computed")
        done = driven.ask("stampede", text=text, callers=CALLERS, at=0.0)
        rounds.append((driven.ask("computed") - before, done["ms"], done["failed"]))
        figures.stampede_said = figures.stampede_said or "".join(done["said"])
    figures.stampede_computed, figures.stampede_ms, figures.stampede_failed = (
        median(column) for column in zip(*rounds, strict=True)
    )


def _two(cache: Cache, both: tuple[Driven, Driven], texts: Texts, figures: Figures) -> None:
    """Half of the callers in each of two processes, at one moment."""
    counted = both[:1] if cache.remote else both
    rounds = []
    for text in texts.take(3):
        before = sum(each.ask("computed") for each in counted)
        at = time.time() + 1.0
        for each in both:
            each.send("stampede", text=text, callers=CALLERS // 2, at=at)
        for each in both:
            each.answer()
        rounds.append(sum(each.ask("computed") for each in counted) - before)
    figures.stampede_two = median(rounds)


def _wrong(
    cache: Cache, python: str, places: tuple[Place, Place], texts: list[str], figures: Figures
) -> None:
    """The cache is opened with the changed model under its old name, and under a new one."""
    old, new = (Encoder(each.pack)(texts) for each in places)
    with cache.opened(python, places[0]) as driven:
        driven.ask("embed", texts=texts)  # as one call, and so they are asked for below
    for name in ("minilm", "minilm-2"):
        with cache.opened(python, replace(places[1], model=name)) as driven:
            answers = driven.ask("vectors", texts=texts)
        wrong = sum(
            bool(_distance(answer, made) > _distance(answer, before))
            for answer, made, before in zip(answers, new, old, strict=True)
        )
        if name == "minilm":
            figures.wrong_same_name = wrong / len(texts)
        else:
            figures.wrong_new_name = wrong / len(texts)


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.abs(np.subtract(one, other)).max())


def _outage(driven: Driven, known: list[str], new: list[str], figures: Figures) -> None:
    """Redis is dead: texts that were cached, then texts that never were."""
    stored, fresh = (driven.ask("outage", texts=texts) for texts in (known, new))
    figures.outage_known, figures.outage_new = (
        1 - each["failed"] / each["asked"] for each in (stored, fresh)
    )
    if figures.outage_known:  # else it says how fast it fails
        figures.outage_ms = median(stored["times"])
        figures.outage_worst_ms = max(*stored["times"], *fresh["times"])
    figures.outage_said = stored["said"] or fresh["said"]
