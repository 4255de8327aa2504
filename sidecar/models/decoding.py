"""One generation at work: its turns on the engine's thread."""

from __future__ import annotations

import contextlib
import logging
from time import perf_counter
from typing import TYPE_CHECKING

from sidecar.models.generation import FinishReason, Piece
from sidecar.models.sampler import Sampler
from sidecar.models.text_stream import TextStream
from sidecar.models.types import ModelError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from tokenizers import Tokenizer

    from sidecar.models.decoder_pack import DecoderPack
    from sidecar.models.decoder_state import Block, DecoderState
    from sidecar.models.generation import Generation, GeneratorCounters, Sampling
    from sidecar.models.sampler import Logits
    from sidecar.models.splits import Splits

_log = logging.getLogger(__name__)


class Decoding:
    """Reads a prompt and generates an answer to it; a `Job` of the engine.

    Made on the event loop, where ``generation`` is told its pieces; ``prefilled`` is done once the
    first token is told. The first turn takes ``blocks``, what was kept of the prompt.

    Attributes:
        pieces: all of the answer so far.
        tokens: how many tokens those have.
        finish_reason: why it ended, once it has.
        loading_seconds: how long it took to take the blocks.
    """

    def __init__(
        self,
        pack: DecoderPack,
        splits: Splits,
        tokenizer: Tokenizer,
        counters: GeneratorCounters,
        *,
        name: str,
        prompt: Sequence[int],
        state: DecoderState,
        blocks: Sequence[Block],
        sampling: Sampling,
        generation: Generation,
    ) -> None:
        self.pieces: list[Piece] = []
        self.tokens = 0
        self.finish_reason: FinishReason = "length"
        self.loading_seconds = 0.0
        self._splits = splits
        self._counters = counters
        self._name = name
        self._prompt = prompt
        self._blocks = blocks
        self._sampler = Sampler(sampling, prompt)
        self._text = TextStream(tokenizer, sampling.stop)
        self._ends = pack.end_tokens.union(sampling.stop_tokens)
        self._max_tokens = min(sampling.max_tokens, pack.context_tokens - len(prompt))
        self._generation = generation
        self._loop = generation.get_loop()
        self.prefilled: asyncio.Future[None] = self._loop.create_future()
        self._state: DecoderState | None = state
        self._last = -1

    def is_unwanted(self) -> bool:
        """Whether the generation was cancelled."""
        return self._generation.cancelled()

    def turn(self, *, alone: bool) -> bool:
        """Reads a part of the prompt, or generates one token. See `Job`."""
        state = self._state
        assert state is not None  # noqa: S101 - the engine is not done with this
        if self._blocks:
            self._load(state)
        if state.length < len(self._prompt):
            return self._prefill(state, alone=alone)
        started = perf_counter()
        logits = self._run(state, [self._last])
        is_last = self._choose(logits)
        self._counters.decode_tokens += 1
        self._counters.decode_seconds += perf_counter() - started
        return is_last

    def export(self, first: int, stop: int) -> list[Block]:
        """Copies of some of the prompt's blocks. On any thread, once ``prefilled``."""
        size = self._splits.block_tokens
        return self._state.export(first * size, stop * size, size) if self._state else []

    def release(self) -> None:
        """Lets go of memory; only when the engine is done with this."""
        self._state = None
        self._blocks = ()

    def _load(self, state: DecoderState) -> None:
        started = perf_counter()
        state.load(self._blocks)
        self._blocks = ()
        self.loading_seconds = perf_counter() - started

    def _prefill(self, state: DecoderState, *, alone: bool) -> bool:
        count = self._splits.run_tokens(state.length, len(self._prompt), alone=alone)
        started = perf_counter()
        logits = self._run(state, self._prompt[state.length : state.length + count])
        self._counters.prefill_tokens += count
        self._counters.prefill_seconds += perf_counter() - started
        if state.length < len(self._prompt):
            return False
        is_last = self._choose(logits)
        self._post(self.prefilled.set_result, None)
        return is_last

    def _run(self, state: DecoderState, tokens: Sequence[int]) -> Logits:
        try:
            return state.run(tokens)
        except Exception as error:  # ONNX Runtime's errors share no base class
            _log.warning("model %s failed on %d tokens: %s", self._name, len(tokens), error)
            raise self._failure(type(error).__name__) from error

    def _choose(self, logits: Logits) -> bool:
        """Takes the next token and tells it; returns whether the answer ends."""
        try:
            token = self._sampler.next(logits)
        except ValueError as error:
            raise self._failure("NaN or infinity") from error
        if token in self._ends:
            return self._finish("stop")
        self._last = token
        self.tokens += 1
        self._tell(Piece(self._text.add(token), (token,)))
        if self._text.stopped:
            return self._finish("stop")
        return self.tokens == self._max_tokens and self._finish("length")

    def _finish(self, reason: FinishReason) -> bool:
        if rest := self._text.finish():
            self._tell(Piece(rest))
        # A stop string may have been in what was held back.
        self.finish_reason = "stop" if self._text.stopped else reason
        return True

    def _tell(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self._post(self._generation.add, [piece])

    def _post(self, call: Callable[..., object], *args: object) -> None:
        # The loop may have been closed without us; then nobody listens.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _failure(self, reason: str) -> ModelError:
        return ModelError(f"model {self._name} gave no answer ({reason})")
