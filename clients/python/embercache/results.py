"""What ``embed`` returns, and how it is read from the sidecar's answers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from embercache._answers import joined
from embercache.errors import (
    InternalError,
    InvalidArgumentError,
    PartialFailureError,
    VersionMismatchError,
)
from embercache.v1 import common_pb2, embed_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from embercache._answers import Answer
    from embercache.errors import BulkResult, EmbercacheError
    from embercache.types import EmbedInput, OnError, Tier

    EmbedAnswer: TypeAlias = Answer[embed_pb2.EmbedResponse, embed_pb2.Embedding]

_Result = TypeVar("_Result", bound="BulkResult")

_TIERS: Mapping[int, Tier] = {
    common_pb2.TIER_HOT: "hot",
    common_pb2.TIER_DISK: "disk",
    common_pb2.TIER_WARM: "warm",
    common_pb2.TIER_COMPUTED: "computed",
    common_pb2.TIER_COALESCED: "coalesced",
}
_DTYPES: Mapping[int, np.dtype[np.generic]] = {
    embed_pb2.ENCODING_UNSPECIFIED: np.dtype("<f4"),
    embed_pb2.ENCODING_FLOAT32: np.dtype("<f4"),
    embed_pb2.ENCODING_FLOAT16: np.dtype("<f2"),
    embed_pb2.ENCODING_INT8: np.dtype("i1"),
}


@dataclass(frozen=True, eq=False, repr=False)
class EmbedResult:
    """The vectors of n inputs and what is known of each, in the order of the inputs.

    - ``inputs``: the inputs themselves;
    - ``raw``: array [n, dimensions] as it travelled: float32, float16 or int8;
    - ``scales``: float32 [n] for int8, where ``vectors = raw * scales[:, None]``; else ``None``;
    - ``tiers``: what answered each input;
    - ``ages``: seconds since each vector was computed;
    - ``tokens``: how many tokens of each text the model read;
    - ``truncated``: whether the model did not read the whole text;
    - ``errors``: the inputs that have no vector, by their place, and why;
    - ``model``, ``model_version``: what made the vectors; the version is empty if there is none.

    ``numpy.asarray(result)`` is the same as ``result.vectors``.
    """

    inputs: Sequence[EmbedInput]
    raw: NDArray[np.generic]
    scales: NDArray[np.float32] | None
    tiers: Sequence[Tier]
    ages: Sequence[float]
    tokens: Sequence[int]
    truncated: Sequence[bool]
    errors: Mapping[int, EmbercacheError]
    model: str
    model_version: str

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Array [n, dimensions], float32. The row of an input that failed is NaN."""
        vectors = self.raw.astype(np.float32, copy=False)
        return vectors if self.scales is None else vectors * self.scales[:, None]

    @property
    def dimensions(self) -> int:
        """Elements of every vector."""
        return int(self.raw.shape[1])

    def __len__(self) -> int:
        return len(self.inputs)

    def __array__(
        self, dtype: DTypeLike | None = None, copy: bool | None = None
    ) -> NDArray[np.generic]:
        vectors = self.vectors
        if dtype is not None and np.dtype(dtype) != vectors.dtype:
            if copy is False:
                raise ValueError(f"vectors are float32; {np.dtype(dtype)} needs a copy")
            return vectors.astype(dtype)
        return vectors.copy() if copy else vectors

    def __repr__(self) -> str:
        tiers = dict(Counter(self.tiers))
        return (
            f"EmbedResult({len(self)} x {self.dimensions}, {self.model!r}, tiers={tiers}, "
            f"errors={len(self.errors)})"
        )


def decode(inputs: Sequence[EmbedInput], answers: Sequence[EmbedAnswer]) -> EmbedResult:
    """Joins the answers for all the inputs, in their order.

    Raises `VersionMismatchError` if the vectors come from more than one version of the model,
    `InternalError` if they are not what the answers say they are.
    """
    items, errors = joined(answers)
    version = one_version([item.model_version for i, item in enumerate(items) if i not in errors])
    raw, scales = _matrix(items, list(errors), _layout(answers))
    return EmbedResult(
        inputs=inputs,
        raw=raw,
        scales=scales,
        tiers=[tier(item.tier) for item in items],
        ages=[item.age_ms / 1000 for item in items],
        tokens=[item.tokens for item in items],
        truncated=[item.truncated for item in items],
        errors=errors,
        model=answers[0].response.model,
        model_version=version,
    )


def tier(value: int) -> Tier:
    """The name of a tier; a newer sidecar may know tiers that this client does not."""
    return _TIERS.get(value, "unspecified")


def finish(result: _Result, on_error: OnError) -> _Result:
    """The result, unless it has errors that the caller wants raised."""
    if on_error not in ("raise", "return"):
        raise InvalidArgumentError(f"on_error is {on_error!r}; it must be one of raise, return")
    if result.errors and on_error == "raise":
        raise PartialFailureError(result) from next(iter(result.errors.values()))
    return result


def one_version(versions: Sequence[str]) -> str:
    """The version that they all are; empty if there are none."""
    first = versions[0] if versions else ""
    if versions.count(first) != len(versions):
        other = next(version for version in versions if version != first)
        raise VersionMismatchError(
            f"the model changed from version {first} to {other} while the call ran, and their "
            "vectors must not be mixed; repeat the call"
        )
    return first


def _layout(answers: Sequence[EmbedAnswer]) -> tuple[int, int]:
    """Encoding and dimensions of all the vectors; 0 dimensions if there are none."""
    layouts = {(each.encoding, each.dimensions) for answer in answers for each in answer.useful}
    if not layouts:
        return embed_pb2.ENCODING_FLOAT32, 0
    encoding, dimensions = layouts.pop()
    if layouts or encoding not in _DTYPES or not dimensions:
        raise InternalError("the sidecar sent vectors of layouts that do not fit together")
    return encoding, dimensions


def _matrix(
    items: Sequence[embed_pb2.Embedding], failed: Sequence[int], layout: tuple[int, int]
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """The vectors as one writable array, copied once, and their scales; the failed are NaN."""
    encoding, dimensions = layout
    dtype = _DTYPES[encoding]
    width = dimensions * dtype.itemsize
    rows = [item.vector for item in items]
    for i in failed:
        rows[i] = bytes(width)
    if any(len(row) != width for row in rows):
        raise InternalError(f"the sidecar sent a vector that has not {dimensions} dimensions")
    raw = np.frombuffer(bytearray().join(rows), dtype).reshape(len(rows), dimensions)
    if encoding == embed_pb2.ENCODING_INT8:
        scales = np.array([item.scale for item in items], np.float32)
        scales[failed] = np.nan
        return raw, scales
    if failed:
        raw[failed] = np.nan
    return raw, None
