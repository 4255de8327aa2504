"""What is sent: texts drawn from a corpus, and the tier that is to answer each, by construction."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from embercache.v1 import common_pb2, embed_pb2, generate_pb2, search_pb2

from bench.corpus import docstrings
from bench.zipf import zipf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

Kind = Literal["embed", "search", "generate"]

FOLDER = Path(__file__).parent
SEED = 5
ALPHA = 1.0
# Texts that are asked for again and again; and the namespaces of what is stored beforehand and
# of what is not.
POPULAR: dict[Kind, int] = {"embed": 500, "search": 300, "generate": 40}
STORED, NEW = "ghz", "ghz-new"
DOCUMENTS = 500
MAX_TOKENS = 16


@dataclass(frozen=True)
class Scenario:
    """Calls of one kind; of these, the shares that Redis and the model are to answer.

    Memory answers the others. With ``bypass``, the cache is told to stay out of it.
    """

    name: str
    kind: Kind
    warm: float = 0.0
    new: float = 0.0
    bypass: bool = False

    @property
    def file(self) -> Path:
        """The settings of ghz."""
        return FOLDER / f"{self.name}.json"

    @property
    def is_hot(self) -> bool:
        """Memory answers every call."""
        return not (self.warm or self.new or self.bypass)

    @property
    def reference(self) -> str:
        """The scenario that this one is compared with; a hot one is compared with an echo."""
        return self.name if self.is_hot or self.bypass else f"{self.kind}-bypass"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What is in that file."""
        settings: dict[str, Any] = json.loads(self.file.read_text("utf-8"))
        return settings

    @property
    def method(self) -> str:
        """As in an HTTP/2 path."""
        return f"/{self.settings['call']}"


# None of the quantiles that are shown lies where one tier ends and a slower one begins: of
# embed-mixed and search-mixed p50 is memory's, p95 Redis', and p99 the model's; of generate-mixed
# p50 is memory's and the others are the model's.
SCENARIOS = (
    Scenario("embed-hot", "embed"),
    Scenario("embed-mixed", "embed", warm=0.12, new=0.03),
    Scenario("embed-cold", "embed", new=1.0),
    Scenario("embed-bypass", "embed", new=1.0, bypass=True),
    Scenario("search-hot", "search"),
    Scenario("search-mixed", "search", warm=0.12, new=0.03),
    Scenario("search-bypass", "search", new=1.0, bypass=True),
    Scenario("generate-hot", "generate"),
    Scenario("generate-mixed", "generate", new=0.10),
    Scenario("generate-bypass", "generate", new=1.0, bypass=True),
)


@dataclass(frozen=True)
class Calls:
    """The messages of a data file in their order, and for each the tier that is to answer it."""

    messages: Sequence[bytes]
    tiers: Sequence[str]

    def first(self, count: int) -> Calls:
        """So many of them, or all."""
        return Calls(self.messages[:count], self.tiers[:count])

    def of(self, tier: str) -> list[bytes]:
        """The different messages that a tier is to answer."""
        pairs = zip(self.messages, self.tiers, strict=True)
        return list(dict.fromkeys(message for message, each in pairs if each == tier))


def short_texts() -> list[str]:
    """First paragraphs of docstrings, 20 to 200 characters each, in an order of their own."""
    paragraphs = (" ".join(text.partition("\n\n")[0].split()) for text in docstrings(10**9, SEED))
    return list(dict.fromkeys(text for text in paragraphs if 20 <= len(text) <= 200))


def draw(scenario: Scenario, texts: Sequence[str]) -> Calls:
    """Draws the calls of a scenario, the same for the same texts.

    The popular texts come as often as `zipf` says; each of the others comes once.
    """
    rng = np.random.default_rng(SEED)
    count, popular = scenario.settings["total"], POPULAR[scenario.kind]
    tail, new = round(count * scenario.warm), round(count * scenario.new)
    if popular + tail + new > len(texts):
        raise ValueError(f"{scenario.name} needs {popular + tail + new:,} texts: {len(texts):,}")
    numbers = np.concatenate(
        [
            zipf(rng, ALPHA, popular, count - tail - new),
            popular + np.arange(tail),
            popular + tail + np.arange(new),
        ]
    )
    rng.shuffle(numbers)
    mode = common_pb2.CACHE_MODE_BYPASS if scenario.bypass else common_pb2.CACHE_MODE_UNSPECIFIED
    messages: dict[int, bytes] = {}
    for number in np.unique(numbers).tolist():
        namespace = STORED if number < popular + tail else NEW
        message = _request(scenario.kind, texts[number], namespace, mode)
        messages[number] = message.SerializeToString()
    tiers = np.where(
        numbers < popular, "hot", np.where(numbers < popular + tail, "warm", "computed")
    )
    return Calls(
        messages=[messages[number] for number in numbers.tolist()],
        tiers=tiers.tolist(),
    )


def documents(texts: Sequence[str], namespace: str) -> search_pb2.UpsertRequest:
    """What is searched: the last of the texts."""
    return search_pb2.UpsertRequest(
        namespace=namespace,
        documents=[
            search_pb2.Document(id=str(number), chunks=[search_pb2.Chunk(content=text)])
            for number, text in enumerate(texts[-DOCUMENTS:])
        ],
    )


def _request(
    kind: Kind, text: str, namespace: str, mode: common_pb2.CacheMode.ValueType
) -> Message:
    cache = common_pb2.CacheOptions(mode=mode) if mode else None
    if kind == "embed":
        inputs = [embed_pb2.Input(text=text)]
        return embed_pb2.EmbedRequest(inputs=inputs, namespace=namespace, cache=cache)
    if kind == "search":
        return search_pb2.SearchRequest(text=text, namespace=namespace, cache=cache)
    sampling = generate_pb2.Sampling(max_tokens=MAX_TOKENS)
    return generate_pb2.GenerateRequest(
        text=text, namespace=namespace, sampling=sampling, cache=cache
    )
