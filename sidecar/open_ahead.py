"""Opens what works ahead of calls: warming, its schedule, and migrations of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.lease import Leases
from sidecar.cache.model_moves import LocalMoves, RedisMoves
from sidecar.cache.sealed_moves import SealedMoves
from sidecar.open_tiers import keep_running
from sidecar.services.model_migration import ModelMigration
from sidecar.services.model_moves import ModelMoves
from sidecar.services.move_completion import SETTLE_SECONDS, MoveCompletion
from sidecar.services.warming_schedule import WarmingSchedule, Window

if TYPE_CHECKING:
    import contextlib

    from sidecar.cache.popular import PopularQueries
    from sidecar.config import Settings
    from sidecar.index.types import Index
    from sidecar.models.router import ModelRouter
    from sidecar.open_tiers import Tiers
    from sidecar.services.document_copy import DocumentStore
    from sidecar.services.warming import Warmer


async def open_migration(
    settings: Settings,
    models: ModelRouter,
    tiers: Tiers,
    index: Index,
    documents: DocumentStore,
    warmer: Warmer,
    popular: PopularQueries | None,
    exits: contextlib.AsyncExitStack,
) -> ModelMigration:
    """What moves names to other models; those that were moved before have moved already."""
    folder = settings.disk.folder
    seal = tiers.seals.of("disk", "moves")
    local = LocalMoves(folder / "models.json" if folder is not None else None, seal=seal)
    shared = _shared_moves(settings, tiers)
    moves = ModelMoves(
        models, shared or local, tiers.generations, index, local if shared is not None else None
    )
    await moves.start()
    keep_running(moves.run(), exits)
    leases = Leases(tiers.warm, settings.cache.prefix)
    completion = MoveCompletion(
        router=models,
        moves=moves,
        index=index,
        documents=documents,
        leases=leases,
        settle_seconds=SETTLE_SECONDS if tiers.warm is not None else 0,
    )
    keep_running(completion.run(), exits)
    return ModelMigration(
        router=models,
        moves=moves,
        index=index,
        documents=documents,
        warmer=warmer,
        popular=popular,
        leases=leases,
        completion=completion,
    )


def _shared_moves(settings: Settings, tiers: Tiers) -> RedisMoves | SealedMoves | None:
    if tiers.warm is None:
        return None
    if tiers.seals.are_on:
        return SealedMoves(tiers.warm, settings.cache.prefix, tiers.seals.of("warm", "moves"))
    return RedisMoves(tiers.warm, settings.cache.prefix)


def schedule_warming(
    settings: Settings,
    tiers: Tiers,
    warmer: Warmer,
    popular: PopularQueries | None,
    exits: contextlib.AsyncExitStack,
) -> None:
    """Has popular queries warmed every day, if that is set."""
    chosen = settings.warming
    if not chosen.window or popular is None:
        return
    schedule = WarmingSchedule(
        Window.parse(chosen.window),
        warmer,
        popular,
        Leases(tiers.warm, settings.cache.prefix),
        queries=chosen.queries,
        per_second=chosen.per_second,
    )
    keep_running(schedule.run(), exits)
