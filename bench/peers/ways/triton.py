"""Triton's response cache, asked with its own client: whole requests are its entries."""

from __future__ import annotations

import json
import threading
import urllib.request
from typing import TYPE_CHECKING

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "nvidia-pytriton"


class Opened:
    """A client a thread, as its page advises."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._count = settings["computed"]
        self._address = settings["address"]
        self._own = threading.local()

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        tensor = InferInput("text", [len(texts)], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode() for text in texts], np.object_))
        answer = self._client().infer("embed", [tensor])
        vectors: Sequence[Sequence[float]] = answer.as_numpy("vector")
        return vectors

    def computed(self) -> int:
        """Texts that the model server behind it has computed."""
        with urllib.request.urlopen(self._count) as answer:  # noqa: S310 - ours
            return int(json.load(answer))

    def _client(self) -> InferenceServerClient:
        if not hasattr(self._own, "client"):
            self._own.client = InferenceServerClient(self._address)
        client: InferenceServerClient = self._own.client
        return client
