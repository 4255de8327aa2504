"""Has models elsewhere remembered, for a start while they are away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.models.last_known import Recallable
from sidecar.open_tiers import keep_running, sealed
from sidecar.services.known_models import KnownModels

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterable

    from sidecar.config import Settings
    from sidecar.models.types import Embedder, Reranker
    from sidecar.open_tiers import Tiers


async def recall_models(
    settings: Settings,
    models: Iterable[Embedder | Reranker],
    tiers: Tiers,
    exits: contextlib.AsyncExitStack,
) -> None:
    """Gives models that have not answered yet what they were, as far as a tier knows it."""
    elsewhere = [model for model in models if isinstance(model, Recallable)]
    lower = [
        tier
        for tier in (
            sealed(tiers.warm, tiers.seals, "warm"),
            sealed(tiers.disk, tiers.seals, "disk"),
        )
        if tier is not None
    ]
    if not elsewhere or not lower:
        return
    known = KnownModels(elsewhere, lower, settings.cache.prefix)
    await known.look()
    # What was heard last is written before the tiers end.
    exits.push_async_callback(known.look)
    keep_running(known.run(), exits)
