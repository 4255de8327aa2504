"""fastembed, Qdrant's library on ONNX Runtime, with the pack as a model of one's own; no cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "fastembed"
_NAME, _DIMENSIONS = "embercache/minilm", 384


class Opened:
    """The model from its folder."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        TextEmbedding.add_custom_model(
            model=_NAME,
            pooling=PoolingType.MEAN,
            normalization=True,
            sources=ModelSource(hf=_NAME),
            dim=_DIMENSIONS,
            model_file="model.onnx",
        )
        self._model = TextEmbedding(_NAME, specific_model_path=settings["pack"])
        self._texts = 0

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        self._texts += len(texts)
        return list(self._model.embed(list(texts)))

    def computed(self) -> int:
        """All that were asked for."""
        return self._texts
