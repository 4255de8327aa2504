"""Runs a pack that generates: tokens in, logits out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from sidecar.models.decoder_state import (
    DecoderState,
    GrowingState,
    InPlaceState,
    LoadedModel,
    TwoBufferState,
)
from sidecar.models.errors import SetupError
from sidecar.models.heap import give_back_freed_memory
from sidecar.models.session import Provider, open_session

if TYPE_CHECKING:
    from sidecar.models.decoder_pack import DecoderPack

# What is read at once and in parts at the start. More than a kernel has in one piece of its work.
_PROBE_TOKENS = 288
# The last is short: where logits depend on all tokens of their run, as those of matrices of 8 bits
# do, they now depend on few.
_PROBE_PARTS = (53, 16, 2)


class Decoder:
    """One ONNX Runtime session for one pack, for one run at a time.

    ``device`` is "cpu" or "cuda". ``splits_freely``: logits, keys and values come out the same, bit
    for bit, however a text is cut into runs of 2 tokens or more. (A single token mostly has a
    kernel of its own, which rounds in another way.) That is a property of the kernels, so it is
    tried out.
    """

    def __init__(
        self, pack: DecoderPack, provider: Provider = "auto", threads: int | None = None
    ) -> None:
        """Loads the model and tries it out; raises `SetupError` if that fails."""
        give_back_freed_memory()
        self.pack = pack
        session, device = open_session(pack.path, provider, threads)
        self.device: str = device
        is_one_thread = session.get_session_options().intra_op_num_threads == 1
        copiers = None if is_one_thread else ThreadPoolExecutor(2, "copy")
        self._model = LoadedModel(session, pack, device, copiers)
        try:
            self.splits_freely = self._splits_freely()
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise SetupError(f"{pack.path}: its first run failed ({error})") from error

    def start(self, capacity: int) -> DecoderState:
        """A text of which nothing is read yet, and which has up to ``capacity`` tokens."""
        if self.pack.kv.is_in_place:
            return InPlaceState(self._model, capacity)
        if self.device == "cpu":
            return TwoBufferState(self._model, capacity)
        return GrowingState(self._model)

    def state_bytes(self, capacity: int) -> int:
        """The memory that such a text takes."""
        # Where they are not written in place, there are old and new ones during a run.
        copies = 1 if self.pack.kv.is_in_place else 2
        return capacity * self.pack.kv.token_bytes * copies

    def _splits_freely(self) -> bool:
        count = min(_PROBE_TOKENS, self.pack.context_tokens)
        tokens = [(7919 * place) % self.pack.vocabulary for place in range(count)]
        whole, parted = self.start(count), self.start(count)
        logits = whole.run(tokens)
        if logits.shape != (self.pack.vocabulary,):
            raise SetupError(f"logits of shape {logits.shape}, not ({self.pack.vocabulary},)")
        if count < 2 * sum(_PROBE_PARTS):
            return False
        for size in (count - sum(_PROBE_PARTS), *_PROBE_PARTS):
            again = parted.run(tokens[parted.length : parted.length + size])
        (expected,), (blocks,) = (state.export(0, count, count) for state in (whole, parted))
        return np.array_equal(logits, again) and np.array_equal(expected, blocks)
