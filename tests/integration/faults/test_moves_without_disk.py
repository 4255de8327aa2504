"""Moves of models that the disk does not take are obeyed all the same, and that is told once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from sidecar.cache.generations import Generations
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.model_moves import LocalMoves, Move, Moves
from sidecar.models.router import ModelRouter
from sidecar.models.types import RerankerInfo
from sidecar.services.model_moves import ModelMoves

if TYPE_CHECKING:
    from pathlib import Path


class Index:
    """One without documents."""

    identity = "an index"

    async def collections(self) -> list[Any]:
        return []


class Model:
    """One of a name."""

    def __init__(self, name: str) -> None:
        self.info = RerankerInfo(name, "1", "here")


async def test_a_disk_that_takes_no_moves_is_told_of_once_and_tried_again(tmp_path: Path) -> None:
    fleet = LocalMoves(None)
    await fleet.load()
    await fleet.save(Moves(1, {"a": Move("b", {})}))
    one, other = Model("a"), Model("b")
    router: Any = ModelRouter({"a": one, "b": other})  # type: ignore[dict-item]
    (tmp_path / "folder").write_text("a file in the way")
    file = tmp_path / "folder" / "models.json"
    generations = Generations(LocalGenerations(None))
    index: Any = Index()
    moves = ModelMoves(router, fleet, generations, index, LocalMoves(file))
    with structlog.testing.capture_logs() as logs:
        await moves.start()
        for _ in range(3):
            await moves.refresh()
        assert router.resolve("a") is other
        (tmp_path / "folder").unlink()
        await moves.refresh()
    told = [log["event"] for log in logs if "kept" in log["event"]]
    assert told == ["moves of models are not kept", "moves of models are kept again"]
    assert (await LocalMoves(file).load()).moves == {"a": Move("b", {})}
