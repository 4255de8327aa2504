"""Opens what computes the misses: models and rerankers, here or behind other sidecars."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import structlog

from sidecar.models.cross_encoder import CrossEncoderReranker
from sidecar.models.errors import SetupError
from sidecar.models.fair_shares import equal_shares
from sidecar.models.late_interaction import LateInteractionReranker
from sidecar.models.local import LocalEmbedder
from sidecar.models.openai_target import is_openai
from sidecar.models.packs import resolve
from sidecar.models.remote import RemoteEmbedder
from sidecar.models.remote_reranker import RemoteReranker
from sidecar.models.router import ModelRouter
from sidecar.open_openai import open_openai_models
from sidecar.units import NAME_PATTERN

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Container
    from pathlib import Path

    from sidecar.config import Settings
    from sidecar.models.fair_shares import Share
    from sidecar.models.types import Embedder, Reranker
    from sidecar.models.upstream_channel import UpstreamAccess

MAXSIM = "maxsim"

_log = structlog.get_logger()


async def open_models(
    settings: Settings,
    upstream: UpstreamAccess,
    exits: contextlib.AsyncExitStack,
    share: Share = equal_shares,
) -> ModelRouter:
    """The models by their names. ``share`` is the weight of a namespace. Raises `SetupError`."""
    if is_openai(settings.encoder.target):
        return ModelRouter(await open_openai_models(settings, exits))
    models: dict[str, Embedder] = {}
    for pack in settings.model.packs:
        if settings.encoder.target == "local":
            folder = resolve(pack, settings.model.folder)
            check_name(folder.name, models, "model.packs")
            local = await _load_local(settings, folder, share)
            exits.push_async_callback(local.close)
            models[local.info.name] = local
        else:
            check_name(pack, models, "model.packs")
            remote = RemoteEmbedder(
                pack,
                settings.encoder.target,
                queue_inputs=settings.encoder.queue_inputs,
                timeout=settings.encoder.timeout,
                access=upstream,
            )
            exits.push_async_callback(remote.close)
            await remote.start()
            models[pack] = remote
    return ModelRouter(models)


def check_name(name: str, taken: Container[str], setting: str) -> None:
    """Raises `SetupError` for what cannot be the name of a model, or is that of another one."""
    if name in (".", "..") or not re.fullmatch(NAME_PATTERN, name):
        raise SetupError(
            f"{setting}: {name!r} cannot be the name of a model, which is that of its folder and"
            " has 1 to 64 letters, digits, '.', '_' or '-': rename the folder, or link to it under"
            " another name"
        )
    if name in taken:
        raise SetupError(
            f"{setting}: two models have the name {name}: leave one out, or rename its folder, or"
            " link to it under another name"
        )


async def _load_local(settings: Settings, folder: Path, share: Share) -> LocalEmbedder:
    embedder = await asyncio.to_thread(
        LocalEmbedder.load,
        folder,
        folder.name,
        provider=settings.model.provider,
        threads=settings.model.threads or None,
        batch_tokens=settings.encoder.batch_tokens or None,
        queue_inputs=settings.encoder.queue_inputs,
        share=share,
    )
    info = embedder.info
    _log.info("model loaded", model=info.name, version=info.version, runs_on=info.runs_on)
    return embedder


async def open_rerankers(
    settings: Settings,
    models: ModelRouter,
    upstream: UpstreamAccess,
    exits: contextlib.AsyncExitStack,
    share: Share = equal_shares,
) -> dict[str, Reranker]:
    """The rerankers by their names. ``share`` is the weight of a namespace. Raises `SetupError`."""
    rerankers: dict[str, Reranker] = {}
    for name in settings.model.rerankers:
        if settings.encoder.target == "local" or is_openai(settings.encoder.target):
            reranker = await _load_reranker(settings, name, models, share)
            if reranker is None:
                continue
            rerankers[reranker.info.name] = reranker
        else:
            theirs = f"{models.names()[0]}-maxsim" if name == MAXSIM else name
            remote = RemoteReranker(
                theirs,
                settings.encoder.target,
                queue_pairs=settings.encoder.queue_inputs,
                timeout=settings.encoder.timeout,
                access=upstream,
            )
            await remote.start()
            reranker = rerankers[theirs] = remote
        exits.push_async_callback(reranker.close)
    return rerankers


async def _load_reranker(
    settings: Settings, name: str, models: ModelRouter, share: Share
) -> Reranker | None:
    if name != MAXSIM:
        folder = resolve(name, settings.model.folder)
        return await asyncio.to_thread(
            CrossEncoderReranker.load,
            folder,
            folder.name,
            provider=settings.model.provider,
            threads=settings.model.threads or None,
            queue_pairs=settings.encoder.queue_inputs,
            share=share,
        )
    first = next(iter(models))
    if not isinstance(first, LocalEmbedder):
        _log.warning("there is no reranker", reason="maxsim needs a model of this sidecar")
        return None
    try:
        return LateInteractionReranker(first)
    except SetupError as error:
        # It is the default: who does not rerank must not be stopped by it.
        _log.warning("there is no reranker", reason=str(error))
        return None
