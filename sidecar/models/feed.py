"""Tokens of many texts as the arrays that a graph reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sidecar.models.graph import TensorSpec
    from sidecar.models.tokenise import Tokens


def tokens_feed(
    inputs: Sequence[TensorSpec], pad_id: int, texts: Sequence[Tokens]
) -> dict[str, NDArray[Any]]:
    """Returns ``[len(texts), longest]`` for each input, padded at the end, in its own type."""
    lengths = np.array([len(text.ids) for text in texts])
    # A tokeniser without special tokens makes no tokens of an empty text.
    shape = (len(texts), max(1, int(lengths.max())))
    ids, types = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    for row, type_row, text in zip(ids, types, texts, strict=True):
        row[: len(text.ids)] = text.ids
        type_row[: len(text.type_ids)] = text.type_ids
    mask = np.arange(shape[1]) < lengths[:, None]
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return {spec.name: arrays[spec.name].astype(spec.dtype) for spec in inputs}
