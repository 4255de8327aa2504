"""A model in this process that generates."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from sidecar.models.decoder import Decoder
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.decoding import Decoding
from sidecar.models.engine import Engine, closing_error
from sidecar.models.errors import SetupError
from sidecar.models.generation import Completion, GeneratorCounters, GeneratorInfo
from sidecar.models.places import Left, Place, Places
from sidecar.models.prefix_store import BlockLayout
from sidecar.models.prompt_reader import PromptReader
from sidecar.models.splits import Splits
from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    QueueFullError,
    TooLateError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.models.decoder_state import DecoderState
    from sidecar.models.generation import Generation, GenerationRequest, PrefixReport, PrefixScope
    from sidecar.models.prefixes import Lease, Prefixes
    from sidecar.models.session import Provider

# Buffers come in few sizes, so that memory that is given back can be used again.
_CAPACITY_STEP = 256

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Work:
    """A generation whose prompt was read. ``keys`` names the blocks of its prompt.

    The text has up to ``capacity`` tokens, whose keys and values take ``n_bytes``.
    """

    request: GenerationRequest
    generation: Generation
    tokens: Sequence[int]
    keys: Sequence[bytes]
    capacity: int
    n_bytes: int


class LocalGenerator:
    """A `Generator` whose model runs in this process, on a thread of its own.

    ``prefixes`` has the memory of its generations, so it is for no other generator. To be closed
    after this. Raises `SetupError` if that memory is too small for any generation.
    """

    def __init__(
        self,
        decoder: Decoder,
        reader: PromptReader,
        name: str,
        *,
        prefixes: Prefixes,
        parallel: int,
        queue: int,
        block_tokens: int,
    ) -> None:
        self.counters = GeneratorCounters()
        pack = decoder.pack
        self.info = GeneratorInfo(
            name=name,
            version=pack.version,
            context_tokens=pack.context_tokens,
            accepts_chat=pack.chat_template is not None,
            runs_on=decoder.device,
            is_local=True,
        )
        self._decoder = decoder
        self._reader = reader
        self._prefixes = prefixes
        if (least := self._state_bytes(1)) > prefixes.capacity_bytes:
            raise SetupError(
                f"model {name}: the shortest generation takes {least} bytes of memory, and there"
                f" are {prefixes.capacity_bytes} for it; raise prefix.max_bytes, of which each of"
                " the generator.packs has an equal share"
            )
        self._splits = Splits.of(decoder, block_tokens)
        kv = pack.kv
        shape = (len(kv.past), kv.heads, self._splits.block_tokens, kv.head_size)
        self._layout = BlockLayout(shape, kv.dtype)
        self._engine = Engine(name)
        self._places = Places(parallel, prefixes)
        self._queue = queue
        self._most = parallel + queue
        self._accepted = 0
        # Tokens, beyond those of blocks that were held.
        self._reused_in_place = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._takes: set[asyncio.Task[Lease]] = set()
        self._reading = ThreadPoolExecutor(1, f"read-{name}")
        self._closed = False

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        *,
        prefixes: Prefixes,
        provider: Provider = "auto",
        threads: int | None = None,
        parallel: int = 4,
        queue: int = 256,
        block_tokens: int = 16,
    ) -> LocalGenerator:
        """Loads the pack in ``folder`` and tries it out. Takes seconds: not for the event loop.

        ``threads`` compute one run (all usable CPUs if None). At most ``parallel`` generations are
        at work, and ``queue`` wait. Prompts are kept in blocks of ``block_tokens``, or of a
        multiple of that where the model needs it. Raises `SetupError`.
        """
        pack = read_decoder_pack(folder)
        return cls(
            Decoder(pack, provider, threads),
            PromptReader(pack),
            name,
            prefixes=prefixes,
            parallel=parallel,
            queue=queue,
            block_tokens=block_tokens,
        )

    @property
    def queued(self) -> int:
        """Generations accepted and not yet at work."""
        return self._accepted - self._places.taken

    @property
    def active(self) -> int:
        """Generations at work."""
        return self._places.taken

    def prefix_report(self) -> PrefixReport:
        """What is kept of prompts."""
        report = self._prefixes.report(self._splits.block_tokens)
        if self._reused_in_place == 0:
            return report
        hot = report.reused_tokens.get("hot", 0) + self._reused_in_place
        return replace(report, reused_tokens={**report.reused_tokens, "hot": hot})

    def forget_prompts(self) -> int:
        """Empties the memory of what is kept of prompts; see `Generator.forget_prompts`."""
        self._places.clear()
        return self._prefixes.clear()

    def start(self, request: GenerationRequest, generation: Generation) -> None:
        """Begins a generation and returns at once; see `Generator.start`."""
        if self._closed:
            raise closing_error()
        if self._accepted >= self._most:
            self.counters.shed += 1
            raise QueueFullError(
                f"{self.queued} generations wait already and at most {self._queue} may; try again"
                " later"
            )
        try:
            self._places.refuse_if_late(self.queued)
        except TooLateError:
            self.counters.shed += 1
            self.counters.refused_late += 1
            raise
        self._accepted += 1
        task = asyncio.create_task(self._serve(request, generation, perf_counter()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ends the turn in progress; what is not done fails with `ModelUnavailableError`."""
        self._closed = True
        self._places.close()
        for taking in self._takes:
            taking.cancel()
        await self._engine.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._reading.shutdown()

    async def _serve(
        self, request: GenerationRequest, generation: Generation, began: float
    ) -> None:
        outcome: Completion | Exception | None
        try:
            outcome = await self._generate(request, generation, began)
        except Exception as error:
            outcome = self._as_model_error(error)
        finally:
            # Before anybody hears of the end and starts another one.
            self._accepted -= 1
        if generation.done() or outcome is None:
            self.counters.abandoned += 1
        elif isinstance(outcome, Completion):
            self.counters.generated += 1
            generation.set_result(outcome)
        else:
            self.counters.dropped_late += isinstance(outcome, TooLateError)
            generation.set_exception(outcome)

    def _as_model_error(self, error: Exception) -> ModelError:
        if isinstance(error, ModelError):
            return error
        # Its message might quote a text.
        _log.error("model %s: a generation failed (%s)", self.info.name, type(error).__name__)
        return ModelError(f"model {self.info.name} gave no answer ({type(error).__name__})")

    async def _generate(
        self, request: GenerationRequest, generation: Generation, began: float
    ) -> Completion | None:
        """The whole answer; None if it is not wanted any more."""
        loop = asyncio.get_running_loop()
        work = await loop.run_in_executor(self._reading, self._read, request, generation)
        place = await self._places.enter(work.n_bytes, generation)
        if place is None:
            return None
        queued_seconds = perf_counter() - began
        try:
            lease = await self._take(work)
            if lease is None:
                return None
            with lease:
                state = await self._state(work, place)
                completion = await self._answer(work, state, lease, queued_seconds)
            # What a failure leaves may not be numbers.
            if completion is not None and state.can_go_back:
                kept = work.request.keeps_prefix
                place.left = Left(state, work.tokens, work.keys) if kept else Left(state, (), ())
            return completion
        finally:
            self._places.leave(place)

    async def _state(self, work: _Work, place: Place) -> DecoderState:
        """A state that has read as much of the prompt as the one that was left, if there is one."""
        left, place.left = place.left, None
        if left is None:
            # On a GPU it is filled and copied.
            return await asyncio.to_thread(self._decoder.start, work.capacity)
        shared = 0
        if work.request.reads_prefix:
            shared = left.shared_tokens(work.tokens, work.keys, self._splits.block_tokens)
        left.state.length = self._splits.reusable_tokens(shared, len(work.tokens))
        return left.state

    def _read(self, request: GenerationRequest, generation: Generation) -> _Work:
        tokens = self._reader.read(request)
        size = self._splits.block_tokens
        keys = _keys(request.scope, tokens, self._splits.blocks(len(tokens)), size)
        wanted = len(tokens) + request.sampling.max_tokens
        n_bytes, there_are = self._state_bytes(wanted), self._prefixes.capacity_bytes
        if n_bytes > there_are:
            fits_alone = self._state_bytes(len(tokens) + 1) <= there_are
            raise InputRejectedError(
                f"a prompt of {len(tokens)} tokens and its answer take {n_bytes} bytes of memory,"
                f" and all generations together have {there_are};"
                f" {'ask for fewer tokens' if fits_alone else 'shorten the prompt'}, or have"
                " prefix.max_bytes raised"
            )
        return _Work(request, generation, tokens, keys, self._capacity(wanted), n_bytes)

    def _capacity(self, tokens: int) -> int:
        rounded = -(-tokens // _CAPACITY_STEP) * _CAPACITY_STEP
        return min(rounded, self.info.context_tokens)

    def _state_bytes(self, tokens: int) -> int:
        return self._decoder.state_bytes(self._capacity(tokens))

    async def _take(self, work: _Work) -> Lease | None:
        """What is kept of the prompt; None if the answer is not wanted any more."""
        if self._closed:
            raise closing_error()
        most = self._splits.reusable_blocks(len(work.tokens)) if work.request.reads_prefix else 0
        counters = self.counters
        compute_seconds = counters.prefill_seconds / max(1, counters.prefill_tokens)
        # A task of its own, to be cancelled: a tier below may let one wait.
        taking = asyncio.create_task(
            self._prefixes.take(
                work.keys[:most], self._layout, self._splits.block_tokens * compute_seconds
            )
        )
        self._takes.add(taking)
        taking.add_done_callback(self._takes.discard)
        work.generation.add_done_callback(lambda _: taking.cancel())
        await asyncio.wait({taking})
        if not taking.cancelled():
            return taking.result()
        if self._closed:
            raise closing_error()
        return None

    async def _answer(
        self, work: _Work, state: DecoderState, lease: Lease, queued_seconds: float
    ) -> Completion | None:
        size, blocks = self._splits.block_tokens, lease.blocks
        held = len(blocks)
        reused = {tier: count * size for tier, count in lease.reused.items()}
        if (more := state.length - held * size) < 0:
            state.length = 0
        else:
            # As much was read already, where it need not be copied.
            blocks = ()
            self._reused_in_place += more
            if more:
                reused["hot"] = reused.get("hot", 0) + more
        decoding = Decoding(
            self._decoder.pack,
            self._splits,
            self._reader.tokenizer,
            self.counters,
            name=self.info.name,
            prompt=work.tokens,
            state=state,
            blocks=blocks,
            sampling=work.request.sampling,
            generation=work.generation,
        )
        done = self._engine.run(decoding)
        try:
            await asyncio.wait((done, decoding.prefilled), return_when=asyncio.FIRST_COMPLETED)
            if work.request.keeps_prefix and decoding.prefilled.done():
                await self._keep(work, decoding)
            lease.release()
        finally:
            # What it works with must not be given back before.
            await asyncio.wait((done,))
            decoding.release()
        if not done.result():
            return None
        return Completion(
            pieces=tuple(decoding.pieces),
            finish_reason=decoding.finish_reason,
            prompt_tokens=len(work.tokens),
            completion_tokens=decoding.tokens,
            reused=reused,
            queued_seconds=queued_seconds,
            loading_seconds=lease.seconds + decoding.loading_seconds,
        )

    async def _keep(self, work: _Work, decoding: Decoding) -> None:
        """Keeps the prompt as far as there is room. A failure costs no more than that."""
        try:
            while copied := self._prefixes.lacking(work.keys, self._layout):
                # Beside the engine, which goes on: the copy takes as long as some tokens.
                blocks = await asyncio.to_thread(decoding.export, copied.start, copied.stop)
                if self._prefixes.keep(work.keys, copied.start, blocks) < len(copied):
                    return
        except Exception as error:  # its message might quote a text
            reason = type(error).__name__
            _log.warning("model %s: a prompt was not kept (%s)", self.info.name, reason)


def _keys(scope: PrefixScope, tokens: Sequence[int], count: int, size: int) -> list[bytes]:
    """The names of the first blocks of a prompt; each names all tokens up to its end."""
    data = np.array(tokens, "<i4")[: count * size].reshape(count, size)
    keys = [b""]
    for block in data:
        keys.append(scope.key(keys[-1], block.tobytes()))
    return keys[1:]
