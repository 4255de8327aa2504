"""How long the first token of a prompt of 1,000 tokens takes, by what of it is cached where."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from embercache.v1 import common_pb2

from bench.prefix_calls import generating
from bench.report import print_table
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.prefix_calls import Sidecar
    from bench.prefix_texts import Texts

TOKENS = 1000
_LUCK = 4
_NAMES = {common_pb2.TIER_HOT: "hot", common_pb2.TIER_DISK: "disk", common_pb2.TIER_WARM: "Redis"}


@dataclass
class Timed:
    """First tokens of several rounds; ``reused`` is what each prompt had cached, and ``where``."""

    tier: int
    reused: int
    where: str
    cold: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)

    def add(self, cold: float, client: Sidecar, text: str) -> None:
        """Measures a prompt of which the tier has ``reused`` tokens.

        Raises `RuntimeError` if it has more or less, or if the prompt has another length.
        """
        answer = client.stream(text)
        # The next token of two texts may happen to be the same.
        more = answer.reused.get(self.tier, 0) - self.reused
        if answer.prompt_tokens != TOKENS or len(answer.reused) != 1 or not 0 <= more <= _LUCK:
            raise RuntimeError(
                f"{self.reused:,} of {TOKENS:,} tokens should come from {_NAMES[self.tier]};"
                f" of {answer.prompt_tokens:,} came {_by_name(answer.reused)}"
            )
        self.cold.append(cold)
        self.cached.append(answer.first_seconds)

    @property
    def speedup(self) -> float:
        """How many times as fast as without cache: the median of the rounds."""
        return median(cold / cached for cold, cached in zip(self.cold, self.cached, strict=True))


def measure(texts: Texts, rounds: int, *, disk: bool) -> dict[str, float]:
    """Prints the table; returns the figures for the JSON file."""
    ways = _from_memory(texts, rounds)
    with DevRedis() as redis:
        environment = {"EMBERCACHE_REDIS_URL": redis.url}
        shared = _from_below(texts, rounds, common_pb2.TIER_WARM, environment)
    ways["redis"] = shared
    if disk:
        with tempfile.TemporaryDirectory() as folder:
            environment = {"EMBERCACHE_DISK_FOLDER": folder}
            ways["disk"] = _from_below(texts, rounds, common_pb2.TIER_DISK, environment)
    rows = [
        (
            f"{way.reused:,} {way.where}",
            median(way.cached) * 1000,
            median(way.cold) * 1000,
            f"{way.speedup:.1f}x",
        )
        for way in ways.values()
    ]
    print_table(
        f"prompts of {TOKENS:,} tokens, medians of {rounds} rounds",
        ("tokens cached", "ms to the first token", "without cache", "faster by"),
        rows,
    )
    figures = {f"ttft_speedup_{name}": way.speedup for name, way in ways.items()}
    figures |= {f"ttft_ms_{name}": median(way.cached) * 1000 for name, way in ways.items()}
    return figures | {"ttft_ms_cold": median(ways["hot"].cold) * 1000}


def _from_memory(texts: Texts, rounds: int) -> dict[str, Timed]:
    """With the first 90 % and the first 98 % in memory.

    They are where the last prompt left them; or, as far as they are whole blocks, among those of
    all prompts, when another one came between.
    """
    hot = common_pb2.TIER_HOT
    ways = {
        "hot": Timed(hot, 900, "left by the last prompt"),
        "hot_98": Timed(hot, 980, "left by the last prompt"),
        "hot_blocks": Timed(hot, 896, "in blocks in memory"),
        "hot_blocks_98": Timed(hot, 976, "in blocks in memory"),
    }
    with tempfile.TemporaryDirectory() as folder, generating(folder) as client:
        for _ in range(rounds):
            first, second = texts.take(900), texts.take(80)
            cold = client.stream(first + second + texts.take(20)).first_seconds
            ways["hot_98"].add(cold, client, first + second + texts.take(20))
            ways["hot"].add(cold, client, first + texts.take(100))
            for name, begin, end in (
                ("hot_blocks_98", first + second, 20),
                ("hot_blocks", first, 100),
            ):
                client.stream(texts.take(50))
                ways[name].add(cold, client, begin + texts.take(end))
    return ways


def _from_below(texts: Texts, rounds: int, tier: int, environment: Mapping[str, str]) -> Timed:
    """With the first 90 % in a tier below memory: a sidecar stores them, a new one has them."""
    environment = {**environment, "EMBERCACHE_PREFIX_SHARED": "true"}
    timed = Timed(tier, 896, f"from {_NAMES[tier]}")
    begun = [texts.take(900) for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        with generating(folder, environment=environment) as client:
            for text in begun:
                client.stream(text)
        with generating(folder, environment=environment) as client:
            for text in begun:
                cold = client.stream(texts.take(TOKENS)).first_seconds
                timed.add(cold, client, text + texts.take(100))
    return timed


def _by_name(reused: Mapping[int, int]) -> str:
    return ", ".join(f"{count:,} from {_NAMES[tier]}" for tier, count in reused.items()) or "none"
