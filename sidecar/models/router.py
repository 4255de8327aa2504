"""Which model a name means: its own, or another one that it was moved to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.models.types import Embedder


class ModelRouter:
    """The models of this sidecar by the names that callers use. Iterates over the models.

    ``moved`` has, for each name that means another model, the name of that model. A move goes one
    step: what the other name was moved to does not matter. The first model is also meant by the
    empty name. Raises `ValueError` if there is no model.
    """

    def __init__(self, models: Mapping[str, Embedder]) -> None:
        if not models:
            raise ValueError("there is no model")
        self._models = dict(models)
        self.moved: Mapping[str, str] = {}
        self._meant: dict[str, Embedder] = {}
        self.set_moved({})

    def __iter__(self) -> Iterator[Embedder]:
        return iter(self._models.values())

    def names(self) -> list[str]:
        """The names of the models, the first of them the default."""
        return list(self._models)

    def resolve(self, name: str) -> Embedder | None:
        """The model that a name means now; None for a name that is unknown."""
        return self._meant.get(name)

    def own(self, name: str) -> Embedder | None:
        """The model that has the name, whatever the name means now."""
        return self._models.get(name)

    def set_moved(self, moved: Mapping[str, str]) -> None:
        """Lets names mean other models, and all others their own. Raises `KeyError` for a model
        that is not here.
        """
        meant = self._models | {name: self._models[other] for name, other in moved.items()}
        first = next(iter(self._models))
        self._meant = meant | {"": meant[first]}
        self.moved = dict(moved)
