"""A model for Triton: the same vector for every text, but for how many it has made.

So who asks twice sees whether the second answer was cached.
"""

import numpy as np
import triton_python_backend_utils as pb_utils

DIMENSIONS = 384


class TritonPythonModel:
    """What Triton looks for."""

    def __init__(self) -> None:
        self._made = 0

    def execute(self, requests: list[object]) -> list[object]:
        """Answers each of the requests."""
        return [self._answer() for _ in requests]

    def _answer(self) -> object:
        self._made += 1
        vector = np.full(DIMENSIONS, self._made, np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("vector", vector)])
