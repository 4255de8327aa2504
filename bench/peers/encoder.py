"""A pack's encoder as a user of a library wraps it: tokenizers and ONNX Runtime, sorted batches.

The same for every peer that brings none of its own, so that a miss costs them the same.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

_BATCH = 8  # of texts sorted by length: the fastest on a CPU, see docs/benchmarks.md


class Encoder:
    """Vectors of a pack that pools by itself. ``computed`` counts its texts. Safe to share."""

    def __init__(self, pack: Path | str) -> None:
        folder = Path(pack)
        longest = json.loads((folder / "sentence_bert_config.json").read_bytes())["max_seq_length"]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(longest)
        self._tokenizer.no_padding()
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        self._lock = threading.Lock()
        self.computed = 0

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """The vectors of texts, in their order."""
        with self._lock:
            self.computed += len(texts)
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(texts)), key=lambda place: len(tokens[place]))
        vectors: list[list[float]] = [[]] * len(texts)
        for start in range(0, len(order), _BATCH):
            places = order[start : start + _BATCH]
            for place, vector in zip(places, self._run([tokens[p] for p in places]), strict=True):
                vectors[place] = vector
        return vectors

    def _run(self, batch: list[list[int]]) -> list[list[float]]:
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        vectors: list[list[float]] = self._session.run(["sentence_embedding"], inputs)[0].tolist()
        return vectors
