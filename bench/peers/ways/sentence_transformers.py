"""sentence-transformers on PyTorch, without any cache."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from sentence_transformers import SentenceTransformer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "sentence-transformers"


class Opened:
    """The model from its folder."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._model = SentenceTransformer(settings["weights"], device="cpu")
        self._texts = 0

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        self._texts += len(texts)
        vectors: Sequence[Sequence[float]] = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    def computed(self) -> int:
        """All that were asked for."""
        return self._texts
