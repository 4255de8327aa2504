"""Reads the answer to a call of ``/embeddings``, and believes none of it."""

from __future__ import annotations

import base64
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.models.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.models.types import Vector

_CHARACTERS_A_TOKEN = 4
_MOST_TOKENS = 2**31 - 1


def read_vectors(answer: Any, count: int) -> list[Vector | ModelError]:
    """The vectors of ``count`` inputs in their order, or what is wrong with each.

    A vector is finite and has one dimension, of any length. Raises `ModelError` if it cannot be
    told which vector belongs to which input.
    """
    items = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise ModelError("the service's answer has no list of vectors")
    if len(items) != count:
        raise ModelError(f"the service answered {count} inputs with {len(items)} vectors")
    results: list[Vector | ModelError | None] = [None] * count
    for item in items:
        place = item.get("index") if isinstance(item, dict) else None
        # True is an integer too.
        if type(place) is int and 0 <= place < count:
            is_first = results[place] is None
            results[place] = (
                _vector(item.get("embedding"))
                if is_first
                else ModelError("the service answered with two vectors for this input")
            )
    missing = ModelError("the service answered without a vector for this input")
    return [missing if result is None else result for result in results]


def _vector(value: object) -> Vector | ModelError:
    """A vector from base64 of little-endian float32, or from numbers: not all know base64."""
    try:
        if isinstance(value, str):
            vector = np.frombuffer(base64.b64decode(value, validate=True), dtype="<f4")
        else:
            with np.errstate(over="ignore"):
                vector = np.asarray(value, dtype=np.float32)
    except (ValueError, TypeError, OverflowError):
        return ModelError("the service answered with a vector that is none")
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        return ModelError("the service answered with a vector that is none")
    return vector


def share_tokens(answer: Any, texts: Sequence[str]) -> list[int]:
    """How many tokens of the call each text had, by its length; an estimate without a count."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    total = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    if type(total) is not int or not 0 <= total <= _MOST_TOKENS:
        return [len(text) // _CHARACTERS_A_TOKEN + 1 for text in texts]
    lengths = list(accumulate(len(text) + 1 for text in texts))
    ends = [total * length // lengths[-1] for length in lengths]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]
