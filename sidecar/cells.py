"""Numbers that guard what the front door's threads say: each moves when that may have changed."""

from __future__ import annotations

try:
    from embercache_native import Cell as Cell
except ImportError:

    class Cell:  # type: ignore[no-redef]
        """Does the same where no thread but the interpreter's reads it."""

        __slots__ = ("value",)

        def __init__(self, value: int = 0) -> None:
            self.value = value


models = Cell()
"""What the models of this process say of themselves, all of them together."""


def model_changed() -> None:
    """Takes note that a model has another ``info`` from now on."""
    models.value += 1
