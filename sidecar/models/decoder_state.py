"""The keys and values of one text, which a decoder reads on."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.models.half import narrow, widen
from sidecar.models.session import new_value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    import onnxruntime as ort  # type: ignore[import-untyped]

    from sidecar.models.decoder_pack import DecoderPack

Block: TypeAlias = NDArray[Any]
"""Keys and values of consecutive tokens: float16 or float32 ``[2 * layers, heads, tokens, size]``,
key and value of each layer in turn."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """What all texts of a decoder have in common.

    ``copiers`` are two threads for `DecoderState.load`; without them, the caller's is the only one.
    """

    session: ort.InferenceSession
    pack: DecoderPack
    device: str
    copiers: Executor | None


class DecoderState(ABC):
    """The tokens of one text that a decoder has read: ``length`` of them.

    With a smaller ``length``, those behind it are forgotten; only where ``can_go_back``.

    For one thread at a time; but what was read before may be exported while more is read.
    """

    can_go_back = False

    def __init__(self, model: LoadedModel) -> None:
        self.length = 0
        self._session = model.session
        self._pack = model.pack
        self._device = model.device
        self._copiers = model.copiers

    def run(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Reads these tokens; returns the logits behind the last of them: ``[vocabulary]``.

        They may be NaN or infinite. Raises whatever ONNX Runtime raises.
        """
        logits = self._run(self._feed(tokens))
        self.length += len(tokens)
        last: NDArray[np.float32] = logits[0, -1].astype(np.float32)
        return last

    def load(self, blocks: Sequence[Block]) -> None:
        """Takes the keys and values of the first tokens as if they had been read.

        Only where nothing was read yet.
        """
        places = np.cumsum([0, *(block.shape[2] for block in blocks)])
        first = self._first(int(places[-1]))

        def copy(layers: slice) -> None:
            for block, start, end in zip(blocks, places, places[1:], strict=False):
                part = first[layers, :, start:end]
                if block.dtype == np.float16 and part.dtype == np.float32:
                    widen(block[layers], part)
                else:
                    part[:] = block[layers]

        # The first token waits for this, and one thread does not use all the bandwidth of memory.
        half = len(first) // 2
        apply = self._copiers.map if self._copiers else map
        list(apply(copy, (slice(half), slice(half, None))))
        self._loaded(first)
        self.length = int(places[-1])

    def export(self, start: int, stop: int, tokens: int) -> list[Block]:
        """Copies of the keys and values between two places, in blocks of so many tokens.

        In float16 where that is exact. May be called from any thread.
        """
        layers = self._layers()
        blocks = []
        scratch = None
        for place in range(start, stop, tokens):
            parts = [layer[:, place : place + tokens] for layer in layers]
            block = np.stack(parts, out=scratch)
            narrowed = narrow(block) if block.dtype == np.float32 else block
            scratch = None if narrowed is block else block
            blocks.append(narrowed)
        return blocks

    def _feed(self, tokens: Sequence[int]) -> dict[str, NDArray[Any]]:
        start, end = self.length, self.length + len(tokens)
        values = {
            "input_ids": np.array([tokens]),
            "attention_mask": np.ones((1, end)),
            "position_ids": np.arange(start, end)[None],
            "use_cache_branch": np.array([start > 0]),
        }
        return {
            spec.name: values[spec.name].astype(spec.dtype)
            for spec in self._pack.inputs
            if spec.name in values
        }

    @abstractmethod
    def _run(self, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """Runs the graph and returns its logits: ``[1, 1 or more, vocabulary]``."""

    @abstractmethod
    def _first(self, tokens: int) -> NDArray[Any]:
        """Where to write the keys and values of the first tokens: a `Block` or more."""

    @abstractmethod
    def _loaded(self, first: NDArray[Any]) -> None:
        """Takes what was written."""

    @abstractmethod
    def _layers(self) -> Sequence[NDArray[Any]]:
        """Keys and values in this process's memory: key and value ``[heads, tokens, size]``."""


class InPlaceState(DecoderState):
    """One buffer for up to ``capacity`` tokens, into which the graph writes where it reads.

    What lies behind ``length`` is not read, and written over. On a CPU the buffer is in this
    process's memory, where loading and exporting are plain copies.
    """

    can_go_back = True

    def __init__(self, model: LoadedModel, capacity: int) -> None:
        super().__init__(model)
        kv = model.pack.kv
        self._shape = (len(kv.past), kv.heads, capacity, kv.head_size)
        buffer = self._zeros()
        self._buffer = buffer if model.device == "cpu" else None
        self._value = new_value(buffer, model.device)
        self._binding = model.session.io_binding()
        self._binding.bind_output("logits", "cpu")  # the first, so that it is found
        for index, names in enumerate(zip(kv.past, kv.present, strict=True)):
            address = self._value.data_ptr() + index * buffer[0].nbytes
            part = (model.device, 0, kv.dtype, (1, *self._shape[1:]), address)
            self._binding.bind_input(names[0], *part)
            self._binding.bind_output(names[1], *part)

    def _run(self, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        for name, array in feed.items():
            self._binding.bind_cpu_input(name, array)
        self._session.run_with_iobinding(self._binding)
        logits: NDArray[Any] = self._binding.get_outputs_as_ortvaluevector()[0].numpy()
        return logits

    def _first(self, tokens: int) -> NDArray[Any]:
        return self._zeros() if self._buffer is None else self._buffer

    def _loaded(self, first: NDArray[Any]) -> None:
        if self._buffer is None:
            self._value.update_inplace(first)

    def _layers(self) -> Sequence[NDArray[Any]]:
        return list(self._value.numpy() if self._buffer is None else self._buffer)

    def _zeros(self) -> NDArray[Any]:
        # On a CPU, memory that is touched first is zero anyway. Another number might be NaN, and
        # kernels multiply what they leave out by 0.
        return np.zeros(self._shape, self._pack.kv.dtype)


class TwoBufferState(DecoderState):
    """Two buffers for up to ``capacity`` tokens: a graph reads from one and writes to the other.

    For graphs that write all keys and values anew in each run, on a CPU. ONNX Runtime would
    allocate them from memory that it never gives back.
    """

    def __init__(self, model: LoadedModel, capacity: int) -> None:
        super().__init__(model)
        kv = model.pack.kv
        shape = (len(kv.past), kv.heads * capacity * kv.head_size)
        self._read, self._written = np.empty(shape, kv.dtype), np.empty(shape, kv.dtype)
        # The buffer that was exported last: somebody may still be copying it.
        self._exported: NDArray[Any] | None = None
        self._lock = threading.Lock()
        self._kept = self._first(0)

    def _run(self, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        kv = self._pack.kv
        with self._lock:
            if self._written is self._exported:
                self._written, self._exported = np.empty_like(self._exported), None
        past = self._kept
        present = self._view(self._written, past.shape[2] + feed["input_ids"].shape[1])
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for name, layer in zip(kv.past, past, strict=True):
            binding.bind_ortvalue_input(name, new_value(layer[None], "cpu"))
        binding.bind_output("logits", "cpu")
        for name, layer in zip(kv.present, present, strict=True):
            binding.bind_ortvalue_output(name, new_value(layer[None], "cpu"))
        self._session.run_with_iobinding(binding)
        logits: NDArray[Any] = binding.get_outputs_as_ortvaluevector()[0].numpy()
        with self._lock:
            self._read, self._written, self._kept = self._written, self._read, present
        return logits

    def _view(self, buffer: NDArray[Any], tokens: int) -> NDArray[Any]:
        """The part for so many tokens: all of a layer's lie together."""
        kv = self._pack.kv
        part = buffer[:, : kv.heads * tokens * kv.head_size]
        return part.reshape(len(kv.past), kv.heads, tokens, kv.head_size)

    def _first(self, tokens: int) -> NDArray[Any]:
        return self._view(self._read, tokens)

    def _loaded(self, first: NDArray[Any]) -> None:
        self._kept = first

    def _layers(self) -> Sequence[NDArray[Any]]:
        with self._lock:
            self._exported = self._read
            return list(self._kept)


class GrowingState(DecoderState):
    """What a graph made in a run, on a GPU, is what it is given in the next one."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self._past: Sequence[ort.OrtValue] = ()
        self._loaded(self._first(0))

    def _run(self, feed: dict[str, NDArray[Any]]) -> NDArray[Any]:
        kv = self._pack.kv
        binding = self._session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(kv.past, self._past, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_output("logits", "cpu")
        for name in kv.present:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding)
        logits, *self._past = binding.get_outputs()
        result: NDArray[Any] = logits.numpy()
        return result

    def _first(self, tokens: int) -> NDArray[Any]:
        kv = self._pack.kv
        return np.empty((len(kv.past), kv.heads, tokens, kv.head_size), kv.dtype)

    def _loaded(self, first: NDArray[Any]) -> None:
        self._past = [new_value(layer[None], self._device) for layer in first]

    def _layers(self) -> Sequence[NDArray[Any]]:
        return [value.numpy()[0] for value in self._past]
