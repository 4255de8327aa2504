"""What calls about generated text take and return."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from datetime import timedelta

    from embercache._generate_answers import StreamedAnswer
    from embercache.types import CacheMode, Tier

Role: TypeAlias = Literal["system", "user", "assistant"]
FinishReason: TypeAlias = Literal["unspecified", "stop", "length", "filtered"]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation."""

    role: Role
    content: str


Prompt: TypeAlias = str | Sequence[ChatMessage | Mapping[str, str]]
"""A text as it is, or a conversation in the model's own template.

A message is a `ChatMessage`, or a mapping that has its fields: ``{"role": ..., "content": ...}``.
"""


class GenerateOptions(TypedDict, total=False):
    """The options of ``generate`` and ``generate_stream``. All may be left out.

    - ``model``: a name from ``generators()``; without it the sidecar's first.
    - ``max_tokens``: most tokens to generate; without it as the sidecar is set.
    - ``temperature``: 0 to 2; 0, the default, always takes the likeliest token. A service
      elsewhere has a default of its own.
    - ``top_k``: only the so many likeliest tokens; 0, the default, for all.
    - ``top_p``: only the likeliest tokens that together have this probability.
    - ``min_p``: only tokens that have this share of the likeliest one's probability.
    - ``repetition_penalty``: above 1 makes tokens that were there less likely to come again.
    - ``seed``: with the same seed, model and options, the answer is the same.
    - ``stop``: up to 16 texts before the first of which the answer ends.
    - ``stop_tokens``: up to 16 tokens at which it ends.
    - ``semantic``: as in `SearchOptions`, for the answer to another prompt.
    - ``store_sampled``: read and store even an answer that is drawn at random: with a temperature
      above 0 and no ``seed``. Without it, such an answer is new each time.
    - ``model_version``, ``namespace``, ``mode``, ``ttl``, ``tags``: as in `EmbedOptions`. With
      ``mode="only_if_cached"``, an answer that is not cached raises `NotCachedError`.
    """

    model: str
    model_version: str
    namespace: str
    max_tokens: int | None
    temperature: float | None
    top_k: int
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: Sequence[str]
    stop_tokens: Sequence[int]
    mode: CacheMode
    ttl: float | timedelta | None
    tags: Sequence[str]
    semantic: bool | float | None
    store_sampled: bool


@dataclass(frozen=True, slots=True)
class GenerateTimings:
    """Where the time of a call went, in seconds.

    - ``queued``: waiting for a place at the model;
    - ``loading``: loading what was kept of the prompt from memory, disk or Redis;
    - ``first_token``, ``total``: from the call's arrival to its first and its last token.
    """

    queued: float
    loading: float
    first_token: float
    total: float


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated text and what is known of it.

    - ``tokens``: empty for a model whose tokens the sidecar does not know;
    - ``finish_reason``: ``"stop"`` if the model ended or a stop text or token came, ``"length"``
      if there was no room for more, ``"filtered"`` if a service elsewhere withheld the rest;
    - ``prompt_tokens``, ``completion_tokens``: how many the prompt and the answer have;
    - ``reused_tokens``: tokens of the prompt that the model did not have to read again, by the tier
      that had kept them; empty unless this call generated the answer;
    - ``tier``: what answered for the whole;
    - ``age``: seconds since the answer was generated;
    - ``timings``: all zero unless this call generated the answer;
    - ``similarity``: ``None`` unless the answer to another prompt was given: then the cosine of
      the two.
    """

    text: str
    tokens: Sequence[int]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reused_tokens: Mapping[Tier, int]
    tier: Tier
    age: float
    model: str
    model_version: str
    timings: GenerateTimings
    similarity: float | None

    @property
    def is_hit(self) -> bool:
        """Whether the whole answer was cached."""
        return self.tier in ("hot", "disk", "warm")


@dataclass(frozen=True, slots=True)
class GeneratorModel:
    """A model of the sidecar that generates text.

    ``context_tokens`` is the most that prompt and answer have together, 0 if not known.
    ``accepts_chat`` tells whether it has a template for conversations. ``runs_on`` is ``"cpu"``,
    ``"cuda"`` or the address of a service.
    """

    name: str
    version: str
    context_tokens: int
    accepts_chat: bool
    runs_on: str


class GenerateStream(Iterator[str]):
    """The pieces of a text as they come; at its end, ``result`` has the whole.

    Nothing is done unless it is read. Leaving it early ends the generation: a ``for`` loop in
    CPython does so by itself, elsewhere call ``close()``.
    """

    def __init__(self, texts: Generator[str, None, None], answer: StreamedAnswer) -> None:
        self._texts = texts
        self._answer = answer

    def __next__(self) -> str:
        return next(self._texts)

    @property
    def result(self) -> Generated:
        """What `Client.generate` would have returned. Raises `RuntimeError` before the end."""
        return self._answer.result

    def close(self) -> None:
        """Ends the generation, if it has not ended."""
        self._texts.close()


class AsyncGenerateStream(AsyncIterator[str]):
    """As `GenerateStream`; to be closed with ``aclose()`` if it is left early."""

    def __init__(self, texts: AsyncGenerator[str, None], answer: StreamedAnswer) -> None:
        self._texts = texts
        self._answer = answer

    async def __anext__(self) -> str:
        return await anext(self._texts)

    @property
    def result(self) -> Generated:
        """As `GenerateStream.result`."""
        return self._answer.result

    async def aclose(self) -> None:
        """As `GenerateStream.close`."""
        await self._texts.aclose()
