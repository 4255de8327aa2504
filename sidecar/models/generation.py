"""What the rest of the sidecar knows of a generator: one protocol, its requests and its answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

FinishReason: TypeAlias = Literal["stop", "length", "filtered"]
Role: TypeAlias = Literal["system", "user", "assistant"]
PrefixTier: TypeAlias = Literal["hot", "disk", "warm"]
"""Where blocks of a prompt's keys and values came from."""

Message: TypeAlias = tuple[Role, str]
Prompt: TypeAlias = str | tuple[Message, ...]
"""A text as it is, or a conversation for the model's template."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen: see ``Sampling`` in generate.proto.

    ``temperature`` is None for the default of a service elsewhere, which is 0 for a model of this
    sidecar. A temperature of 0 takes the likeliest token; then the fields that only matter to
    sampling have their neutral values, which are the defaults here.
    """

    max_tokens: int
    temperature: float | None = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()


class PrefixScope(Protocol):
    """Whose blocks a generation may use: names them, so that no two scopes share one."""

    def key(self, parent: bytes, tokens: bytes) -> bytes:
        """The name of the block with these tokens (little-endian int32) after ``parent``.

        ``parent`` is the name of the block before it, empty for the first.
        """
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A generation that is asked for.

    ``reads_prefix`` says whether blocks that are kept may be used, ``keeps_prefix`` whether those
    that are computed may be kept.
    """

    prompt: Prompt
    sampling: Sampling
    scope: PrefixScope
    reads_prefix: bool = True
    keeps_prefix: bool = True


@dataclass(frozen=True, slots=True)
class Piece:
    """What a generation brought in one step: text, tokens, or both."""

    text: str
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole generation. ``reused`` counts tokens of the prompt; times are in seconds."""

    pieces: tuple[Piece, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reused: Mapping[PrefixTier, int] = field(default_factory=dict)
    queued_seconds: float = 0.0
    loading_seconds: float = 0.0


class Generation(asyncio.Future[Any]):
    """A generation under way: a future of its `Completion` that tells its pieces before.

    Cancelling it tells that nobody wants it: a generator stops at the next token. ``first_at`` is
    when the first piece came, or the end if there was none, in seconds of `perf_counter`. Used
    from one event loop only, but for ``cancelled()``, which a generator's thread may read at any
    time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Piece] = []
        self.first_at = 0.0
        self._more = asyncio.Event()
        self.add_done_callback(lambda _: self._tell())

    def add(self, pieces: Sequence[Piece]) -> None:
        """Tells of pieces that came."""
        self.pieces.extend(pieces)
        self._tell()

    async def begun(self) -> bool:
        """Whether there is a piece, once there is one or it is clear that there will be none."""
        if not self.pieces and not self.done():
            self._more.clear()
            await self._more.wait()
        return bool(self.pieces)

    async def follow(self) -> AsyncIterator[Piece]:
        """The pieces from the first on, each as soon as it is there, until there are no more.

        Ends without an error however the generation ends. Any number may follow.
        """
        told = 0
        while True:
            while told < len(self.pieces):
                yield self.pieces[told]
                told += 1
            if self.done():
                return
            self._more.clear()
            await self._more.wait()

    def _tell(self) -> None:
        self.first_at = self.first_at or perf_counter()
        self._more.set()


@dataclass(frozen=True, slots=True)
class GeneratorInfo:
    """What a generator is.

    ``version`` changes whenever anything changes that an answer depends on. ``context_tokens`` is
    the most that prompt and answer have together, 0 if not known.
    """

    name: str
    version: str
    context_tokens: int
    accepts_chat: bool
    runs_on: str
    is_local: bool


@dataclass(slots=True)
class GeneratorCounters:
    """Counters since start-up; of prefill, only tokens that were not reused.

    ``shed`` generations were refused; of them ``refused_late`` would have begun after their
    deadlines. The deadlines of ``dropped_late`` passed while they waited.
    """

    generated: int = 0
    shed: int = 0
    refused_late: int = 0
    dropped_late: int = 0
    abandoned: int = 0
    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PrefixReport:
    """What a generator keeps of prompts. Bandwidths are in bytes a second."""

    reused_tokens: Mapping[PrefixTier, int]
    blocks: int
    pinned_blocks: int
    bytes: int
    capacity_bytes: int
    evictions: int
    bandwidths: Mapping[PrefixTier, float]
    not_worth_loading: int


class Generator(Protocol):
    """A model that generates text, wherever it runs. Used from one event loop only."""

    counters: GeneratorCounters

    @property
    def info(self) -> GeneratorInfo:
        """The model as it is now; the same object as long as that is so."""
        ...

    @property
    def queued(self) -> int:
        """Generations accepted and not yet at work."""
        ...

    @property
    def active(self) -> int:
        """Generations at work."""
        ...

    def prefix_report(self) -> PrefixReport | None:
        """What is kept of prompts; None for a generator that runs elsewhere."""
        ...

    def forget_prompts(self) -> int:
        """Empties the memory of what is kept of prompts; says how many blocks that were."""
        ...

    def start(self, request: GenerationRequest, generation: Generation) -> None:
        """Begins a generation and returns at once.

        Pieces are added to ``generation`` as they come; it ends with a `Completion` or with a
        `ModelError`: `InputRejectedError` for a prompt that the model does not take. If it is
        cancelled, the work stops at the next token.

        Raises `QueueFullError` if too many wait already, `TooLateError` if it would begin after the
        deadline of this context's `sidecar.demand.demand`, and `ModelUnavailableError` after
        `close`.
        """
        ...

    async def close(self) -> None:
        """Ends the work in progress; what is not done fails with `ModelUnavailableError`."""
        ...
