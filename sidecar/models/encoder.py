"""Runs a pack on batches: arrays in, pooled and normalised vectors out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.models.errors import SetupError
from sidecar.models.feed import tokens_feed
from sidecar.models.session import Provider, open_session
from sidecar.models.tokenise import Tokens
from sidecar.models.types import InputRejectedError, ModelError, TokenVectors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.models.pack import Pack, PoolingMode

Encodable: TypeAlias = Tokens | NDArray[Any]
"""What a graph reads: the tokens of a text, or a tensor without batch dimension."""
MAX_DIMENSIONS = 65_536
"""Of a vector; those of published models have up to 8,192."""


class Encoder:
    """One ONNX Runtime session for one pack, for one run at a time.

    ``device`` is "cpu" or "cuda", ``dimensions`` the length of a vector.
    """

    def __init__(self, pack: Pack, provider: Provider = "auto", threads: int | None = None) -> None:
        """Loads the model and runs it once; raises `SetupError` if that fails."""
        self._pack = pack
        self._session, self.device = open_session(pack.path, provider, threads)
        self.dimensions = self._warm_up()

    @property
    def gives_token_vectors(self) -> bool:
        """Whether `run_tokens` can be used."""
        return self._pack.states is not None

    def refusal(self, tensor: NDArray[Any]) -> InputRejectedError | None:
        """Why the model does not take such a tensor; None if it does."""
        spec = self._pack.inputs[0]
        sizes = spec.shape[1:]
        fits = len(sizes) == tensor.ndim and all(
            got > 0 and want in (None, got) for got, want in zip(tensor.shape, sizes, strict=True)
        )
        if fits and tensor.dtype == spec.dtype:
            return None
        shape = ", ".join("any" if size is None else str(size) for size in sizes)
        return InputRejectedError(
            f"this model takes {spec.dtype} tensors of shape [{shape}],"
            f" not {tensor.dtype} of {list(tensor.shape)}"
        )

    def run(self, batch: Sequence[Encodable]) -> NDArray[np.float32]:
        """Returns float32 ``[len(batch), dimensions]``; rows may hold NaN or infinity.

        Tensors of one batch are of one shape. Raises `ModelError` if the model answers with
        another shape, and whatever ONNX Runtime raises if the run fails.
        """
        vectors = self._vectors(batch)
        if vectors.shape != (len(batch), self.dimensions):
            raise ModelError(
                f"the model answered {len(batch)} inputs with shape {list(vectors.shape)},"
                f" not [{len(batch)}, {self.dimensions}]"
            )
        return vectors

    def run_tokens(self, batch: Sequence[Tokens]) -> list[TokenVectors]:
        """Returns the last hidden states of each text: ``[tokens, dimensions]``, of unit length.

        Tokens that the tokeniser added are left out, unless there are no others. Only for a model
        that `gives_token_vectors`. Rows may hold NaN or infinity; errors are those of `run`.
        """
        assert self._pack.states is not None  # noqa: S101 - see above
        feed = self._tokens_feed(batch)
        (states,) = self._session.run([self._pack.states.name], feed)
        if states.ndim != 3 or states.shape[:2] != feed["input_ids"].shape:
            raise ModelError(
                f"the model answered {list(feed['input_ids'].shape)} tokens with states of shape"
                f" {list(states.shape)}"
            )
        with np.errstate(all="ignore"):  # NaN and infinity are the caller's to find
            return [
                _normalise(row[_content(text)].astype(np.float32, copy=False))
                for row, text in zip(states, batch, strict=True)
            ]

    def _vectors(self, batch: Sequence[Encodable]) -> NDArray[np.float32]:
        texts = [item for item in batch if isinstance(item, Tokens)]
        lengths = np.array([len(text.ids) for text in texts])
        feed = self._tokens_feed(texts) if texts else self._tensors_feed(batch)
        (states,) = self._session.run([self._pack.output.name], feed)
        with np.errstate(all="ignore"):  # NaN and infinity are the caller's to find
            vectors = _pool(self._pack.pooling, states.astype(np.float32, copy=False), lengths)
            return _normalise(vectors) if self._pack.normalise else vectors

    def _tokens_feed(self, texts: Sequence[Tokens]) -> dict[str, NDArray[Any]]:
        pad_id = self._pack.text.pad_id if self._pack.text else 0
        return tokens_feed(self._pack.inputs, pad_id, texts)

    def _tensors_feed(self, batch: Sequence[Encodable]) -> dict[str, NDArray[Any]]:
        return {self._pack.inputs[0].name: np.stack([np.asarray(item) for item in batch])}

    def _warm_up(self) -> int:
        """Runs the model once, and returns the length of its vectors."""
        spec, width = self._pack.inputs[0], self._pack.output.shape[-1]
        probe: Encodable
        if self._pack.text:
            probe = Tokens([self._pack.text.pad_id] * 2, truncated=False)
        elif None not in spec.shape[1:]:
            probe = np.zeros([size or 0 for size in spec.shape[1:]], spec.dtype)
        elif width is not None:
            return width  # no telling which sizes this model of tensors can run on
        else:
            raise SetupError(f"{self._pack.path}: export it with a fixed size of its output")
        try:
            vectors = self._vectors([probe])
        except Exception as error:
            raise SetupError(f"{self._pack.path}: its first run failed ({error})") from error
        if vectors.ndim != 2 or len(vectors) != 1 or vectors.shape[1] > MAX_DIMENSIONS:
            raise SetupError(
                f"{self._pack.path}: one input gave shape {list(vectors.shape)}; a vector of at"
                f" most {MAX_DIMENSIONS} dimensions is needed"
            )
        return int(vectors.shape[1])


def _pool(
    mode: PoolingMode, states: NDArray[np.float32], lengths: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Makes ``[batch, dimensions]`` of ``[batch, sequence, dimensions]``."""
    if mode == "graph":
        return states
    if mode == "cls":
        return states[:, 0]
    if mode == "last":
        last: NDArray[np.float32] = states[np.arange(len(lengths)), np.maximum(lengths, 1) - 1]
        return last
    mask = (np.arange(states.shape[1]) < lengths[:, None]).astype(np.float32)
    total: NDArray[np.float32] = np.einsum("bsd,bs->bd", states, mask)
    return np.divide(total, np.maximum(lengths, 1)[:, None], dtype=np.float32)


def _content(text: Tokens) -> NDArray[np.intp]:
    """The places of a text's own tokens; those of all if it has none."""
    special = np.zeros(len(text.ids), bool)
    special[: len(text.special)] = text.special
    return np.flatnonzero(special.all() | ~special)


def _normalise(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(vectors, np.maximum(length, 1e-12), dtype=np.float32)
    return unit
