"""The texts that all peers are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Texts:
    """Texts that are each given once; all long enough to tell the two models apart."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = iter([text for text in texts if len(text.split()) > 24])

    def take(self, count: int) -> list[str]:
        """The next; raises `RuntimeError` at the end."""
        taken = [text for text, _ in zip(self._texts, range(count), strict=False)]
        if len(taken) < count:
            raise RuntimeError("there are too few texts")
        return taken
